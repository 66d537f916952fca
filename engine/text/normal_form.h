// The Unicode normalization forms, with the characters that Hugging Face's normalizer knows
// (unicode_tables.h).
#pragma once

#include <string>
#include <string_view>

namespace ringserve {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// `text` is valid UTF-8. O(n log n), linear but for long runs of combining marks.
std::string Normalize(NormalForm form, std::string_view text);

// The lower case of each character by itself, as Rust has it.
std::string ToLower(std::string_view text);

}  // namespace ringserve
