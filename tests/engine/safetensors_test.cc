#include "engine/model/safetensors.h"

#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <sys/stat.h>

#include <fmt/format.h>

#include "tests/support/catch.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

// What is wrong with a header that has `data_bytes` bytes after it; "" if nothing.
std::string HeaderError(const std::string& header, uint64_t data_bytes) {
  const auto entries = ParseSafetensorsHeader(header, data_bytes, "f");
  return entries.ok() ? "" : std::string(entries.status().message());
}

std::string OpenError(const std::string& path) {
  const auto file = SafetensorsFile::Open(path);
  return file.ok() ? "" : std::string(file.status().message());
}

std::string Text(std::span<const std::byte> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

TEST_CASE("A sound file gives names, shapes and bytes") {
  const TempDir dir;
  const std::string path = dir.Write("a.safetensors",
                                     SafetensorsBytes({{"w", "F32", {1, 2}, "abcdefgh"},
                                                       {"empty", "F64", {0, 3}, ""},
                                                       {"scalar", "BF16", {}, "xy"},
                                                       {"bytes", "U8", {3}, "123"}}));
  const auto file = SafetensorsFile::Open(path);
  REQUIRE(file.ok());
  std::map<std::string, FileTensor> tensors;
  for (size_t i = 0; i < (*file)->size(); ++i) {
    tensors.emplace((*file)->tensor(i).name, (*file)->tensor(i));
  }
  REQUIRE(tensors.size() == 4);
  CHECK(Text(tensors.at("w").data) == "abcdefgh");
  CHECK(tensors.at("w").dtype == "F32");
  CHECK(std::vector<int64_t>(tensors.at("w").shape.begin(), tensors.at("w").shape.end()) ==
        std::vector<int64_t>{1, 2});
  CHECK(tensors.at("empty").data.empty());
  CHECK(tensors.at("scalar").shape.empty());
  CHECK(Text(tensors.at("scalar").data) == "xy");
  CHECK(Text(tensors.at("bytes").data) == "123");
  CHECK(tensors.at("bytes").file == path);
  // Advice changes no byte.
  SafetensorsFile::Prefetch(tensors.at("w").data);
  SafetensorsFile::Release(tensors.at("w").data);
  CHECK(Text(tensors.at("w").data) == "abcdefgh");
}

TEST_CASE("Metadata is skipped and headers may be padded") {
  CHECK(HeaderError(R"({"__metadata__":{"format":"pt","x":""},"a":{"dtype":"U8","shape":[2],)"
                    R"("data_offsets":[0,2]}}      )",
                    2) == "");
  CHECK(HeaderError("{}", 0) == "");
}

TEST_CASE("A header that is not the format's JSON is refused") {
  const auto tensor = [](std::string_view body) { return fmt::format(R"({{"a":{{{}}}}})", body); };
  CHECK(HeaderError("", 0) == "f: header does not begin with {");
  CHECK(HeaderError(" {}", 0) == "f: header does not begin with {");
  CHECK(HeaderError("[]", 0) == "f: header does not begin with {");
  CHECK(HeaderError("{", 0).starts_with("f: header byte 2: "));
  CHECK(HeaderError("{} x", 0).starts_with("f: header byte 4: "));
  CHECK(HeaderError("{\"\xff\":1}", 0).starts_with("f: header byte"));
  CHECK(HeaderError(R"({"a":1})", 0) == R"(f: tensor "a": a number has no place here)");
  CHECK(HeaderError(R"({"a":null})", 0) == R"(f: tensor "a": null has no place here)");
  CHECK(HeaderError(R"({"a":true})", 0) == R"(f: tensor "a": true or false has no place here)");
  CHECK(HeaderError(R"({"a":"x"})", 0) == R"(f: tensor "a": a string has no place here)");
  CHECK(HeaderError(R"({"a":[]})", 0) == R"(f: tensor "a": a list has no place here)");
  CHECK(HeaderError(R"({"a":{}})", 0) == R"(f: tensor "a": dtype is missing)");
  CHECK(HeaderError(tensor(R"("dtype":"U8","shape":[])"), 0) ==
        R"(f: tensor "a": data_offsets is missing)");
  CHECK(HeaderError(tensor(R"("dtype":"U8","data_offsets":[0,0])"), 0) ==
        R"(f: tensor "a": shape is missing)");
  CHECK(HeaderError(tensor(R"("dtype":5)"), 0) ==
        R"(f: tensor "a": "dtype": a number has no place here)");
  CHECK(HeaderError(tensor(R"("dtype":{})"), 0) ==
        R"(f: tensor "a": "dtype": an object has no place here)");
  CHECK(HeaderError(tensor(R"("extra":5)"), 0) == R"(f: tensor "a": "extra": unknown key)");
  CHECK(HeaderError(tensor(R"("dtype":"U8","dtype":"U8")"), 0) ==
        R"(f: tensor "a": "dtype": duplicate key)");
  CHECK(HeaderError(tensor(R"("shape":[-1])"), 0) == R"(f: tensor "a": "shape": -1 is negative)");
  CHECK(HeaderError(tensor(R"("shape":[1.5])"), 0) ==
        R"(f: tensor "a": "shape": 1.5 is not an integer)");
  CHECK(HeaderError(tensor(R"("shape":[[1]])"), 0) ==
        R"(f: tensor "a": "shape": a list has no place here)");
  CHECK(HeaderError(tensor(R"("shape":["1"])"), 0) ==
        R"(f: tensor "a": "shape": a string has no place here)");
  CHECK(HeaderError(tensor(R"("shape":[18446744073709551615])"), 0) ==
        R"(f: tensor "a": "shape": dimension 18446744073709551615 is out of range)");
  CHECK(HeaderError(tensor(R"("shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1])"), 0) ==
        R"(f: tensor "a": "shape": more than 16 dimensions)");
  CHECK(HeaderError(tensor(R"("data_offsets":[0])"), 0) ==
        R"(f: tensor "a": "data_offsets": not two offsets)");
  CHECK(HeaderError(tensor(R"("data_offsets":[0,1,2])"), 0) ==
        R"(f: tensor "a": "data_offsets": not two offsets)");
  CHECK(HeaderError(R"({"__metadata__":{"a":1}})", 0) ==
        R"(f: tensor "__metadata__": a number has no place here)");
  CHECK(HeaderError(R"({"__metadata__":{},"__metadata__":{}})", 0) ==
        R"(f: tensor "__metadata__": duplicate name)");
  CHECK_FALSE(HeaderError(std::string(1 << 20, '{'), 0).empty());
  CHECK_FALSE(HeaderError(R"({"a":)" + std::string(1 << 20, '['), 0).empty());
}

std::string Entry(std::string_view name,
                  std::string_view dtype,
                  std::string_view shape,
                  std::string_view offsets) {
  return fmt::format(
      R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{}]}})", name, dtype, shape, offsets);
}

