// Tokenizers in the styles of known models on any text and any ids, and any bytes as a charsmap.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/base/check.h"
#include "engine/base/json_reader.h"
#include "engine/text/charsmap.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

using Tokenizers = std::vector<std::unique_ptr<Tokenizer>>;

Tokenizers& All() {
  static Tokenizers tokenizers;
  return tokenizers;
}

Tokenizers LoadAll() {
  Tokenizers tokenizers;
  for (const char* name : {"tokenizer_styles.json", "tokenizer_parts.json"}) {
    const auto text =
        ReadFile(std::string(RINGSERVE_SOURCE_DIR "/tests/fixtures/") + name, 1 << 26);
    RS_CHECK(text.ok());
    const auto entries = nlohmann::json::parse(*text);
    for (nlohmann::json entry : entries) {
      if (entry.contains("model_of")) {
        entry["tokenizer"]["model"] =
            entries[entry["model_of"].get<size_t>()]["tokenizer"]["model"];
      }
      auto tokenizer = Tokenizer::Parse(entry["tokenizer"].dump());
      RS_CHECK(tokenizer.ok());
      tokenizers.push_back(*std::move(tokenizer));
    }
  }
  return tokenizers;
}

std::string Repaired(std::string_view data) {
  std::string text;
  Utf8Repair repair;
  repair.Push(data, &text);
  repair.Finish(&text);
  return text;
}

void CheckDecoding(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  const auto decoded = tokenizer.Decode(ids, skip_special);
  RS_CHECK(decoded.ok());
  Tokenizer::Stream stream(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    std::string piece;
    stream.Push(id, &piece);
    RS_CHECK(ValidUtf8Prefix(piece) == piece.size());
    text += piece;
  }
  stream.Finish(&text);
  RS_CHECK(text == *decoded);
}

void UseTokenizer(const Tokenizer& tokenizer, std::string_view data) {
  const bool parse_special = data.size() % 2 == 0;
  const auto ids = tokenizer.Encode(Repaired(data), {.parse_special_tokens = parse_special});
  if (!ids.ok()) {
    RS_CHECK(ids.status().code() == absl::StatusCode::kResourceExhausted);
    return;
  }
  CheckDecoding(tokenizer, *ids, parse_special);
  std::vector<int32_t> any_ids;
  for (size_t i = 0; i + 1 < data.size(); i += 2) {
    const int32_t number = static_cast<uint8_t>(data[i]) << 8 | static_cast<uint8_t>(data[i + 1]);
    any_ids.push_back(number % tokenizer.vocab_size());
  }
  CheckDecoding(tokenizer, any_ids, !parse_special);
}

// The first byte says how many of the others are the text.
void UseCharsmap(std::string_view data) {
  const size_t text_bytes = std::min<size_t>(static_cast<uint8_t>(data[0]), data.size() - 1);
  const std::string text = Repaired(data.substr(1, text_bytes));
  const auto charsmap = Charsmap::Parse(data.substr(1 + text_bytes));
  if (!charsmap.ok()) {
    return;
  }
  size_t done = 0;
  charsmap->ForEachEdit(text, [&](const Charsmap::Edit& edit) {
    RS_CHECK(edit.begin == done);
    RS_CHECK(edit.end > edit.begin);
    RS_CHECK(ValidUtf8Prefix(edit.replacement) == edit.replacement.size());
    done = edit.end;
  });
  RS_CHECK(done == text.size());
}

}  // namespace
}  // namespace ringserve

// Not in the first input's time: under sanitizers that takes longer than an input may.
extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  ringserve::All() = ringserve::LoadAll();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) {
    return 0;
  }
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  ringserve::UseCharsmap(input);
  const ringserve::Tokenizers& tokenizers = ringserve::All();
  ringserve::UseTokenizer(*tokenizers[static_cast<uint8_t>(input[0]) % tokenizers.size()],
                          input.substr(1));
  return 0;
}
