// The alphabet of byte-level tokenizers: tokenizer.json writes each byte of a token as one
// printable character (a space as "Ġ"), and so do its vocabulary and its merges.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace ringserve {

// The bytes that `token` stands for; none if it has a character that is not of the alphabet.
std::optional<std::string> BytesOfToken(std::string_view token);

// Appends the characters for `bytes`.
void AppendByteLevel(std::string_view bytes, std::string* out);

}  // namespace ringserve
