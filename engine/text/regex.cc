#include "engine/text/regex.h"

#include <algorithm>
#include <bitset>
#include <map>
#include <unordered_map>

#include <fmt/format.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "engine/base/check.h"
#include "engine/text/regex_parser.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

constexpr size_t kMaxSets = 256;
constexpr size_t kMaxClasses = 256;
constexpr uint32_t kMatchLimit = 10'000'000;  // steps within one match, besides one per character
constexpr uint32_t kHeapLimitKiB = 256 * 1024;
constexpr size_t kJitStackStart = size_t{64} << 10;
constexpr size_t kJitStackMax = size_t{64} << 20;  // taken from the system as it is touched

std::string ErrorText(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// One character out of these classes, in PCRE2's syntax.
std::string BracketOf(const std::vector<uint8_t>& classes) {
  if (classes.empty()) {
    return "(?!)";
  }
  std::string bracket = "[";
  for (size_t i = 0; i < classes.size();) {
    size_t last = i;
    while (last + 1 < classes.size() && classes[last + 1] == classes[last] + 1) {
      ++last;
    }
    bracket += last == i ? fmt::format("\\x{:02x}", classes[i])
                         : fmt::format("\\x{:02x}-\\x{:02x}", classes[i], classes[last]);
    i = last + 1;
  }
  return bracket + "]";
}

}  // namespace

RegexScratch::RegexScratch()
    : match_data_(pcre2_match_data_create(1, nullptr)),
      match_context_(pcre2_match_context_create(nullptr)) {
  RS_CHECK(match_data_ != nullptr);
  RS_CHECK(match_context_ != nullptr);
  pcre2_set_heap_limit(match_context_, kHeapLimitKiB);
}

RegexScratch::~RegexScratch() {
  pcre2_jit_stack_free(jit_stack_);
  pcre2_match_context_free(match_context_);
  pcre2_match_data_free(match_data_);
}

void RegexScratch::GrowJitStack() {
  jit_stack_ = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);
  RS_CHECK(jit_stack_ != nullptr);
  pcre2_jit_stack_assign(match_context_, nullptr, jit_stack_);
}

void Regex::FreeCode::operator()(pcre2_real_code_8* code) const {
  pcre2_code_free(code);
}

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  ASSIGN_OR_RETURN(const ParsedRegex parsed, ParseRegex(pattern));
  Regex regex;
  bool too_many = false;
  const auto classes_of_set = regex.AssignClasses(parsed.sets, &too_many);
  if (too_many) {
    return absl::InvalidArgumentError(
        fmt::format("it tells apart more than {} kinds of characters", kMaxClasses));
  }
  std::string syntax;
  for (const ParsedRegex::Part& part : parsed.parts) {
    syntax += part.set < 0 ? part.syntax : BracketOf(classes_of_set[static_cast<size_t>(part.set)]);
  }
  RETURN_IF_ERROR(regex.CompileSyntax(syntax));
  return regex;
}

absl::Status Regex::CompileSyntax(const std::string& syntax) {
  int error = 0;
  size_t offset = 0;
  code_.reset(pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(syntax.data()), syntax.size(), 0, &error, &offset, nullptr));
  if (code_ == nullptr) {
    return absl::InvalidArgumentError(fmt::format("PCRE2: {}", ErrorText(error)));
  }
  jit_ = pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE) == 0;
  return absl::OkStatus();
}

