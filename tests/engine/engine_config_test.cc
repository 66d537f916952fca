#include "engine/engine_config.h"

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

using Json = nlohmann::json;

const std::string kSource = RINGSERVE_SOURCE_DIR;

Json Sound() {
  return Json::parse(R"({
    "model": {"name": "m", "path": "folder", "dtype": "auto"},
    "rings": {"buffer_size": 1024, "block_size": 64, "sink_size": 0, "overflow": "refuse",
              "backward_size": 0},
    "attention": {"tile_size": 64, "head_tile_size": 0, "tile_order": "auto"},
    "scheduler": {"prefill_size": 512, "max_batch": 8, "max_queue": 16, "max_token_gap_ms": 0},
    "memory": {"device_bytes": 0, "pinned_bytes": 0, "disk_path": "", "disk_bytes": 0},
    "sessions": {"max_sessions": 20, "idle_timeout_s": 60,
                 "share_prefixes": true, "prefix_groups": [["ann", "bob"], ["eve"]]},
    "speculation": {"method": "lookup", "max_draft": 5, "min_match": 2, "draft_path": ""},
    "device": "cpu", "num_threads": 3})");
}

EngineConfig Parse(const Json& json) {
  const auto config = ParseEngineConfig(json.dump(), "/base");
  INFO(config.status().ToString());
  REQUIRE(config.ok());
  return *config;
}

std::string Error(const std::string& text) {
  const auto config = ParseEngineConfig(text, "/base");
  REQUIRE_FALSE(config.ok());
  CHECK(config.status().code() == absl::StatusCode::kInvalidArgument);
  return std::string(config.status().message());
}

// The error after one value of a section is replaced.
std::string Error(std::string_view section, std::string_view key, const Json& value) {
  Json json = Sound();
  json[std::string(section)][std::string(key)] = value;
  return Error(json.dump());
}

TEST_CASE("Every key of a sound config is read") {
  const EngineConfig config = Parse(Sound());
  CHECK(config.model.name == "m");
  CHECK(config.model.path == "/base/folder");
  CHECK(config.model.dtype == DTypePolicy::kAuto);
  CHECK(config.rings.buffer_size == 1024);
  CHECK(config.rings.block_size == 64);
  CHECK(config.rings.sink_size == 0);
  CHECK(config.rings.overflow == OverflowPolicy::kRefuse);
  CHECK(config.rings.backward_size == 0);
  CHECK(config.attention.tile_size == 64);
  CHECK(config.attention.head_tile_size == 0);
  CHECK(config.attention.tile_order == TileOrderPolicy::kAuto);
  CHECK(config.scheduler.prefill_size == 512);
  CHECK(config.scheduler.max_batch == 8);
  CHECK(config.scheduler.max_queue == 16);
  CHECK(config.scheduler.max_token_gap_ms == 0);
  CHECK(config.memory.device_bytes == 0);
  CHECK(config.memory.pinned_bytes == 0);
  CHECK(config.sessions.max_sessions == 20);
  CHECK(config.sessions.idle_timeout_s == 60);
  CHECK(config.sessions.share_prefixes);
  CHECK(config.sessions.prefix_groups ==
        std::vector<std::vector<std::string>>{{"ann", "bob"}, {"eve"}});
  for (const char* const bad : {R"("ann")", R"([3])", R"([["ann"], ["ann"]])", R"([[1]])"}) {
    CHECK(Error("sessions", "prefix_groups", Json::parse(bad)) ==
          "sessions.prefix_groups: not a list of lists of names, each in one place only");
  }
  CHECK(config.speculation.method == SpeculationMethod::kLookup);
  CHECK(config.speculation.max_draft == 5);
  CHECK(config.speculation.min_match == 2);
  CHECK(config.device == DevicePolicy::kCpu);
  CHECK(config.num_threads == 3);
}

