// What the decoders do to single tokens.
#pragma once

#include <string>
#include <string_view>

namespace ringserve {

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to);

// Without `prefix`, or, where there is none, after a space; the first token as it is. `clean_up`
// draws English punctuation and contractions to the word before.
std::string WordPieceText(std::string_view token,
                          std::string_view prefix,
                          bool first,
                          bool clean_up);

// Whether `bytes` are UTF-8, or can become so if bytes are added.
bool MayBecomeUtf8(std::string_view bytes);

}  // namespace ringserve