TEST_CASE("A header that lies about its data is refused") {
  const auto one = [](std::string_view dtype, std::string_view shape, std::string_view offsets) {
    std::string header = fmt::format("{{{}}}", Entry("a", dtype, shape, offsets));
    header.append((8 - header.size() % 8) % 8, ' ');
    return header;
  };
  CHECK(HeaderError(one("F32", "2", "0,8"), 8) == "");
  CHECK(HeaderError(one("F4", "2", "0,1"), 1) == R"(f: tensor "a": dtype "F4" is not known)");
  CHECK(HeaderError(one("f32", "2", "0,8"), 8) == R"(f: tensor "a": dtype "f32" is not known)");
  CHECK(HeaderError(one("F32", "2", "8,0"), 8) ==
        R"(f: tensor "a": begins at offset 8, after its end 0)");
  CHECK(HeaderError(one("F32", "2", "0,8"), 7) ==
        R"(f: tensor "a": ends at offset 8 of 7 bytes of data: the file is cut or lies)");
  CHECK(HeaderError(one("F32", "2", "18446744073709551608,18446744073709551615"), 8) ==
        R"(f: tensor "a": ends at offset 18446744073709551615 of 8 bytes of data: )"
        "the file is cut or lies");
  CHECK(HeaderError(one("F32", "3", "0,8"), 8) ==
        R"(f: tensor "a": has 8 bytes where dtype and shape need 12)");
  CHECK(HeaderError(one("F32", "4294967296,4294967296", "0,0"), 0) ==
        R"(f: tensor "a": shape times element size overflows)");
  CHECK(HeaderError(one("F64", "2305843009213693952", "0,0"), 0) ==
        R"(f: tensor "a": shape times element size overflows)");
  CHECK(HeaderError(one("F32", "9223372036854775807,0", "0,0"), 0) ==
        R"(f: tensor "a": shape times element size overflows)");
  CHECK(HeaderError(one("F32", "2", "0,8") + " ", 8) ==
        R"(f: tensor "a": begins at byte 65 of the file, no multiple of its element size 4)");
}

