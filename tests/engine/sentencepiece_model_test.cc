#include "engine/text/sentencepiece_model.h"

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/text/tokenizer.h"
#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

using Ids = std::vector<int32_t>;

std::string Fixture(const std::string& name) {
  return *ReadFile(RINGSERVE_SOURCE_DIR "/tests/fixtures/sentencepiece/" + name, 1 << 24);
}

TEST_CASE("tokenizer.model gives SentencePiece's ids and texts") {
  const auto cases = nlohmann::json::parse(Fixture("cases.json"));
  for (const std::string kind : {"bpe", "unigram"}) {
    const TempDir folder;
    folder.Write("tokenizer.model", Fixture(kind + ".model"));
    const auto tokenizer = Tokenizer::Load(folder.path());
    REQUIRE(tokenizer.status().ToString() == "OK");
    REQUIRE(cases[kind].size() > 20);
    for (const auto& c : cases[kind]) {
      INFO(kind << ": " << c.dump());
      const Ids ids = c["ids"].get<Ids>();
      CHECK(*(*tokenizer)->Encode(c["text"].get<std::string>(), {}) == ids);
      CHECK(*(*tokenizer)->Decode(ids, true) == c["decoded"].get<std::string>());
    }
  }
}

TEST_CASE("tokenizer_config.json says what is added to a text") {
  const TempDir folder;
  folder.Write("tokenizer.model", Fixture("bpe.model"));
  const auto ids_with = [&](const std::string& config) {
    folder.Write("tokenizer_config.json", config);
    const auto tokenizer = Tokenizer::Load(folder.path());
    REQUIRE(tokenizer.status().ToString() == "OK");
    return *(*tokenizer)->Encode("the", {});
  };
  const Ids plain = ids_with("{}");
  Ids with_bos = plain;
  with_bos.insert(with_bos.begin(), 1);
  Ids with_eos = plain;
  with_eos.push_back(2);
  CHECK(ids_with(R"({"tokenizer_class": "LlamaTokenizer"})") == with_bos);
  CHECK(ids_with(R"({"tokenizer_class": "T5Tokenizer"})") == with_eos);
  CHECK(ids_with(R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false})") == plain);
  CHECK(ids_with(R"({"add_eos_token": true})") == with_eos);
  folder.Write("tokenizer_config.json", R"({"add_eos_token": 1})");
  CHECK(Tokenizer::Load(folder.path()).status().message() ==
        folder / "tokenizer_config.json" + ".add_eos_token: 1 is not true or false");
}

TEST_CASE("a damaged tokenizer.model is refused") {
  const std::string whole = Fixture("unigram.model");
  CHECK(TokenizerJsonOfSentencePiece(whole, {}).ok());
  CHECK_FALSE(TokenizerJsonOfSentencePiece("", {}).ok());
  CHECK_FALSE(TokenizerJsonOfSentencePiece("\xff\xff\xff", {}).ok());
  CHECK_FALSE(TokenizerJsonOfSentencePiece(whole.substr(0, whole.size() - 1), {}).ok());
  CHECK_FALSE(TokenizerJsonOfSentencePiece(whole + std::string("\x0a\x7f", 2), {}).ok());
  // trainer_spec { model_type: CHAR }
  CHECK(TokenizerJsonOfSentencePiece(whole + std::string("\x12\x02\x18\x04", 4), {})
            .status()
            .message()
            .find("trainer_spec.model_type: 4") == 0);
}

}  // namespace
}  // namespace ringserve
