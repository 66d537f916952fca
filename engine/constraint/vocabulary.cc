#include "engine/constraint/vocabulary.h"

#include <algorithm>

#include <fmt/format.h>

#include "engine/text/utf8.h"

namespace ringserve {
namespace {

constexpr size_t kMaxTokenBytes = 60'000;

}  // namespace

Vocabulary::Vocabulary(const std::vector<std::string>& bytes)
    : size_(static_cast<int32_t>(bytes.size())) {
  for (const std::string& token : bytes) {
    begins_.push_back(text_.size());
    if (token.size() > kMaxTokenBytes) {
      continue;  // never allowed
    }
    text_ += token;
    max_token_bytes_ = std::max(max_token_bytes_, static_cast<int32_t>(token.size()));
    if (token.size() == 1) {
      has_byte_[static_cast<uint8_t>(token[0])] = true;
    }
  }
  begins_.push_back(text_.size());
  BuildTrie();
}

absl::StatusOr<std::shared_ptr<const Vocabulary>> Vocabulary::Create(
    const std::vector<std::string>& bytes, const std::vector<std::string>& bytes_at_start) {
  std::shared_ptr<Vocabulary> vocabulary(new Vocabulary(bytes));
  if (!bytes_at_start.empty() && bytes_at_start != bytes) {
    vocabulary->at_start_ = std::unique_ptr<const Vocabulary>(new Vocabulary(bytes_at_start));
  }
  for (int byte = 0x20; byte < 0x7f; ++byte) {
    const Vocabulary* const at_start = vocabulary->at_start();
    const bool can_begin =
        byte == 0x20 || at_start == nullptr || at_start->has_byte(static_cast<uint8_t>(byte));
    if (!vocabulary->has_byte(static_cast<uint8_t>(byte)) || !can_begin) {
      return absl::InvalidArgumentError(fmt::format(
          "this model's tokenizer has no token for '{}' alone, and output is made byte by byte",
          static_cast<char>(byte)));
    }
  }
  return std::shared_ptr<const Vocabulary>(std::move(vocabulary));
}

absl::StatusOr<std::shared_ptr<const Vocabulary>> Vocabulary::Of(const Tokenizer& tokenizer,
                                                                 int32_t vocab_size) {
  std::vector<std::string> bytes(static_cast<size_t>(vocab_size));
  std::vector<std::string> at_start(bytes.size());
  for (int32_t id = 0; id < std::min(vocab_size, tokenizer.vocab_size()); ++id) {
    const auto at = static_cast<size_t>(id);
    bytes[at] = std::string(tokenizer.TokenBytes(id, /*skip_special=*/true));
    if (bytes[at].empty()) {
      continue;
    }
    Tokenizer::Stream stream(tokenizer, /*skip_special_tokens=*/true);
    stream.Push(id, &at_start[at]);
    stream.Finish(&at_start[at]);
    // Where a token is no whole characters the stream repairs it; it begins no text differently.
    if (ValidUtf8Prefix(bytes[at]) != bytes[at].size()) {
      at_start[at] = bytes[at];
    }
  }
  return Create(bytes, at_start);
}

void Vocabulary::BuildTrie() {
  for (int32_t id = 0; id < size_; ++id) {
    if (!bytes(id).empty()) {
      ids_.push_back(id);
    }
  }
  std::stable_sort(
      ids_.begin(), ids_.end(), [this](int32_t a, int32_t b) { return bytes(a) < bytes(b); });
  nodes_.emplace_back();
  std::vector<int32_t> path = {0};  // from the root to the last node
  std::string_view last;
  for (size_t i = 0; i < ids_.size(); ++i) {
    const std::string_view token = bytes(ids_[i]);
    if (i > 0 && token == last) {
      continue;  // of the same node
    }
    const size_t common = static_cast<size_t>(
        std::mismatch(token.begin(), token.end(), last.begin(), last.end()).first - token.begin());
    while (path.size() > common + 1) {
      nodes_[static_cast<size_t>(path.back())].end = static_cast<int32_t>(nodes_.size());
      path.pop_back();
    }
    for (size_t depth = common; depth < token.size(); ++depth) {
      path.push_back(static_cast<int32_t>(nodes_.size()));
      nodes_.push_back(
          {.depth = static_cast<uint16_t>(depth + 1), .byte = static_cast<uint8_t>(token[depth])});
    }
    nodes_.back().tokens = static_cast<int32_t>(first_id_.size());
    first_id_.push_back(i);
    last = token;
  }
  first_id_.push_back(ids_.size());
  for (const int32_t node : path) {
    nodes_[static_cast<size_t>(node)].end = static_cast<int32_t>(nodes_.size());
  }
}

}  // namespace ringserve
