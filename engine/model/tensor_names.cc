#include "engine/model/tensor_names.h"

#include <fmt/format.h>

namespace ringserve {

TensorSpec EmbeddingTensor(const ModelConfig& config) {
  return {"model.embed_tokens.weight", config.vocab_size, config.hidden_dim};
}

LayerTensors TensorsOfLayer(const ModelConfig& config, int32_t layer) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const int64_t hidden = config.hidden_dim;
  const int64_t q_dim = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_dim = int64_t{config.num_kv_heads} * config.head_dim;
  return {.attn_norm = {prefix + "input_layernorm.weight", hidden},
          .q = {prefix + "self_attn.q_proj.weight", q_dim, hidden},
          .k = {prefix + "self_attn.k_proj.weight", kv_dim, hidden},
          .v = {prefix + "self_attn.v_proj.weight", kv_dim, hidden},
          .o = {prefix + "self_attn.o_proj.weight", hidden, q_dim},
          .ffn_norm = {prefix + "post_attention_layernorm.weight", hidden},
          .gate = {prefix + "mlp.gate_proj.weight", config.ffn_dim, hidden},
          .up = {prefix + "mlp.up_proj.weight", config.ffn_dim, hidden},
          .down = {prefix + "mlp.down_proj.weight", hidden, config.ffn_dim}};
}

TensorSpec FinalNormTensor(const ModelConfig& config) {
  return {"model.norm.weight", config.hidden_dim};
}

TensorSpec LmHeadTensor(const ModelConfig& config) {
  return {"lm_head.weight", config.vocab_size, config.hidden_dim};
}

bool IsIgnoredTensor(std::string_view name) {
  return name.ends_with(".rotary_emb.inv_freq");
}

}  // namespace ringserve
