// The single normalizers. What each does is the library's; here is only what its options mean.
#pragma once

#include <memory>
#include <string>

#include "engine/text/charsmap.h"
#include "engine/text/normal_form.h"
#include "engine/text/normalizer.h"
#include "engine/text/pattern.h"

namespace ringserve {

using NormalizerStepPtr = std::unique_ptr<const NormalizerStep>;

struct BertOptions {
  bool clean_text;  // drops control characters, every white space becomes ' '
  bool handle_chinese_chars;
  bool strip_accents;
  bool lowercase;
};

NormalizerStepPtr MakeNormalFormStep(NormalForm form);
NormalizerStepPtr MakeLowercaseStep();
NormalizerStepPtr MakeStripStep(bool left, bool right);
NormalizerStepPtr MakeStripAccentsStep();
NormalizerStepPtr MakeNmtStep();
NormalizerStepPtr MakeByteLevelStep();
NormalizerStepPtr MakePrependStep(std::string prefix);
NormalizerStepPtr MakeReplaceStep(Pattern pattern, std::string content);
NormalizerStepPtr MakePrecompiledStep(Charsmap charsmap);
NormalizerStepPtr MakeBertStep(const BertOptions& options);

}  // namespace ringserve
