// The BPE encoder against its definition, on merges and words that the input makes up, and the
// embedded tokenizer on the input as a text: decoding what was encoded gives it back.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/check.h"
#include "engine/text/bpe.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

// The lowest rank first, the leftmost of equal ones, until nothing merges.
std::vector<int32_t> EncodeByDefinition(const BpeModel& model, std::vector<int32_t> ids) {
  while (true) {
    size_t best = ids.size();
    size_t best_rank = model.merges.size();
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = model.merges.size(); rank-- > 0;) {  // of equal pairs the last counts
        if (model.merges[rank].left == ids[i] && model.merges[rank].right == ids[i + 1]) {
          if (rank < best_rank) {
            best_rank = rank;
            best = i;
          }
          break;
        }
      }
    }
    if (best == ids.size()) {
      return ids;
    }
    ids[best] = model.merges[best_rank].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

// The first byte says how many merges follow, of two bytes each; the rest is the word.
void CompareWithDefinition(std::string_view data) {
  constexpr size_t kLetters = 4;
  constexpr size_t kMaxWord = 256;
  BpeModel model;
  for (size_t i = 0; i < kLetters; ++i) {
    model.tokens.push_back({std::string(1, static_cast<char>('a' + i)), static_cast<int32_t>(i)});
  }
  const size_t num_merges = static_cast<uint8_t>(data[0]) % 48;
  data.remove_prefix(1);
  for (size_t i = 0; i < num_merges && data.size() >= 2; ++i) {
    const BpeToken left = model.tokens[static_cast<uint8_t>(data[0]) % model.tokens.size()];
    const BpeToken right = model.tokens[static_cast<uint8_t>(data[1]) % model.tokens.size()];
    data.remove_prefix(2);
    const std::string bytes = left.text + right.text;
    if (bytes.size() > kMaxWord) {
      continue;
    }
    auto found = std::find_if(model.tokens.begin(), model.tokens.end(), [&](const BpeToken& token) {
      return token.text == bytes;
    });
    if (found == model.tokens.end()) {
      found = model.tokens.insert(found, {bytes, static_cast<int32_t>(model.tokens.size())});
    }
    model.merges.push_back({left.id, right.id, found->id});
  }
  std::string word;
  std::vector<int32_t> letters;
  for (const char byte : data.substr(0, kMaxWord)) {
    letters.push_back(static_cast<int32_t>(static_cast<uint8_t>(byte) % kLetters));
    word.push_back(static_cast<char>('a' + letters.back()));
  }
  Bpe::Scratch scratch;
  std::vector<int32_t> ids;
  Bpe(model).Encode(word, &scratch, &ids);
  RS_CHECK(ids == EncodeByDefinition(model, letters));
}

void RoundTrip(std::string_view data) {
  static const auto tokenizer =
      Tokenizer::Load(std::string(RINGSERVE_SOURCE_DIR) + "/models/fairytale-5m");
  RS_CHECK(tokenizer.ok());
  Utf8Repair repair;
  std::string text;
  repair.Push(data, &text);
  repair.Finish(&text);
  RS_CHECK((*tokenizer)->Encode(data, {}).ok() == (ValidUtf8Prefix(data) == data.size()));
  for (const bool parse_special : {true, false}) {
    const auto ids = (*tokenizer)->Encode(text, {.parse_special_tokens = parse_special});
    RS_CHECK(ids.ok());
    const auto decoded = (*tokenizer)->Decode(*ids, false);
    RS_CHECK(decoded.ok());
    RS_CHECK(*decoded == text);
  }
}

}  // namespace
}  // namespace ringserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (!input.empty()) {
    ringserve::CompareWithDefinition(input);
  }
  ringserve::RoundTrip(input);
  return 0;
}