std::vector<std::vector<uint8_t>> Regex::AssignClasses(const std::vector<CharSet>& sets,
                                                       bool* too_many) {
  RS_CHECK(sets.size() <= kMaxSets);
  using Membership = std::bitset<kMaxSets>;
  std::map<char32_t, Membership> flips;  // where membership changes, and in which sets
  for (size_t i = 0; i < sets.size(); ++i) {
    for (const CharSet::Range& range : sets[i].ranges()) {
      flips[range.first].flip(i);
      flips[range.last + 1].flip(i);
    }
  }
  flips[kMaxCodePoint + 1];
  std::unordered_map<Membership, size_t> classes;
  std::vector<std::vector<uint8_t>> classes_of_set(sets.size());
  std::vector<uint8_t> class_of(kMaxCodePoint + 1);
  Membership current;
  char32_t next = 0;
  for (const auto& [code_point, flip] : flips) {
    if (code_point > next) {
      const auto [found, is_new] = classes.try_emplace(current, classes.size());
      if (found->second >= kMaxClasses) {
        *too_many = true;
        return {};
      }
      const auto class_id = static_cast<uint8_t>(found->second);
      for (size_t i = 0; is_new && i < sets.size(); ++i) {
        if (current[i]) {
          classes_of_set[i].push_back(class_id);
        }
      }
      std::fill(class_of.begin() + next, class_of.begin() + code_point, class_id);
      next = code_point;
    }
    current ^= flip;
  }
  std::unordered_map<std::string_view, uint16_t> known_pages;
  for (size_t page = 0; page <= kMaxCodePoint >> 8; ++page) {
    const std::string_view contents(reinterpret_cast<const char*>(class_of.data()) + page * 256,
                                    256);
    const auto [found, is_new] =
        known_pages.try_emplace(contents, static_cast<uint16_t>(known_pages.size()));
    if (is_new) {
      pages_.insert(pages_.end(), contents.begin(), contents.end());
    }
    page_of_.push_back(found->second);
  }
  return classes_of_set;
}

void Regex::Recode(std::string_view text, std::string* classes) const {
  classes->resize(text.size());
  const uint8_t* ascii = pages_.data() + (static_cast<size_t>(page_of_[0]) << 8);
  size_t position = 0;
  size_t count = 0;
  char* out = classes->data();
  while (position < text.size()) {
    const auto byte = static_cast<uint8_t>(text[position]);
    if (byte < 0x80) {
      out[count++] = static_cast<char>(ascii[byte]);
      ++position;
    } else {
      out[count++] = static_cast<char>(ClassOf(DecodeUtf8(text, &position)));
    }
  }
  classes->resize(count);
}

absl::StatusOr<bool> Regex::MatchFrom(size_t start, RegexScratch* scratch) const {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(scratch->classes_.data());
  const size_t length = scratch->classes_.size();
  const auto match = [&]() {
    return jit_ ? pcre2_jit_match(code_.get(),
                                  subject,
                                  length,
                                  start,
                                  0,
                                  scratch->match_data_,
                                  scratch->match_context_)
                : pcre2_match(code_.get(),
                              subject,
                              length,
                              start,
                              0,
                              scratch->match_data_,
                              scratch->match_context_);
  };
  int result = match();
  if (result == PCRE2_ERROR_JIT_STACKLIMIT && scratch->jit_stack_ == nullptr) {
    scratch->GrowJitStack();
    result = match();
  }
  if (result >= 0) {
    return true;
  }
  if (result == PCRE2_ERROR_NOMATCH) {
    return false;
  }
  return absl::ResourceExhaustedError(
      fmt::format("the tokenizer's split pattern fails on this text at character {}: {}",
                  start,
                  ErrorText(result)));
}

absl::Status Regex::FindAll(std::string_view text,
                            RegexScratch* scratch,
                            std::vector<Match>* matches) const {
  matches->clear();
  Recode(text, &scratch->classes_);
  const size_t length = scratch->classes_.size();
  const bool ascii = length == text.size();
  const uint64_t limit = kMatchLimit + 8 * static_cast<uint64_t>(length);
  pcre2_set_match_limit(scratch->match_context_,
                        static_cast<uint32_t>(std::min<uint64_t>(limit, UINT32_MAX)));
  size_t character = 0;  // `byte` is where it begins
  size_t byte = 0;
  const auto byte_of = [&](size_t wanted) {
    if (ascii) {
      return wanted;
    }
    for (; character < wanted; ++character) {
      byte += Utf8Length(text[byte]);
    }
    return byte;
  };
  size_t start = 0;
  size_t last_end = SIZE_MAX;
  while (start <= length) {
    ASSIGN_OR_RETURN(const bool found, MatchFrom(start, scratch));
    if (!found) {
      break;
    }
    const size_t* ends = pcre2_get_ovector_pointer(scratch->match_data_);
    const size_t begin = ends[0];
    const size_t end = ends[1];
    if (begin == end && end == last_end) {
      ++start;
      continue;
    }
    const size_t begin_byte = byte_of(begin);
    matches->push_back({begin_byte, byte_of(end)});
    start = last_end = end;
  }
  return absl::OkStatus();
}

}  // namespace ringserve
