// The single pre-tokenizers. What each does is the library's; here is only what its options mean.
#pragma once

#include <memory>

#include "engine/text/char_property.h"
#include "engine/text/pattern.h"
#include "engine/text/pretokenizer.h"

namespace ringserve {

// What becomes of a match and of what lies between matches.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

enum class PrependScheme { kFirst, kNever, kAlways };

using PreTokenizerStagePtr = std::unique_ptr<const PreTokenizerStage>;

PreTokenizerStagePtr MakeSplitStage(Pattern pattern, SplitBehavior behavior, bool invert);
// Each character that has the property is a match.
PreTokenizerStagePtr MakePropertyStage(CharProperty property, SplitBehavior behavior);
// Runs of Rust's \w, and of what is neither that nor white space.
PreTokenizerStagePtr MakeWhitespaceStage();
// A space before words that do not begin with one.
PreTokenizerStagePtr MakePrefixSpaceStage();
PreTokenizerStagePtr MakeByteLevelStage();
PreTokenizerStagePtr MakeMetaspaceStage(char32_t replacement, PrependScheme scheme, bool split);
PreTokenizerStagePtr MakeFixedLengthStage(size_t num_characters);
PreTokenizerStagePtr MakeUnicodeScriptsStage();

}  // namespace ringserve