TEST_CASE("Enums are read in every spelling") {
  Json json = Sound();
  json["rings"]["overflow"] = "slide";
  json["rings"]["sink_size"] = 64;
  json["model"]["dtype"] = "f32";
  json["attention"]["tile_order"] = "k_major";
  json["device"] = "cuda";
  const EngineConfig config = Parse(json);
  CHECK(config.rings.overflow == OverflowPolicy::kSlide);
  CHECK(config.rings.sink_size == 64);
  CHECK(config.model.dtype == DTypePolicy::kF32);
  CHECK(config.attention.tile_order == TileOrderPolicy::kKMajor);
  CHECK(config.device == DevicePolicy::kCuda);
  json["model"]["dtype"] = "bf16";
  json["attention"]["tile_order"] = "q_major";
  CHECK(Parse(json).model.dtype == DTypePolicy::kBf16);
  json["model"]["dtype"] = "f16";
  CHECK(Parse(json).model.dtype == DTypePolicy::kF16);
  CHECK(Parse(json).attention.tile_order == TileOrderPolicy::kQMajor);
}

TEST_CASE("Defaults of answers may be left out, in whole or in part") {
  Json json = Sound();
  CHECK_FALSE(Parse(json).generation.temperature.has_value());
  json["generation"] = Json::parse(R"({"temperature": 0.5, "top_k": null, "max_tokens": 7})");
  const EngineConfig config = Parse(json);
  CHECK(config.generation.temperature == 0.5F);
  CHECK_FALSE(config.generation.top_k.has_value());
  CHECK(config.generation.max_tokens == 7);
  CHECK(Parse(Json::parse(EngineConfigJson(config))).generation.max_tokens == 7);
  json["generation"] = Json::parse(
      R"({"top_k": 0, "top_p": 1, "min_p": 0.25, "repetition_penalty": 10, "temperature": 100})");
  CHECK(Parse(json).generation.top_k == 0);
  CHECK(Parse(json).generation.min_p == 0.25F);
  CHECK(Error("generation", "top_k", -1) == "generation.top_k: -1 is not in [0, 2147483647]");
  CHECK(Error("generation", "temperature", 101) ==
        "generation.temperature: 101 is not in [0, 100]");
  CHECK(Error("generation", "top_p", 0) == "generation.top_p: 0 is not in (0, 1]");
  CHECK(Error("generation", "top_p", 1e-60) == "generation.top_p: 1e-60 is not in (0, 1]");
  CHECK(Error("generation", "min_p", 1.5) == "generation.min_p: 1.5 is not in [0, 1]");
  CHECK(Error("generation", "repetition_penalty", 0) ==
        "generation.repetition_penalty: 0 is not in (0, 10]");
  CHECK(Error("generation", "max_tokens", 0) ==
        "generation.max_tokens: 0 is not in [1, 2147483647]");
  CHECK(Error("generation", "typical_p", 1) == "generation.typical_p: unknown key");
  json["generation"] = 7;
  CHECK(Error(json.dump()).starts_with("generation: "));
}

TEST_CASE("Every key is required and no other is let in") {
  const Json sound = Sound();
  for (const auto& [section, value] : sound.items()) {
    Json json = sound;
    json.erase(section);
    CHECK(Error(json.dump()) == section + ": missing");
    if (!value.is_object()) {
      continue;
    }
    for (const auto& [key, unused] : value.items()) {
      json = sound;
      json[section].erase(key);
      CHECK(Error(json.dump()) == section + "." + key + ": missing");
    }
    json = sound;
    json[section]["extra"] = 1;
    CHECK(Error(json.dump()) == section + ".extra: unknown key");
    json[section] = 7;
    CHECK(Error(json.dump()) == section + ": number is not an object");
  }
  Json json = sound;
  json["rings "] = 1;
  CHECK(Error(json.dump()) == "rings : unknown key");
}

TEST_CASE("Text that is no strict JSON object is refused") {
  CHECK(Error("").starts_with("not strict JSON: byte 1: "));
  CHECK(Error("[]") == "(root): array is not an object");
  CHECK(Error(R"({"model": {"name": 1, "name": 2}})") ==
        "not strict JSON: model.name: duplicate key");
  CHECK(Error(Sound().dump() + ",").starts_with("not strict JSON: byte "));
}

