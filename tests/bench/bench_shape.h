// Shapes of models whose weights a benchmark makes up.
#pragma once

#include <string_view>

#include "engine/base/status.h"
#include "engine/model/model_config.h"

namespace ringserve {

// A Llama shape by name ("llama-1b", "llama3-8b") or by sizes
// ("hidden=2048,layers=16,heads=32,kv_heads=8,ffn=8192,vocab=32000", every key required, and
// optionally head_dim, default hidden / heads).
absl::StatusOr<ModelConfig> ParseShape(std::string_view shape);

}  // namespace ringserve
