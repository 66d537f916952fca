#include "tests/bench/bench_shape.h"

#include <cstdlib>
#include <map>
#include <string>

#include <fmt/format.h>

namespace ringserve {

absl::StatusOr<ModelConfig> ParseShape(std::string_view shape) {
  if (shape == "llama-1b") {
    shape = "hidden=2048,layers=16,heads=32,kv_heads=8,ffn=8192,vocab=32000";
  } else if (shape == "llama3-8b") {
    shape = "hidden=4096,layers=32,heads=32,kv_heads=8,ffn=14336,vocab=128256";
  }
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.max_positions = 1 << 20;
  config.rms_norm_eps = 1e-5F;
  const std::map<std::string_view, int32_t*> keys = {
      {"hidden", &config.hidden_dim},
      {"layers", &config.num_layers},
      {"heads", &config.num_heads},
      {"kv_heads", &config.num_kv_heads},
      {"ffn", &config.ffn_dim},
      {"vocab", &config.vocab_size},
      {"head_dim", &config.head_dim},
  };
  while (!shape.empty()) {
    const std::string_view item = shape.substr(0, shape.find(','));
    shape.remove_prefix(std::min(shape.size(), item.size() + 1));
    const size_t equals = item.find('=');
    const auto key = keys.find(item.substr(0, equals));
    const std::string value(equals == std::string_view::npos ? "" : item.substr(equals + 1));
    char* end = nullptr;
    const int64_t number = std::strtoll(value.c_str(), &end, 10);
    if (key == keys.end() || value.empty() || *end != '\0' || number < 1 || number > (1 << 20)) {
      return absl::InvalidArgumentError(fmt::format(
          "shape: \"{}\" is not KEY=NUMBER with a key of hidden, layers, heads, kv_heads, ffn, "
          "vocab, head_dim and a number in [1, 1048576]",
          item));
    }
    *key->second = static_cast<int32_t>(number);
  }
  for (const auto& [key, value] : keys) {
    if (*value == 0 && key != "head_dim") {
      return absl::InvalidArgumentError(fmt::format("shape: {} is missing", key));
    }
  }
  if (config.head_dim == 0) {
    config.head_dim = config.hidden_dim / config.num_heads;
  }
  if (config.num_heads % config.num_kv_heads != 0) {
    return absl::InvalidArgumentError(fmt::format(
        "shape: heads={} is not a multiple of kv_heads={}", config.num_heads, config.num_kv_heads));
  }
  return config;
}

}  // namespace ringserve
