#include "tests/bench/bench_folder.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "kernels/types.h"
#include "tests/support/random.h"
#include "tests/support/safetensors_bytes.h"

namespace ringserve {
namespace {

// Small numbers of both signs; a norm's are ones, so that activations stay ordinary.
std::string Values(int64_t count, bool is_norm, Random& random) {
  std::vector<Bf16> values(static_cast<size_t>(count));
  for (Bf16& value : values) {
    value = ToBf16(is_norm ? 1.0F : static_cast<float>(random.Uniform(-0.05, 0.05)));
  }
  std::string bytes(values.size() * sizeof(Bf16), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::vector<TestTensor> Tensors(const ModelConfig& shape) {
  const int64_t hidden = shape.hidden_dim;
  const int64_t q = int64_t{shape.num_heads} * shape.head_dim;
  const int64_t kv = int64_t{shape.num_kv_heads} * shape.head_dim;
  Random random(1);
  std::vector<TestTensor> tensors;
  const auto matrix = [&](std::string name, int64_t rows, int64_t cols) {
    tensors.push_back({std::move(name), "BF16", {rows, cols}, Values(rows * cols, false, random)});
  };
  const auto norm = [&](std::string name) {
    tensors.push_back({std::move(name), "BF16", {hidden}, Values(hidden, true, random)});
  };
  matrix("model.embed_tokens.weight", shape.vocab_size, hidden);
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    norm(prefix + "input_layernorm.weight");
    matrix(prefix + "self_attn.q_proj.weight", q, hidden);
    matrix(prefix + "self_attn.k_proj.weight", kv, hidden);
    matrix(prefix + "self_attn.v_proj.weight", kv, hidden);
    matrix(prefix + "self_attn.o_proj.weight", hidden, q);
    norm(prefix + "post_attention_layernorm.weight");
    matrix(prefix + "mlp.gate_proj.weight", shape.ffn_dim, hidden);
    matrix(prefix + "mlp.up_proj.weight", shape.ffn_dim, hidden);
    matrix(prefix + "mlp.down_proj.weight", hidden, shape.ffn_dim);
  }
  norm("model.norm.weight");
  return tensors;
}

}  // namespace

BenchFolder::BenchFolder(const ModelConfig& shape) {
  const nlohmann::json config = {{"architectures", {"LlamaForCausalLM"}},
                                 {"model_type", "llama"},
                                 {"dtype", "bfloat16"},
                                 {"hidden_act", "silu"},
                                 {"hidden_size", shape.hidden_dim},
                                 {"intermediate_size", shape.ffn_dim},
                                 {"num_hidden_layers", shape.num_layers},
                                 {"num_attention_heads", shape.num_heads},
                                 {"num_key_value_heads", shape.num_kv_heads},
                                 {"head_dim", shape.head_dim},
                                 {"vocab_size", shape.vocab_size},
                                 {"max_position_embeddings", shape.max_positions},
                                 {"rms_norm_eps", 1e-5},
                                 {"rope_theta", 10000.0},
                                 {"tie_word_embeddings", true},
                                 {"bos_token_id", 0},
                                 {"eos_token_id", 0}};
  folder_.Write("config.json", config.dump());
  folder_.Write("model.safetensors", SafetensorsBytes(Tensors(shape)));
}

}  // namespace ringserve
