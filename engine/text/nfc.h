// Unicode normalization form C, with the characters that Hugging Face's normalizer knows
// (unicode_tables.h).
#pragma once

#include <string>
#include <string_view>

namespace ringserve {

// False only if Nfc(text) == text. Fast.
bool MayChangeUnderNfc(std::string_view text);

// `text` is valid UTF-8.
std::string Nfc(std::string_view text);

}  // namespace ringserve