TEST_CASE("Tensors must follow each other from the first byte to the last") {
  const auto two = [](std::string_view offsets_a, std::string_view offsets_b) {
    return fmt::format(
        "{{{},{}}}", Entry("a", "U8", "4", offsets_a), Entry("b", "U8", "4", offsets_b));
  };
  CHECK(HeaderError(two("0,4", "4,8"), 8) == "");
  CHECK(HeaderError(two("4,8", "0,4"), 8) == "");
  CHECK(HeaderError(two("0,4", "3,7"), 7) ==
        R"(f: tensor "b": begins at offset 3, inside tensor "a", which ends at 4)");
  CHECK(HeaderError(two("0,4", "0,4"), 4) ==
        R"(f: tensor "b": begins at offset 0, inside tensor "a", which ends at 4)");
  CHECK(HeaderError(two("0,4", "5,9"), 9) ==
        R"(f: tensor "b": begins at offset 5, the 1 bytes before it belong to no tensor)");
  CHECK(HeaderError(two("1,5", "5,9"), 9) ==
        R"(f: tensor "a": begins at offset 1, the 1 bytes before it belong to no tensor)");
  CHECK(HeaderError(two("0,4", "4,8"), 10) == "f: the last 2 bytes of data belong to no tensor");
  const std::string twice =
      fmt::format("{{{},{}}}", Entry("a", "U8", "4", "0,4"), Entry("a", "U8", "4", "4,8"));
  CHECK(HeaderError(twice, 8) == R"(f: tensor "a": duplicate name)");
}

TEST_CASE("Names from a file are safe to print") {
  CHECK(HeaderError(R"({"\u001b[31m\n":1})", 0) ==
        R"(f: tensor "\u001b[31m\n": a number has no place here)");
  const std::string error = HeaderError(fmt::format(R"({{"{}":1}})", std::string(100000, 'x')), 0);
  CHECK(error.size() < 300);
  const std::string parse_error = HeaderError("{\"" + std::string(100000, 'x'), 0);
  CHECK(parse_error.size() < 400);
}

TEST_CASE("A file whose frame lies is refused") {
  const TempDir dir;
  const std::string path = dir / "f";
  CHECK(OpenError(path) == path + ": open: No such file or directory");
  CHECK(OpenError(dir.path()) == dir.path() + ": not a regular file");
  dir.Write("f", "");
  CHECK(OpenError(path) == path + ": 0 bytes, too short for a header");
  dir.Write("f", "1234567");
  CHECK(OpenError(path) == path + ": 7 bytes, too short for a header");
  dir.Write("f", SafetensorsBytes("{}", "", 3));
  CHECK(OpenError(path) == path + ": header of 3 bytes in a file of 10");
  dir.Write("f", SafetensorsBytes("{}", "", 100'000'001));
  CHECK(OpenError(path) == path + ": header of 100000001 bytes, more than the limit of 100000000");
  dir.Write("f", SafetensorsBytes("{}", "", ~uint64_t{0}));
  CHECK(OpenError(path) ==
        path + ": header of 18446744073709551615 bytes, more than the limit of 100000000");
  dir.Write("f", SafetensorsBytes("{}", "", 0));
  CHECK(OpenError(path) == path + ": header does not begin with {");
  const std::string sound = SafetensorsBytes({{"w", "F32", {2}, "abcdefgh"}});
  dir.Write("f", sound);
  CHECK(OpenError(path) == "");
  dir.Write("f", sound.substr(0, sound.size() - 1));
  CHECK(OpenError(path) ==
        path + ": tensor \"w\": ends at offset 8 of 7 bytes of data: the file is cut or lies");
  const std::string fifo = dir / "fifo";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  CHECK(OpenError(fifo) == fifo + ": not a regular file");
}

TEST_CASE("No mutation of a header is more than an error") {
  const std::string sound = SafetensorsBytes({{"weight", "F32", {2, 3}, std::string(24, 'x')},
                                              {"bias", "BF16", {4}, std::string(8, 'y')}});
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, sound.data(), sizeof(header_bytes));
  const std::string header = sound.substr(8, header_bytes);
  std::mt19937 random(7);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string mutated = header;
    for (uint32_t edits = 1 + random() % 4; edits > 0; --edits) {
      const size_t at = random() % mutated.size();
      switch (random() % 3) {
        case 0:
          mutated[at] = static_cast<char>(random());
          break;
        case 1:
          mutated.erase(at, 1 + random() % 4);
          break;
        default:
          mutated.insert(at, mutated.substr(random() % mutated.size(), random() % 12));
      }
    }
    const auto entries = ParseSafetensorsHeader(mutated, 32, "f");
    if (!entries.ok()) {
      continue;
    }
    ++accepted;
    uint64_t covered = 0;
    for (const TensorEntry& entry : *entries) {
      REQUIRE(entry.begin == covered);
      REQUIRE(entry.end >= entry.begin);
      covered = entry.end;
    }
    REQUIRE(covered == 32);
  }
  CHECK(accepted < 20000);
}