TEST_CASE("Values out of range and of wrong type are named") {
  CHECK(Error("model", "name", "") == "model.name: not 1 to 128 of A-Z a-z 0-9 . _ / -");
  CHECK(Error("model", "name", "a b") == "model.name: not 1 to 128 of A-Z a-z 0-9 . _ / -");
  CHECK(Error("model", "name", "\xc3\xa9") == "model.name: not 1 to 128 of A-Z a-z 0-9 . _ / -");
  CHECK(Error("model", "name", std::string(129, 'a')) ==
        "model.name: not 1 to 128 of A-Z a-z 0-9 . _ / -");
  CHECK(Error("model", "name", 5) == "model.name: 5 is not a string");
  CHECK(Error("model", "path", "") == "model.path: not 1 to 4096 bytes");
  CHECK(Error("model", "path", std::string("a\0b", 3)) == "model.path: not 1 to 4096 bytes");
  CHECK(Error("model", "dtype", "f8") == "model.dtype: \"f8\" is not one of: auto, bf16, f16, f32");
  CHECK(Error("rings", "buffer_size", 8) == "rings.buffer_size: 8 is not in [16, 1073741824]");
  CHECK(Error("rings", "buffer_size", int64_t{1} << 40) ==
        "rings.buffer_size: 1099511627776 is not in [16, 1073741824]");
  CHECK(Error("rings", "buffer_size", 1024.0) == "rings.buffer_size: 1024.0 is not an integer");
  CHECK(Error("rings", "buffer_size", "1024") == "rings.buffer_size: \"1024\" is not an integer");
  CHECK(Error("rings", "buffer_size", true) == "rings.buffer_size: true is not an integer");
  CHECK(Error("rings", "buffer_size", 1000) ==
        "rings.buffer_size: 1000 is not a multiple of block_size 64");
  CHECK(Error("rings", "buffer_size", 64) == "rings.buffer_size: 64 is less than two blocks of 64");
  CHECK(Error("rings", "block_size", 4) == "rings.block_size: 4 is not in [8, 256]");
  CHECK(Error("rings", "block_size", 48) == "rings.block_size: 48 is not a power of two");
  CHECK(Error("rings", "sink_size", -1) == "rings.sink_size: -1 is not in [0, 64]");
  CHECK(Error("rings", "sink_size", 65) == "rings.sink_size: 65 is not in [0, 64]");
  CHECK(Error("rings", "sink_size", 4) ==
        "rings.sink_size: 4 needs overflow \"slide\"; a context that never slides keeps its first "
        "tokens anyway");
  CHECK(Error("rings", "overflow", "drop") ==
        "rings.overflow: \"drop\" is not one of: refuse, slide");
  CHECK(Error("rings", "backward_size", 64) ==
        "rings.backward_size: 64 must be 0: this version has no backward ring yet");
  CHECK(Error("attention", "tile_size", 128) ==
        "attention.tile_size: 128 does not divide rings.block_size 64");
  CHECK(Error("attention", "tile_size", 24) == "attention.tile_size: 24 is not a power of two");
  CHECK(Error("attention", "tile_size", 0) == "attention.tile_size: 0 is not in [8, 256]");
  CHECK(Error("attention", "head_tile_size", -1) ==
        "attention.head_tile_size: -1 is not in [0, 1024]");
  CHECK(Error("attention", "tile_order", "any") ==
        "attention.tile_order: \"any\" is not one of: auto, q_major, k_major");
  CHECK(Error("scheduler", "prefill_size", 0) == "scheduler.prefill_size: 0 is not in [1, 65536]");
  CHECK(Error("scheduler", "max_batch", 0) == "scheduler.max_batch: 0 is not in [1, 4096]");
  CHECK(Error("scheduler", "max_batch", 4097) == "scheduler.max_batch: 4097 is not in [1, 4096]");
  CHECK(Error("scheduler", "max_queue", 0) == "scheduler.max_queue: 0 is not in [1, 1048576]");
  CHECK(Error("scheduler", "max_token_gap_ms", 3'600'001) ==
        "scheduler.max_token_gap_ms: 3600001 is not in [0, 3600000]");
  CHECK(Error("memory", "device_bytes", -1) ==
        "memory.device_bytes: -1 is not in [0, 1125899906842624]");
  CHECK(Error("memory", "device_bytes", 1e18).starts_with("memory.device_bytes: 1e+18 is not an "));
  CHECK(Error("memory", "disk_bytes", 5) ==
        "memory.disk_bytes: 5 beside disk_path \"\"; give both, or \"\" and 0 for no disk tier");
  CHECK(Error("memory", "disk_path", "x") ==
        "memory.disk_bytes: 0 beside disk_path \"x\"; give both, or \"\" and 0 for no disk tier");
  CHECK(Error("memory", "pinned_bytes", -1) ==
        "memory.pinned_bytes: -1 is not in [0, 1125899906842624]");
  CHECK(Error("speculation", "method", "guess") ==
        "speculation.method: \"guess\" is not one of: off, lookup, draft");
  CHECK(Error("speculation", "method", "draft") == "speculation.draft_path: not 1 to 4096 bytes");
  CHECK(Error("speculation", "draft_path", "small") ==
        "speculation.draft_path: is for method \"draft\" alone; say \"\"");
  CHECK(Error("speculation", "max_draft", 0) == "speculation.max_draft: 0 is not in [1, 64]");
  CHECK(Error("speculation", "min_match", 9) == "speculation.min_match: 9 is not in [1, 8]");
  Json json = Sound();
  json["device"] = "gpu";
  CHECK(Error(json.dump()) == "device: \"gpu\" is not one of: auto, cpu, cuda");
  json["device"] = nullptr;
  CHECK(Error(json.dump()) == "device: null is not a string");
  json["device"] = "cpu";
  json["num_threads"] = 1025;
  CHECK(Error(json.dump()) == "num_threads: 1025 is not in [0, 1024]");
}

