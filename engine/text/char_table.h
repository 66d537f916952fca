// A value for each code point, in pages of 256 of which equal ones are stored once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/text/char_set.h"

namespace ringserve {

template <typename T>
class CharTable {
 public:
  // `values` has one for each code point.
  explicit CharTable(const std::vector<T>& values) {
    std::unordered_map<std::string_view, uint16_t> known;
    for (size_t page = 0; page <= kMaxCodePoint >> 8; ++page) {
      const T* begin = values.data() + page * 256;
      const std::string_view bytes(reinterpret_cast<const char*>(begin), 256 * sizeof(T));
      const auto [found, is_new] = known.try_emplace(bytes, static_cast<uint16_t>(known.size()));
      if (is_new) {
        pages_.insert(pages_.end(), begin, begin + 256);
      }
      page_of_.push_back(found->second);
    }
  }

  T operator[](char32_t code_point) const {
    return pages_[static_cast<size_t>(page_of_[code_point >> 8]) << 8 | (code_point & 0xff)];
  }

 private:
  std::vector<uint16_t> page_of_;
  std::vector<T> pages_;
};

}  // namespace ringserve
