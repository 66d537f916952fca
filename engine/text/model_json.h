// The "model" of tokenizer.json.
#pragma once

#include <memory>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/status.h"
#include "engine/text/pretokenizer.h"
#include "engine/text/text_model.h"
#include "engine/text/vocab_json.h"

namespace ringserve {

struct ModelJson {
  std::unique_ptr<const TextModel> model;
  VocabJson vocab;  // views into the JSON document
};

// BPE, Unigram, WordPiece or WordLevel. If BPE can do without words in the byte-level alphabet it
// takes that stage from `pre_tokenizer` and encodes bytes.
absl::StatusOr<ModelJson> ParseModelJson(const nlohmann::json& value,
                                         const std::string& path,
                                         PreTokenizer* pre_tokenizer);

// bpe_json.cc
absl::StatusOr<ModelJson> ParseBpeJson(JsonReader* reader, PreTokenizer* pre_tokenizer);

}  // namespace ringserve
