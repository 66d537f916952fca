// A vocabulary as constraints see it: the bytes of its tokens, sorted into a trie that is laid out
// depth first, so that walking it reads memory in order and skipping a branch is one jump.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/text/tokenizer.h"

namespace ringserve {

class Vocabulary {
 public:
  struct Node {
    int32_t end = 0;      // one past its last descendant
    int32_t tokens = -1;  // index for ids(); -1: no token ends here
    uint16_t depth = 0;   // bytes from the root
    uint8_t byte = 0;
  };

  // `bytes[id]` is what a token adds to a text; empty: it never does (special tokens, and ids that
  // no token has). INVALID_ARGUMENT if not every byte of ASCII is a token of its own: then there
  // are texts that cannot be completed. `bytes_at_start[id]` is what it adds as the first one;
  // empty: the same for all.
  static absl::StatusOr<std::shared_ptr<const Vocabulary>> Create(
      const std::vector<std::string>& bytes, const std::vector<std::string>& bytes_at_start = {});

  // Of the tokenizer, for a model with `vocab_size` ids.
  static absl::StatusOr<std::shared_ptr<const Vocabulary>> Of(const Tokenizer& tokenizer,
                                                              int32_t vocab_size);

  int32_t size() const { return size_; }  // ids

  size_t num_words() const { return (static_cast<size_t>(size_) + 63) / 64; }  // of a mask

  std::string_view bytes(int32_t id) const {
    const auto at = static_cast<size_t>(id);
    return std::string_view(text_).substr(begins_[at], begins_[at + 1] - begins_[at]);
  }

  // Node 0 is the root.
  std::span<const Node> nodes() const { return nodes_; }

  std::span<const int32_t> ids(int32_t tokens) const {
    const auto at = static_cast<size_t>(tokens);
    return std::span(ids_).subspan(first_id_[at], first_id_[at + 1] - first_id_[at]);
  }

  int32_t max_token_bytes() const { return max_token_bytes_; }

  // The vocabulary of a text's first token; null: it is this.
  const Vocabulary* at_start() const { return at_start_.get(); }

  // True for bytes that a token spells alone. What a constraint generates is made of them.
  bool has_byte(uint8_t byte) const { return has_byte_[byte]; }

 private:
  explicit Vocabulary(const std::vector<std::string>& bytes);
  void BuildTrie();

  int32_t size_ = 0;
  int32_t max_token_bytes_ = 0;
  std::string text_;
  std::vector<size_t> begins_;
  std::vector<Node> nodes_;
  std::vector<int32_t> ids_;
  std::vector<size_t> first_id_;
  std::unique_ptr<const Vocabulary> at_start_;
  std::vector<bool> has_byte_ = std::vector<bool>(256, false);
};

}  // namespace ringserve
