// What each token id stands for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ringserve {

class TokenTable {
 public:
  struct Token {
    std::string content;  // as tokenizer.json writes it
    std::string bytes;    // what it adds to a text
    bool special = false;
    bool exists = false;
  };

  // By id; an id without a token adds nothing.
  explicit TokenTable(const std::vector<Token>& tokens) {
    size_t num_bytes = 0;
    for (const Token& token : tokens) {
      num_bytes += token.content.size() + token.bytes.size();
    }
    text_.reserve(num_bytes);
    entries_.reserve(tokens.size());
    for (const Token& token : tokens) {
      entries_.push_back({text_.size(),
                          static_cast<uint32_t>(token.content.size()),
                          static_cast<uint32_t>(token.bytes.size()),
                          token.special,
                          token.exists});
      text_ += token.content;
      text_ += token.bytes;
    }
  }

  int32_t size() const { return static_cast<int32_t>(entries_.size()); }

  bool Contains(int32_t id) const { return id >= 0 && id < size(); }

  // All require Contains(id).
  std::string_view Content(int32_t id) const {
    const Entry& entry = entries_[static_cast<size_t>(id)];
    return std::string_view(text_).substr(entry.begin, entry.content_length);
  }

  std::string_view Bytes(int32_t id) const {
    const Entry& entry = entries_[static_cast<size_t>(id)];
    return std::string_view(text_).substr(entry.begin + entry.content_length, entry.bytes_length);
  }

  bool IsSpecial(int32_t id) const { return entries_[static_cast<size_t>(id)].special; }

  // False for an id that no token has, between others.
  bool Exists(int32_t id) const { return entries_[static_cast<size_t>(id)].exists; }

 private:
  struct Entry {
    size_t begin;
    uint32_t content_length, bytes_length;
    bool special, exists;
  };

  std::string text_;  // of each token the content, then the bytes
  std::vector<Entry> entries_;
};

}  // namespace ringserve
