// Any split pattern on any text: its matches come from left to right, lie on characters and do not
// overlap, or the pattern is refused or gives up.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/check.h"
#include "engine/text/regex.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

bool IsBoundary(std::string_view text, size_t at) {
  return at == text.size() || (static_cast<uint8_t>(text[at]) & 0xc0) != 0x80;
}

// The first byte says how many of the others are the pattern.
void UseRegex(std::string_view data) {
  const size_t pattern_bytes = std::min<size_t>(static_cast<uint8_t>(data[0]), data.size() - 1);
  const auto regex = Regex::Compile(data.substr(1, pattern_bytes));
  if (!regex.ok()) {
    RS_CHECK(regex.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  std::string text;
  Utf8Repair repair;
  repair.Push(data.substr(1 + pattern_bytes, 2048), &text);
  repair.Finish(&text);
  static RegexScratch scratch;
  std::vector<Regex::Match> matches;
  const absl::Status status = regex->FindAll(text, &scratch, &matches);
  if (!status.ok()) {
    RS_CHECK(status.code() == absl::StatusCode::kResourceExhausted);
    return;
  }
  size_t done = 0;
  for (const Regex::Match& match : matches) {
    RS_CHECK(match.begin >= done);
    RS_CHECK(match.end >= match.begin);
    RS_CHECK(match.end <= text.size());
    RS_CHECK(IsBoundary(text, match.begin));
    RS_CHECK(IsBoundary(text, match.end));
    done = match.end;
  }
}

}  // namespace
}  // namespace ringserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 0) {
    ringserve::UseRegex(std::string_view(reinterpret_cast<const char*>(data), size));
  }
  return 0;
}
