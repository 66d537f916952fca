// The pieces that all of JSON's texts are made of, indexed once for a vocabulary.
#pragma once

#include <memory>

#include "engine/constraint/token_index.h"
#include "engine/constraint/vocabulary.h"

namespace ringserve {

struct JsonTerminals {
  std::shared_ptr<TokenIndex> string;  // any string
  // A string after its opening quote, whose characters are counted. In both every spelling of a
  // character is allowed that JSON knows, but halves of surrogate pairs alone.
  std::shared_ptr<TokenIndex> counted_string;
  // Where JSON allows white space after { [ , : and before } ]: nothing, one space, or one newline
  // and then at most 64 spaces or at most 16 tabs. So white space always ends.
  std::shared_ptr<TokenIndex> whitespace;
};

JsonTerminals MakeJsonTerminals(const std::shared_ptr<const Vocabulary>& vocabulary);

// `dfa` without the texts that take a byte for which the vocabulary has no token.
Dfa Spellable(Dfa dfa, const Vocabulary& vocabulary);

}  // namespace ringserve
