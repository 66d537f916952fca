#include "engine/text/tokenizer.h"

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/text/utf8.h"
#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

using nlohmann::json;

std::string InSource(const std::string& path) {
  return RINGSERVE_SOURCE_DIR "/" + path;
}

const Tokenizer& Fairytale() {
  static const auto tokenizer = Tokenizer::Load(InSource("models/fairytale-5m"));
  REQUIRE(tokenizer.ok());
  return **tokenizer;
}

json FixtureJson(const std::string& name) {
  return json::parse(*ReadFile(InSource("tests/fixtures/" + name), 1 << 26));
}

json Pair(const std::string& left, const std::string& right) {
  return json::array({left, right});
}

// A tokenizer with a token for each byte, which tests change before they load it.
json SmallJson() {
  json vocab = json::object();
  int32_t next = 256;
  for (int32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    std::string token;
    AppendUtf8(static_cast<char32_t>(printable ? byte : next++), &token);
    vocab[token] = byte;
  }
  vocab["ab"] = 256;
  vocab["abc"] = 257;
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"},
        {"vocab", vocab},
        {"merges", json::array({Pair("a", "b"), Pair("ab", "c")})}}}};
}

json Scored(const std::string& token, double score) {
  return json::array({token, score});
}

json Added(int32_t id, const std::string& content, bool special) {
  return {{"id", id},
          {"content", content},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", special}};
}

json SplitBy(const std::string& regex) {
  return {{"type", "Sequence"},
          {"pretokenizers",
           {{{"type", "Split"},
             {"pattern", {{"Regex", regex}}},
             {"behavior", "Isolated"},
             {"invert", false}},
            {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
}

using Ids = std::vector<int32_t>;

TEST_CASE("Encode and Decode are Hugging Face's for the embedded model") {
  const json cases = FixtureJson("fairytale-5m/tokenizer_cases.json");
  REQUIRE(cases.size() > 10);
  for (const json& c : cases) {
    INFO(c["text"]);
    CHECK(*Fairytale().Encode(c["text"].get<std::string>(), {}) == c["ids"].get<Ids>());
    CHECK(*Fairytale().Decode(c["ids"].get<Ids>(), false) == c["decoded"].get<std::string>());
  }
}

void CheckCase(const Tokenizer& tokenizer, const json& c) {
  if (c.contains("text")) {
    const EncodeOptions options = {.add_special_tokens = c["add_special_tokens"].get<bool>(),
                                   .parse_special_tokens = c["parse_special_tokens"].get<bool>()};
    CHECK(*tokenizer.Encode(c["text"].get<std::string>(), options) ==
          c["expected"]["ids"].get<Ids>());
    return;
  }
  const bool skip_special = c["skip_special_tokens"].get<bool>();
  const auto expected = c["expected"]["text"].get<std::string>();
  CHECK(*tokenizer.Decode(c["ids"].get<Ids>(), skip_special) == expected);
  Tokenizer::Stream stream(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : c["ids"].get<Ids>()) {
    std::string piece;
    stream.Push(id, &piece);
    CHECK(ValidUtf8Prefix(piece) == piece.size());
    text += piece;
  }
  stream.Finish(&text);
  CHECK(text == expected);
}

TEST_CASE("Encode and Decode are Hugging Face's for tokenizers of every kind") {
  const std::pair<const char*, size_t> files[] = {
      {"tokenizers.json", 40}, {"tokenizer_styles.json", 16}, {"tokenizer_parts.json", 60}};
  for (const auto& [name, min_entries] : files) {
    json entries = FixtureJson(name);
    REQUIRE(entries.size() >= min_entries);
    for (json& entry : entries) {
      INFO(name << ": " << entry["name"]);
      if (entry.contains("model_of")) {
        entry["tokenizer"]["model"] =
            entries[entry["model_of"].get<size_t>()]["tokenizer"]["model"];
      }
      const auto tokenizer = Tokenizer::Parse(entry["tokenizer"].dump());
      REQUIRE(tokenizer.status().ToString() == "OK");
      for (const json& c : entry["cases"]) {
        INFO(c.dump());
        CheckCase(**tokenizer, c);
      }
    }
  }
}

TEST_CASE("bad texts and ids are refused by name") {
  CHECK(Fairytale().Encode("ab\xff", {}).status().message() == "text: not UTF-8 at byte 2");
  CHECK(Fairytale().Encode("\xed\xa0\x80", {}).status().message() == "text: not UTF-8 at byte 0");
  CHECK(Fairytale().Encode("a\xf4\x90\x80\x80", {}).status().code() ==
        absl::StatusCode::kInvalidArgument);
  CHECK(Fairytale().Decode(Ids{1, 4096}, true).status().message() ==
        "token_ids[1]: 4096 is not in [0, 4095]");
  CHECK(Fairytale().Decode(Ids{-1}, true).status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(Fairytale().Encode("", {})->empty());
  CHECK(Fairytale().Decode(Ids{}, true)->empty());
}

TEST_CASE("tokens are described by id") {
  CHECK(Fairytale().vocab_size() == 4096);
  CHECK(Fairytale().IsSpecial(0));
  CHECK_FALSE(Fairytale().IsSpecial(1));
  CHECK_FALSE(Fairytale().IsSpecial(-1));
  CHECK_FALSE(Fairytale().IsSpecial(4096));
  CHECK(Fairytale().TokenBytes(0, false) == "<|endoftext|>");
  CHECK(Fairytale().TokenBytes(0, true).empty());
  CHECK(Fairytale().TokenBytes(221, false) == " ");
  CHECK(Fairytale().TokenBytes(128, false) == "\xc3");
  CHECK(Fairytale().TokenBytes(-1, false).empty());
  CHECK(Fairytale().TokenBytes(4096, false).empty());
}

TEST_CASE("special tokens in a text are text if asked for") {
  CHECK(*Fairytale().Encode("a<|endoftext|>", {}) == Ids{65, 0});
  const auto plain = *Fairytale().Encode("a<|endoftext|>", {.parse_special_tokens = false});
  CHECK(plain.size() > 2);
  CHECK(*Fairytale().Decode(plain, true) == "a<|endoftext|>");
}

TEST_CASE("ids may have holes, which decode to nothing") {
  json file = SmallJson();
  file["model"]["vocab"]["abc"] = 300;
  const auto tokenizer = Tokenizer::Parse(file.dump());
  REQUIRE(tokenizer.ok());
  CHECK((*tokenizer)->vocab_size() == 301);
  CHECK(*(*tokenizer)->Encode("abcab", {}) == Ids{300, 256});
  CHECK(*(*tokenizer)->Decode(Ids{299, 300}, true) == "abc");
}

TEST_CASE("what cannot be done exactly is refused by its path") {
  struct Case {
    std::string error;  // the message begins with it
    std::function<void(json&)> change;
  };

  const std::vector<Case> cases = {
      {"version: \"2.0\"", [](json& f) { f["version"] = "2.0"; }},
      {"truncation: number is not an object", [](json& f) { f["truncation"] = 7; }},
      {"extra: unknown key", [](json& f) { f["extra"] = 1; }},
      {"normalizer.type: \"Other\"",
       [](json& f) {
         f["normalizer"] = {{"type", "Other"}};
       }},
      {"normalizer.normalizers[1].precompiled_charsmap: not base64",
       [](json& f) {
         f["normalizer"] = {
             {"type", "Sequence"},
             {"normalizers",
              {{{"type", "NFC"}}, {{"type", "Precompiled"}, {"precompiled_charsmap", "*"}}}}};
       }},
      {"normalizer.precompiled_charsmap: a trie of 16 bytes in the 0",
       [](json& f) {
         f["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "EAAAAA=="}};
       }},
      {"normalizer.pattern.Regex: at byte 0",
       [](json& f) {
         f["normalizer"] = {{"type", "Replace"}, {"pattern", {{"Regex", "("}}}, {"content", ""}};
       }},
      {"pre_tokenizer.type: \"Other\"", [](json& f) { f["pre_tokenizer"]["type"] = "Other"; }},
      {"pre_tokenizer.add_prefix_space: false does not go with prepend_scheme first",
       [](json& f) {
         f["pre_tokenizer"] = {{"type", "Metaspace"},
                               {"replacement", "_"},
                               {"prepend_scheme", "first"},
                               {"add_prefix_space", false}};
       }},
      {"pre_tokenizer.pretokenizers[0].behavior: \"Other\"",
       [](json& f) {
         f["pre_tokenizer"] = SplitBy("a");
         f["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Other";
       }},
      {"decoder.type: \"CTC\"", [](json& f) { f["decoder"]["type"] = "CTC"; }},
      {"decoder.decoders[1].pattern: a regex after Fuse",
       [](json& f) {
         f["decoder"] = {{"type", "Sequence"},
                         {"decoders",
                          {{{"type", "Fuse"}},
                           {{"type", "Replace"}, {"pattern", {{"Regex", "a"}}}, {"content", ""}}}}};
       }},
      {"decoder.decoders[1].type: ByteFallback after Fuse",
       [](json& f) {
         f["decoder"] = {{"type", "Sequence"},
                         {"decoders", {{{"type", "ByteLevel"}}, {{"type", "ByteFallback"}}}}};
       }},
      {"post_processor.cls: missing",
       [](json& f) {
         f["post_processor"] = {{"type", "BertProcessing"}};
       }},
      {"post_processor.single[0].Sequence.id: a template",
       [](json& f) {
         f["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", {{{"Sequence", {{"id", "B"}, {"type_id", 0}}}}}},
                                {"special_tokens", json::object()}};
       }},
      {"post_processor.special_tokens.x: missing",
       [](json& f) {
         f["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", {{{"SpecialToken", {{"id", "x"}, {"type_id", 0}}}}}},
                                {"special_tokens", json::object()}};
       }},
      {"post_processor: there is no token 999",
       [](json& f) {
         f["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single",
                                 {{{"SpecialToken", {{"id", "x"}, {"type_id", 0}}}},
                                  {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
                                {"special_tokens", {{"x", {{"id", "x"}, {"ids", {999}}}}}}};
       }},
      {"model.type: \"Other\"", [](json& f) { f["model"]["type"] = "Other"; }},
      {"model.vocab: not an array",
       [](json& f) {
         f["model"] = {{"type", "Unigram"}, {"vocab", 1}};
       }},
      {"model.vocab[1]: not [token, score]",
       [](json& f) {
         f["model"] = {{"type", "Unigram"}, {"vocab", {Scored("a", 0), {"b"}}}};
       }},
      {"model.unk_id: missing",
       [](json& f) {
         f["model"] = {{"type", "Unigram"}, {"vocab", json::array({Scored("a", 0)})}};
       }},
      {"model.unk_id: 1 is not in [0, 0]",
       [](json& f) {
         f["model"] = {
             {"type", "Unigram"}, {"unk_id", 1}, {"vocab", json::array({Scored("a", 0)})}};
       }},
      {"model.unk_token: \"[UNK]\" is not",
       [](json& f) {
         f["model"] = {{"type", "WordPiece"}, {"unk_token", "[UNK]"}, {"vocab", {{"a", 0}}}};
       }},
      {"model.vocab: missing", [](json& f) { f["model"].erase("vocab"); }},
      {"model.vocab: array", [](json& f) { f["model"]["vocab"] = json::array(); }},
      {"model.vocab[\"abc\"]: not an id", [](json& f) { f["model"]["vocab"]["abc"] = -1; }},
      {"model.vocab[\"abc\"]: not an id", [](json& f) { f["model"]["vocab"]["abc"] = 1.5; }},
      {"model.vocab[\"abc\"]: not an id", [](json& f) { f["model"]["vocab"]["abc"] = 1 << 30; }},
      {"model.vocab[\"abc\"]: id 256 belongs", [](json& f) { f["model"]["vocab"]["abc"] = 256; }},
      {"model.merges[0]: \"zz\" is not",
       [](json& f) { f["model"]["merges"] = json::array({Pair("zz", "b")}); }},
      {"model.merges[0]: \"ba\" is not",
       [](json& f) { f["model"]["merges"] = json::array({Pair("b", "a")}); }},
      {"model.merges[0]: neither", [](json& f) { f["model"]["merges"] = {"a b c"}; }},
      {"model.merges[1]: neither",
       [](json& f) {
         f["model"]["merges"] = {"a b", Pair("ab", "c")};
       }},
      {"model.merges[0]: neither", [](json& f) { f["model"]["merges"] = {7}; }},
      {"model.dropout: 0.1", [](json& f) { f["model"]["dropout"] = 0.1; }},
      {"model.unk_token: \"<unk>\" is not",
       [](json& f) {
         f["model"]["vocab"].erase("z");
         f["model"]["unk_token"] = "<unk>";
       }},
      {"added_tokens[0].id: 7 is given to a token whose id is 258",
       [](json& f) { f["added_tokens"] = {Added(7, "<x>", true)}; }},
      {"added_tokens[0].id: 258 is given to a token whose id is 256",
       [](json& f) { f["added_tokens"] = {Added(258, "ab", true)}; }},
      {"added_tokens[0].id: 258 belongs",
       [](json& f) {
         f["model"]["vocab"].erase("z");
         f["model"]["vocab"]["zz"] = 258;
         f["added_tokens"] = {Added(258, "<x>", true)};
       }},
      {"added_tokens[1].content: a duplicate",
       [](json& f) {
         f["added_tokens"] = {Added(256, "ab", true), Added(256, "ab", true)};
       }},
      {"added_tokens[0].content: 0 bytes",
       [](json& f) { f["added_tokens"] = {Added(258, "", true)}; }},
      {"added_tokens[0].content: 1025 bytes",
       [](json& f) { f["added_tokens"] = {Added(258, std::string(1025, 'x'), true)}; }},
      {"added_tokens[0].lstrip: 1 is not",
       [](json& f) {
         f["added_tokens"] = {Added(258, "<x>", true)};
         f["added_tokens"][0]["lstrip"] = 1;
       }},
  };
  REQUIRE(Tokenizer::Parse(SmallJson().dump()).status().ToString() == "OK");
  for (const Case& c : cases) {
    INFO(c.error);
    json file = SmallJson();
    c.change(file);
    const auto status = Tokenizer::Parse(file.dump()).status();
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(std::string(status.message()).substr(0, c.error.size()) == c.error);
  }
}

TEST_CASE("everything that is wrong is listed") {
  json file = SmallJson();
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "A"}}, {{"type", "B"}}}}};
  file["decoder"] = {{"type", "CTC"}};
  file["model"]["type"] = "Other";
  const TempDir folder;
  const std::string path = folder.Write("tokenizer.json", file.dump()) + ": ";
  Problems problems;
  CHECK(Tokenizer::Load(folder.path(), &problems) == nullptr);
  REQUIRE(problems.list().size() == 4);
  CHECK(problems.list()[0].rfind(path + "normalizer.normalizers[0].type: \"A\"", 0) == 0);
  CHECK(problems.list()[1].rfind(path + "normalizer.normalizers[1].type: \"B\"", 0) == 0);
  CHECK(problems.list()[2].rfind(path + "decoder.type: \"CTC\"", 0) == 0);
  CHECK(problems.list()[3].rfind(path + "model.type: \"Other\"", 0) == 0);
}

TEST_CASE("files that are no tokenizer.json are refused") {
  for (const std::string text : {"", "{", "[]", "null", "{}", "{\"model\": 1}", "\xff"}) {
    INFO(text);
    CHECK(Tokenizer::Parse(text).status().code() == absl::StatusCode::kInvalidArgument);
  }
  const std::string whole = *ReadFile(InSource("models/fairytale-5m/tokenizer.json"), 1 << 20);
  for (size_t size = 0; size < whole.size(); size += whole.size() / 64) {
    CHECK_FALSE(Tokenizer::Parse(whole.substr(0, size)).ok());
  }
  CHECK(Tokenizer::Load(InSource("tests")).status().code() == absl::StatusCode::kNotFound);
}

TEST_CASE("neutral settings and old files are accepted") {
  json file = SmallJson();
  file["model"].erase("type");
  file["model"]["dropout"] = 0.0;
  file["model"]["continuing_subword_prefix"] = "";
  file["model"]["end_of_word_suffix"] = "";
  file["model"]["byte_fallback"] = true;  // never needed: every byte has a token
  file["model"]["unk_token"] = "<none>";  // likewise
  file["decoder"] = {{"type", "Sequence"}, {"decoders", {{{"type", "ByteLevel"}}}}};
  file.erase("version");
  file.erase("added_tokens");
  const auto tokenizer = Tokenizer::Parse(file.dump());
  REQUIRE(tokenizer.status().ToString() == "OK");
  CHECK(*(*tokenizer)->Encode("abcb", {}) == Ids{257, 'b'});
}

TEST_CASE("split patterns beyond the known syntax are refused at their place") {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a(b", "at byte 1: '(' without ')'"},
      {"a)", "at byte 1: unmatched ')'"},
      {"[a", "at byte 0: [ without ]"},
      {"*a", "at byte 0: a quantifier with"},
      {"a**", "at byte 2: a quantifier after"},
      {"a{2,1}", "at byte 1: not an interval"},
      {"a{0}", "at byte 1: not an interval"},
      {"a{1001}", "at byte 1: not an interval"},
      {"a{2}?", "at byte 0: {n}? is not"},
      {"(a*)*", "at byte 0: a repeat of what"},
      {"(?=a)+", "at byte 0: an anchor"},
      {"\\p{Han}", "at byte 0: property \"Han\""},
      {"\\p{L", "at byte 0: property"},
      {"\\k<1>", "at byte 0: \\k is not"},
      {"a\\", "at byte 1: nothing after"},
      {"\\x80", "at byte 0: \\x of a byte"},
      {"\\u12", "at byte 0: not a code point"},
      {"\\x{110000}", "at byte 0: not a code point"},
      {"(?<n>a)", "at byte 0: this kind of group"},
      {"(?m:a)", "at byte 0: this kind of group"},
      {"(?i:ss)", "at byte 5: \"ss\" is not"},
      {"(?i:\xc3\xa9)", "at byte 4: only ASCII"},
      {"(?i:[^a])", "at byte 4: only ASCII"},
      {"(?i:\\p{Lu})", "at byte 4: only ASCII"},
      {"[[:alpha:]]", "at byte 1: this bracket"},
      {"[]a]", "at byte 0: this bracket"},
      {"[z-a]", "at byte 1: not a range"},
      {"[\\d-z]", "at byte 1: '-' is neither"},
      {"(?<=a+)b", "PCRE2: "},
      {std::string(200, '('), "at byte 33: groups nested"},
      {std::string(20000, 'a'), "20000 bytes, more than"},
  };
  for (const auto& [pattern, error] : cases) {
    INFO(pattern.substr(0, 40));
    json file = SmallJson();
    file["pre_tokenizer"] = SplitBy(pattern);
    const std::string wanted = "pre_tokenizer.pretokenizers[0].pattern.Regex: " + error;
    const auto status = Tokenizer::Parse(file.dump()).status();
    CHECK(std::string(status.message()).substr(0, wanted.size()) == wanted);
  }
}

TEST_CASE("a pattern that backtracks without end is an error, not a hang") {
  json file = SmallJson();
  file["pre_tokenizer"] = SplitBy("(?:a+)+$");
  const auto tokenizer = Tokenizer::Parse(file.dump());
  REQUIRE(tokenizer.ok());
  CHECK((*tokenizer)->Encode("aaaa", {}).ok());
  CHECK((*tokenizer)->Encode(std::string(64, 'a') + "b", {}).status().code() ==
        absl::StatusCode::kResourceExhausted);
}

TEST_CASE("long runs take linear time and little stack") {
  // A quadratic encoder would need hours for these.
  constexpr size_t kSize = 1 << 20;
  for (const char* unit :
       {"a", " ", "\n", "\xc3\xa9", "\xf0\x9f\x98\x80", "'", "e\xcc\x81", "<|"}) {
    std::string text;
    while (text.size() < kSize) {
      text += unit;
    }
    const auto ids = Fairytale().Encode(text, {});
    REQUIRE(ids.ok());
    CHECK(*Fairytale().Decode(*ids, false) == text);
  }
  json file = SmallJson();
  file["pre_tokenizer"] = SplitBy("(?:\\p{L}\\p{M}*)+|\\s");  // a group: it remembers every letter
  const auto tokenizer = Tokenizer::Parse(file.dump());
  REQUIRE(tokenizer.ok());
  CHECK((*tokenizer)->Encode(std::string(kSize, 'a'), {})->size() == kSize);
}

TEST_CASE("threads may share a tokenizer") {
  const std::string text(10000, 'a');
  const Ids expected = *Fairytale().Encode(text, {});
  std::vector<Ids> results(4);
  std::vector<std::thread> threads;
  threads.reserve(results.size());
  for (Ids& result : results) {
    threads.emplace_back([&result, &text] { result = *Fairytale().Encode(text, {}); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const Ids& result : results) {
    CHECK(result == expected);
  }
}

}  // namespace
}  // namespace ringserve
