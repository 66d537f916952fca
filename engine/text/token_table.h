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
    std::string bytes;  // what it adds to a text
    bool special = false;
  };

  // By id; an id without a token adds nothing.
  explicit TokenTable(const std::vector<Token>& tokens) {
    size_t num_bytes = 0;
    for (const Token& token : tokens) {
      num_bytes += token.bytes.size();
    }
    bytes_.reserve(num_bytes);
    entries_.reserve(tokens.size());
    for (const Token& token : tokens) {
      entries_.push_back({bytes_.size(), static_cast<uint32_t>(token.bytes.size()), token.special});
      bytes_ += token.bytes;
    }
  }

  int32_t size() const { return static_cast<int32_t>(entries_.size()); }

  bool Contains(int32_t id) const { return id >= 0 && id < size(); }

  // Both require Contains(id).
  std::string_view Bytes(int32_t id) const {
    const Entry& entry = entries_[static_cast<size_t>(id)];
    return std::string_view(bytes_).substr(entry.begin, entry.length);
  }

  bool IsSpecial(int32_t id) const { return entries_[static_cast<size_t>(id)].special; }

 private:
  struct Entry {
    size_t begin;
    uint32_t length;
    bool special;
  };

  std::string bytes_;
  std::vector<Entry> entries_;
};

}  // namespace ringserve
