// Which model a folder holds, as one number: what was computed with a model is of use to no other.
#pragma once

#include <cstdint>
#include <string>

#include "engine/base/status.h"

namespace ringserve {

// A checksum over the names and bytes of config, tokenizer and weight files of a Hugging Face
// folder (config.json, tokenizer.json, tokenizer.model, tokenizer_config.json, *.safetensors and
// their indices). Reads all of them, several pieces at once. Errors name the file.
absl::StatusOr<uint64_t> IdentifyModel(const std::string& model_dir);

}  // namespace ringserve
