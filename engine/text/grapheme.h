// Where graphemes (what a reader takes for one character) end: the Unicode standard, annex 29,
// extended. Without rule GB9c (conjuncts of Indic scripts) and without the pairing of regional
// indicators: the one caller, the normalizer Precompiled, treats graphemes of more than 5 bytes
// character by character, and theirs are longer.
#pragma once

#include <cstddef>
#include <string_view>

namespace ringserve {

// The end of the grapheme that begins at `begin`. Requires begin < text.size(), at the start of a
// grapheme; `text` is valid UTF-8.
size_t GraphemeEnd(std::string_view text, size_t begin);

}  // namespace ringserve
