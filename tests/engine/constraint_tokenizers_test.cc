// Constraints over vocabularies of SentencePiece's kind: a space is part of a word's first piece,
// the text's own first space is none, and what has no piece is spelled in byte tokens. What the
// masks let through is judged as the client reads it: decoded.
#include <bit>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/text/tokenizer.h"
#include "tests/support/catch.h"
#include "tests/support/constraint_case.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

using Ids = std::vector<int32_t>;

const std::string kFixtures = RINGSERVE_SOURCE_DIR "/tests/fixtures/";

std::unique_ptr<Tokenizer> Style(const std::string& name) {
  const auto entries =
      nlohmann::json::parse(*ReadFile(kFixtures + "tokenizer_styles.json", 1 << 26));
  for (const auto& entry : entries) {
    if (entry["name"] == name) {
      nlohmann::json tokenizer = entry["tokenizer"];
      if (entry.contains("model_of")) {
        tokenizer["model"] = entries[entry["model_of"].get<size_t>()]["tokenizer"]["model"];
      }
      auto parsed = Tokenizer::Parse(tokenizer.dump());
      REQUIRE(parsed.ok());
      return *std::move(parsed);
    }
  }
  FAIL("no style " << name);
  return nullptr;
}

std::unique_ptr<Tokenizer> SentencePiece(const std::string& name) {
  const TempDir folder;
  folder.Write("tokenizer.model", *ReadFile(kFixtures + "sentencepiece/" + name, 1 << 24));
  auto loaded = Tokenizer::Load(folder.path());
  REQUIRE(loaded.ok());
  return *std::move(loaded);
}

Ids AllowedIds(TokenConstraint& matcher) {
  Ids ids;
  const auto mask = matcher.Allowed();
  for (size_t word = 0; word < mask.size(); ++word) {
    for (uint64_t bits = mask[word]; bits != 0; bits &= bits - 1) {
      ids.push_back(static_cast<int32_t>(word * 64) + std::countr_zero(bits));
    }
  }
  return ids;
}

// Allowed tokens at random up to an end; fewer than `most`, or none.
Ids Walk(TokenConstraint& matcher, Random& random, size_t most) {
  Ids ids;
  while (ids.size() < most) {
    const Ids allowed = AllowedIds(matcher);
    const bool may_end = matcher.MayEnd();
    REQUIRE((may_end || !allowed.empty()));
    if (allowed.empty() || (may_end && random.Int(0, 3) == 0)) {
      return ids;
    }
    ids.push_back(
        allowed[static_cast<size_t>(random.Int(0, static_cast<int64_t>(allowed.size()) - 1))]);
    REQUIRE(matcher.Take(ids.back()));
  }
  return {};
}

const std::vector<std::string>& Patterns() {
  static const std::vector<std::string> patterns = {
      "(the|The) [a-z]{2,5}( [a-z]+)? ?",
      " {0,2}[0-9]+ apples",
      "\xc3\xa9\xe2\x98\x83[\xf0\x9f\x98\x80-\xf0\x9f\x98\x82]{1,3} (one|two)",
      "(a|an|a an|  a)+"};
  return patterns;
}

constexpr const char* kSchema =
    R"({"type":"object","properties":{"name":{"type":"string","maxLength":8},)"
    R"("n":{"type":"integer","minimum":-50,"maximum":50}},)"
    R"("required":["name","n"],"additionalProperties":false})";

// The same constraint over single bytes says what a text must be like.
void CheckWalks(const Tokenizer& tokenizer, const std::string& text, bool is_schema) {
  const auto vocabulary = Vocabulary::Of(tokenizer, tokenizer.vocab_size());
  INFO(text << " " << vocabulary.status());
  REQUIRE(vocabulary.ok());
  ConstraintCompiler compiler(*vocabulary);
  static ConstraintCompiler plain_compiler(SmallVocabulary());
  const auto constraint = is_schema ? compiler.JsonSchema(text) : compiler.Regex(text);
  const auto plain = is_schema ? plain_compiler.JsonSchema(text) : plain_compiler.Regex(text);
  REQUIRE((constraint.ok() && plain.ok()));
  int num_ended = 0;
  Random random(3);
  for (int round = 0; round < 60; ++round) {
    const auto matcher = (*constraint)->Begin();
    const Ids before = AllowedIds(*matcher);
    const Ids ids = Walk(*matcher, random, 60);
    if (!ids.empty()) {
      ++num_ended;
      const auto decoded = tokenizer.Decode(ids, /*skip_special_tokens=*/true);
      REQUIRE(decoded.ok());
      INFO("\"" << *decoded << "\"");
      CHECK(Accepts(**plain, *SmallVocabulary(), *decoded));
      matcher->Undo(static_cast<int64_t>(ids.size()));
      CHECK(AllowedIds(*matcher) == before);
    }
  }
  CHECK(num_ended > 10);
}

void CheckTokenizer(const Tokenizer& tokenizer) {
  for (const std::string& pattern : Patterns()) {
    CheckWalks(tokenizer, pattern, /*is_schema=*/false);
  }
  CheckWalks(tokenizer, kSchema, /*is_schema=*/true);
}

TEST_CASE("what masks over byte-fallback vocabularies let through is decoded to what was asked") {
  const std::string name = GENERATE("llama2", "mistral", "gemma", "albert, byte fallback");
  INFO(name);
  CheckTokenizer(*Style(name));
}

TEST_CASE("and what those of a tokenizer.model let through") {
  CheckTokenizer(*SentencePiece("bpe.model"));
}

TEST_CASE("texts as the tokenizer itself cuts them are let through") {
  for (const bool is_file : {false, true}) {
    const auto tokenizer = is_file ? SentencePiece("bpe.model") : Style("llama2");
    const auto vocabulary = Vocabulary::Of(*tokenizer, tokenizer->vocab_size());
    REQUIRE(vocabulary.ok());
    ConstraintCompiler compiler(*vocabulary);
    const std::vector<std::string> texts = {
        "the king", "The caf\xc3\xa9 \xe2\x98\x83", "a  b", "1"};
    const auto constraint = compiler.Choices(texts);
    REQUIRE(constraint.ok());
    for (const std::string& text : texts) {
      const auto ids = tokenizer->Encode(text, {.add_special_tokens = false});
      REQUIRE(ids.ok());
      const auto matcher = (*constraint)->Begin();
      INFO(text);
      for (size_t i = 0; i < ids->size(); ++i) {
        // A first piece that is the text's own space alone adds nothing, and is not needed.
        if (i > 0 || !(*vocabulary)->at_start()->bytes((*ids)[i]).empty()) {
          REQUIRE(matcher->Take((*ids)[i]));
        }
      }
      CHECK(matcher->MayEnd());
    }
  }
}

TEST_CASE("a vocabulary that cannot spell every text is refused by the character") {
  const auto tokenizer = SentencePiece("unigram.model");
  const auto vocabulary = Vocabulary::Of(*tokenizer, tokenizer->vocab_size());
  REQUIRE(absl::IsInvalidArgument(vocabulary.status()));
  CHECK(std::string(vocabulary.status().message()).find("has no token for") != std::string::npos);
}

}  // namespace
}  // namespace ringserve