std::string Index(std::string_view weight_map) {
  return fmt::format(R"({{"metadata":{{"total_size":8}},"weight_map":{}}})", weight_map);
}

std::string CheckpointError(const TempDir& dir) {
  const auto checkpoint = Checkpoint::Open(dir.path());
  return checkpoint.ok() ? "" : std::string(checkpoint.status().message());
}

TEST_CASE("A checkpoint is one file, or an index and its shards") {
  const TempDir dir;
  CHECK(Checkpoint::Open(dir / "none").status().message() == (dir / "none") + ": not a folder");
  CHECK(CheckpointError(dir) ==
        dir.path() + ": neither model.safetensors nor model.safetensors.index.json is there");
  dir.Write("pytorch_model.bin", "x");
  CHECK(CheckpointError(dir) ==
        dir.path() +
            ": neither model.safetensors nor model.safetensors.index.json is there "
            "(pytorch_model.bin is pickle and never read)");
  dir.Write("model-1.safetensors",
            SafetensorsBytes({{"b", "F32", {1}, "bbbb"}, {"hidden", "F32", {1}, "hhhh"}}));
  dir.Write("blob", SafetensorsBytes({{"a", "F32", {1}, "aaaa"}}));
  std::filesystem::create_symlink("blob", dir / "model-2.safetensors");
  dir.Write("model.safetensors.index.json",
            Index(R"({"a":"model-2.safetensors","b":"model-1.safetensors"})"));
  {
    const auto checkpoint = Checkpoint::Open(dir.path());
    REQUIRE(checkpoint.ok());
    REQUIRE((*checkpoint)->tensors().size() == 2);  // not the one that the index does not name
    CHECK((*checkpoint)->tensors()[0].name == "a");
    CHECK(Text((*checkpoint)->Find("a")->data) == "aaaa");
    CHECK(Text((*checkpoint)->Find("b")->data) == "bbbb");
    CHECK((*checkpoint)->Find("hidden") == nullptr);
    CHECK((*checkpoint)->Find("c") == nullptr);
  }
  dir.Write("model.safetensors", SafetensorsBytes({{"single", "F32", {1}, "ssss"}}));
  const auto single = Checkpoint::Open(dir.path());
  REQUIRE(single.ok());
  CHECK((*single)->Find("single") != nullptr);
  CHECK((*single)->Find("a") == nullptr);
}

TEST_CASE("An index that is broken or points elsewhere is refused") {
  const TempDir dir;
  const std::string index = dir / "model.safetensors.index.json";
  dir.Write("s.safetensors", SafetensorsBytes({{"a", "F32", {1}, "aaaa"}}));
  const auto error = [&](std::string_view text) {
    dir.Write("model.safetensors.index.json", text);
    return CheckpointError(dir);
  };
  CHECK(error(Index(R"({"a":"s.safetensors"})")) == "");
  CHECK(error("{").starts_with(index + ": byte 2: "));
  CHECK(error("[]") == index + ": weight_map is not an object");
  CHECK(error("{}") == index + ": weight_map is not an object");
  CHECK(error(Index("[]")) == index + ": weight_map is not an object");
  CHECK(error(Index(R"({"a":"s.safetensors","a":"s.safetensors"})")) ==
        index + ": weight_map.a: duplicate key");
  CHECK(error(Index(R"({"a":"s.safetensors","b":"s.safetensors"})")) ==
        (dir / "s.safetensors") + ": tensor \"b\": missing, though " + index + " says it is there");
  CHECK(error(Index(R"({"a":"t.safetensors"})")) ==
        (dir / "t.safetensors") + ": open: No such file or directory");
  for (const char* name : {"../s.safetensors",
                           "/etc/passwd",
                           "sub/s",
                           "a\\\\b",
                           "",
                           ".",
                           "..",
                           "s.safetensors\\u0000.txt"}) {
    const std::string message = error(Index(fmt::format(R"({{"a":"{}"}})", name)));
    CHECK(message.starts_with(index + ": weight_map: tensor \"a\": "));
    CHECK(message.ends_with(" is not the name of a file in the folder"));
  }
  CHECK(error(Index(R"({"a":7})")) ==
        index + ": weight_map: tensor \"a\": 7 is not the name of a file in the folder");
}

}  // namespace
}  // namespace ringserve
