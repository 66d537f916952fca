// Turns a stream of token ids into text that can be sent: whole UTF-8 characters only, nothing of a
// stop string and nothing that may still become one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"
#include "engine/text/stop_matcher.h"
#include "engine/text/tokenizer.h"

namespace ringserve {

// One completion. `tokenizer` must outlive it. One thread at a time. A stop string that is empty or
// not UTF-8 is never found: the server refuses it.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer,
                const std::vector<std::string>& stop_strings,
                bool skip_special_tokens);

  // Adds a token; returns the text that is now decided (often empty). After a stop string is
  // complete returns only what came before it, and from then on nothing.
  std::string Push(int32_t token_id);
  // The end: what was held back. No stop string is looked for in what only the end decides: a
  // character that never became whole (U+FFFD), the last run of byte tokens, the last token before
  // which BPEDecoder waited. To be called once.
  std::string Finish();
  // Which stop string ended the text: the one that completes first; of those completing at the same
  // byte the one that starts first, then the lowest index.
  std::optional<int32_t> stop_index() const;

 private:
  Tokenizer::Stream stream_;
  StopMatcher matcher_;
  std::optional<int32_t> stop_index_;
};

// The same decision for the engine (request.h). Null if there are no stop strings. `tokenizer` must
// outlive it.
std::unique_ptr<StopCondition> MakeStopCondition(const Tokenizer& tokenizer,
                                                 const std::vector<std::string>& stop_strings,
                                                 bool skip_special_tokens);

}  // namespace ringserve
