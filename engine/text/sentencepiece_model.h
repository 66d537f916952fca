// tokenizer.model, SentencePiece's own file, for folders without a tokenizer.json.
//
// It is read here, not by libsentencepiece: it is one small protobuf message, the rest is the
// Unigram and BPE that are here anyway, and so such a model streams, lists its problems and matches
// added tokens like all others. It is turned into the tokenizer.json that Hugging Face's converters
// would write; where these differ by model class the options of the file itself count.
#pragma once

#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/status.h"

namespace ringserve {

struct SentencePieceOptions {
  bool add_bos = false;  // to every text; the ids are the file's
  bool add_eos = false;
};

// The tokenizer.json for a serialized ModelProto of type UNIGRAM or BPE. INVALID_ARGUMENT: damaged,
// or of another type.
absl::StatusOr<nlohmann::json> TokenizerJsonOfSentencePiece(std::string_view model,
                                                            const SentencePieceOptions& options);

}  // namespace ringserve
