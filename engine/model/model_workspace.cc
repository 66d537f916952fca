#include "engine/model/model_workspace.h"

#include <algorithm>

namespace ringserve {
namespace {

constexpr int64_t kAlignment = 128;

}  // namespace

KvLayout EncoderKv(const ModelConfig& config, int32_t block_size, DType dtype) {
  return {.block_size = block_size,
          .num_layers = 1,
          .num_kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .dtype = dtype};
}

Workspace CarveWorkspace(const ModelConfig& config, DType dtype, const StepLimits& limits) {
  Workspace at{};
  int64_t end = 0;
  const auto take = [&end](int64_t count, int64_t element_bytes) {
    const int64_t offset = end;
    end += RoundUp(count * element_bytes, kAlignment);
    return offset;
  };
  const int64_t rows = std::max(limits.max_rows, limits.max_encoder_rows);
  const int64_t logits_rows = limits.max_logits_rows;
  const int64_t element = DTypeBytes(dtype);
  const int64_t q_dim = int64_t{config.num_heads} * config.head_dim;
  const int64_t qkv_dim = q_dim + int64_t{2} * config.num_kv_heads * config.head_dim;
  at.angles[0] = take((rows + limits.max_sink_rows) * config.head_dim, sizeof(float));
  at.angles[1] =
      LayerGroups(config).size() < 2 ? at.angles[0] : take(rows * config.head_dim, sizeof(float));
  at.x = take(int64_t{limits.max_rows} * config.hidden_dim, sizeof(float));
  at.projected = take(rows * config.hidden_dim, sizeof(float));
  at.normed = take(rows * config.hidden_dim, element);
  at.scales = take(rows, sizeof(float));
  if (limits.max_encoder_rows > 0) {
    at.encoder_x = take(int64_t{limits.max_encoder_rows} * config.hidden_dim, sizeof(float));
    at.encoder_kv = take(CeilDiv<int64_t>(limits.max_encoder_rows, limits.block_size),
                         EncoderKv(config, limits.block_size, dtype).block_bytes());
  }
  const int64_t common = end;
  at.qkv = take(rows * qkv_dim, sizeof(float));
  at.q = take(rows * q_dim, element);
  at.attended = take(rows * q_dim, element);
  at.partials = take(limits.max_partials * (config.head_dim + 2), sizeof(float));
  const int64_t attention_end = end;
  end = common;
  at.gate_up = take(rows * (config.gated ? 2 : 1) * config.ffn_dim, sizeof(float));
  at.activated = take(rows * config.ffn_dim, element);
  const int64_t dense_end = end;
  end = common;
  if (config.moe.num_experts > 0) {
    at.router = take(rows * config.moe.num_experts, sizeof(float));
    at.experts =
        take(ExpertsWorkspaceBytes(
                 rows, config.moe.experts_per_token, config.hidden_dim, config.moe.ffn_dim, dtype),
             1);
  }
  end = std::max({end, attention_end, dense_end});
  at.gathered_x = take(logits_rows * config.hidden_dim, sizeof(float));
  at.gathered_projected = take(logits_rows * config.hidden_dim, sizeof(float));
  at.gathered_normed = take(logits_rows * config.hidden_dim, element);
  at.logits = take(logits_rows * config.vocab_size, sizeof(float));
  at.bytes = end;
  return at;
}

}  // namespace ringserve
