#include <utility>

#include "engine/text/unicode_tables.h"

namespace ringserve {
namespace {

class Numbers {
 public:
  explicit Numbers(std::string_view packed) : packed_(packed) {}

  bool AtEnd() const { return position_ == packed_.size(); }

  uint32_t Next() {
    uint32_t number = 0;
    for (uint32_t shift = 0;; shift += 5) {
      const auto digit = static_cast<uint32_t>(packed_[position_++] - '0');
      number |= (digit & 31) << shift;
      if (digit < 32) {
        return number;
      }
    }
  }

 private:
  std::string_view packed_;
  size_t position_ = 0;
};

}  // namespace

std::vector<CodePointRun> UnpackRuns(std::string_view packed) {
  std::vector<CodePointRun> runs;
  char32_t first = 0;
  for (Numbers numbers(packed); !numbers.AtEnd();) {
    first += numbers.Next();
    if (!runs.empty()) {
      runs.back().last = first - 1;
    }
    runs.push_back({first, kMaxCodePoint, numbers.Next()});
  }
  return runs;
}

CharSet UnpackRanges(std::string_view packed) {
  std::vector<CharSet::Range> ranges;
  char32_t next = 0;
  for (Numbers numbers(packed); !numbers.AtEnd();) {
    const char32_t first = next + numbers.Next();
    next = first + numbers.Next();
    ranges.push_back({first, next - 1});
  }
  return CharSet::FromRanges(std::move(ranges));
}

std::vector<CodePointMapping> UnpackMappings(std::string_view packed) {
  std::vector<CodePointMapping> mappings;
  char32_t code_point = 0;
  uint32_t target = 0;
  for (Numbers numbers(packed); !numbers.AtEnd(); ++code_point) {
    code_point += numbers.Next();
    CodePointMapping& mapping = mappings.emplace_back(CodePointMapping{code_point, {}});
    for (uint32_t left = numbers.Next(); left > 0; --left) {
      const uint32_t difference = numbers.Next();
      target += difference % 2 == 0 ? difference / 2 : 0 - (difference / 2 + 1);
      mapping.sequence.push_back(target);
    }
  }
  return mappings;
}

}  // namespace ringserve