TEST_CASE("Model paths count from the config file's folder") {
  Json json = Sound();
  json["model"]["path"] = "../models/x";
  CHECK(Parse(json).model.path == "/models/x");
  json["model"]["path"] = "/abs";
  CHECK(Parse(json).model.path == "/abs");
  const auto relative = ParseEngineConfig(Sound().dump(), "");
  REQUIRE(relative.ok());
  CHECK(relative->model.path == "folder");
  json["speculation"]["method"] = "draft";
  json["speculation"]["draft_path"] = "../models/small";
  CHECK(Parse(json).speculation.draft_path == "/models/small");
}

TEST_CASE("All problems of a file are told at once, behind its name") {
  const TempDir dir;
  Json json = Sound();
  json["rings"]["buffer_size"] = 1000;
  json["rings"]["sink_size"] = 4;
  json["scheduler"].erase("max_batch");
  json["scheduler"]["max_bach"] = 8;
  json["device"] = "tpu";
  const std::string path = dir.Write("c.json", json.dump());
  Problems problems;
  ReadEngineConfig(path, problems);
  REQUIRE(problems.list().size() == 5);
  CHECK(problems.list()[0] ==
        path + ": rings.buffer_size: 1000 is not a multiple of block_size 64");
  CHECK(problems.list()[1].starts_with(path + ": rings.sink_size: 4 needs overflow"));
  CHECK(problems.list()[2] == path + ": scheduler.max_batch: missing");
  CHECK(problems.list()[3] == path + ": scheduler.max_bach: unknown key");
  CHECK(problems.list()[4] == path + ": device: \"tpu\" is not one of: auto, cpu, cuda");
  CHECK(LoadEngineConfig(path).status().message() == problems.list().front());
  CHECK(LoadEngineConfig(dir / "none").status().message() == (dir / "none") + ": no such file");
}

TEST_CASE("A config survives being written and read") {
  for (const char* overflow : {"refuse", "slide"}) {
    Json json = Sound();
    json["rings"]["overflow"] = overflow;
    json["rings"]["sink_size"] = json["rings"]["overflow"] == "slide" ? 4 : 0;
    const EngineConfig config = Parse(json);
    const std::string text = EngineConfigJson(config);
    const auto again = ParseEngineConfig(text, "/elsewhere");
    REQUIRE(again.ok());
    CHECK(EngineConfigJson(*again) == text);
    json["model"]["path"] = "/base/folder";
    CHECK(Json::parse(text) == json);
  }
}

TEST_CASE("The configs of the repository are sound and lead to their models") {
  const auto config = LoadEngineConfig(kSource + "/configs/fairytale-5m.json");
  INFO(config.status().ToString());
  REQUIRE(config.ok());
  CHECK(config->model.name == "fairytale-5m");
  CHECK(std::filesystem::exists(config->model.path + "/config.json"));
}

}  // namespace
}  // namespace ringserve
