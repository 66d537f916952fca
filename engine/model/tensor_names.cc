#include "engine/model/tensor_names.h"

#include <utility>

#include <fmt/format.h>

namespace ringserve {
namespace {

// Sizes that every family has.
struct Sizes {
  int64_t hidden, q_dim, kv_dim, ffn;

  explicit Sizes(const ModelConfig& config)
      : hidden(config.hidden_dim),
        q_dim(int64_t{config.num_heads} * config.head_dim),
        kv_dim(int64_t{config.num_kv_heads} * config.head_dim),
        ffn(config.ffn_dim) {}
};

// `.weight` [rows, cols] and, if the family has one, `.bias` [rows].
LinearTensors Linear(const std::string& name, int64_t rows, int64_t cols, bool bias) {
  LinearTensors linear;
  linear.weight.push_back({name + ".weight", rows, cols});
  if (bias) {
    linear.bias.push_back({name + ".bias", rows});
  }
  return linear;
}

LinearTensors Stacked(std::vector<LinearTensors> parts) {
  LinearTensors stacked;
  for (LinearTensors& part : parts) {
    std::move(part.weight.begin(), part.weight.end(), std::back_inserter(stacked.weight));
    std::move(part.bias.begin(), part.bias.end(), std::back_inserter(stacked.bias));
  }
  return stacked;
}

NormTensors Norm(const std::string& name, int64_t size, bool bias = false) {
  NormTensors norm;
  norm.weight.push_back({name + ".weight", size});
  if (bias) {
    norm.bias.push_back({name + ".bias", size});
  }
  return norm;
}

// Rows of `count` heads, each in the order of pairs that rotate together, then the rest as they
// lie.
std::vector<int32_t> HeadOrder(const ModelConfig& config, int64_t count, int64_t rows) {
  const std::vector<int32_t> of_head = RopeRowOrder(config.rope, config.head_dim);
  std::vector<int32_t> order;
  for (int64_t head = 0; !of_head.empty() && head < count; ++head) {
    for (const int32_t row : of_head) {
      order.push_back(static_cast<int32_t>(head * config.head_dim + row));
    }
  }
  while (!order.empty() && static_cast<int64_t>(order.size()) < rows) {
    order.push_back(static_cast<int32_t>(order.size()));
  }
  return order;
}

// Llama's attention, which most families keep.
void AddAttention(const ModelConfig& config, const std::string& prefix, LayerTensors& tensors) {
  const Sizes size(config);
  const std::string at = prefix + "self_attn.";
  tensors.qkv = Stacked({Linear(at + "q_proj", size.q_dim, size.hidden, config.qkv_bias),
                         Linear(at + "k_proj", size.kv_dim, size.hidden, config.qkv_bias),
                         Linear(at + "v_proj", size.kv_dim, size.hidden, config.qkv_bias)});
  if (config.qk_norm) {
    tensors.q_norm = Norm(at + "q_norm", config.head_dim);
    tensors.k_norm = Norm(at + "k_norm", config.head_dim);
  }
  if (config.learned_sinks) {
    tensors.sinks.push_back({at + "sinks", config.num_heads});
  }
  tensors.o = Linear(at + "o_proj", size.hidden, size.q_dim, config.o_bias);
}

void AddGatedFfn(const std::string& prefix,
                 int64_t hidden,
                 int64_t ffn,
                 bool bias,
                 LinearTensors& gate_up,
                 LinearTensors& down) {
  gate_up = Stacked({Linear(prefix + "gate_proj", ffn, hidden, bias),
                     Linear(prefix + "up_proj", ffn, hidden, bias)});
  down = Linear(prefix + "down_proj", hidden, ffn, bias);
}

void AddMixtralExperts(const ModelConfig& config,
                       const std::string& prefix,
                       LayerTensors& tensors) {
  const std::string at = prefix + "block_sparse_moe.";
  const int64_t hidden = config.hidden_dim;
  const int64_t ffn = config.moe.ffn_dim;
  tensors.router = Linear(at + "gate", config.moe.num_experts, hidden, false);
  for (int32_t i = 0; i < config.moe.num_experts; ++i) {
    const std::string expert = fmt::format("{}experts.{}.", at, i);
    tensors.experts.push_back({Stacked({Linear(expert + "w1", ffn, hidden, false),
                                        Linear(expert + "w3", ffn, hidden, false)}),
                               Linear(expert + "w2", hidden, ffn, false)});
  }
}

void AddQwenExperts(const ModelConfig& config, const std::string& prefix, LayerTensors& tensors) {
  tensors.router = Linear(prefix + "mlp.gate", config.moe.num_experts, config.hidden_dim, false);
  for (int32_t i = 0; i < config.moe.num_experts; ++i) {
    ExpertTensors& expert = tensors.experts.emplace_back();
    AddGatedFfn(fmt::format("{}mlp.experts.{}.", prefix, i),
                config.hidden_dim,
                config.moe.ffn_dim,
                false,
                expert.gate_up,
                expert.down);
  }
}

// All experts in one tensor, transposed, gate and up row by row in turn.
void AddGptOssExperts(const ModelConfig& config, const std::string& prefix, LayerTensors& tensors) {
  const int64_t hidden = config.hidden_dim;
  const int64_t ffn = config.moe.ffn_dim;
  const int64_t count = config.moe.num_experts;
  tensors.router = Linear(prefix + "mlp.router", count, hidden, true);
  std::vector<int32_t> in_turn;
  in_turn.reserve(static_cast<size_t>(2 * ffn));
  for (int32_t i = 0; i < 2 * ffn; ++i) {
    in_turn.push_back(i < ffn ? 2 * i : 2 * (i - static_cast<int32_t>(ffn)) + 1);
  }
  const std::string at = prefix + "mlp.experts.";
  for (int64_t i = 0; i < count; ++i) {
    ExpertTensors& expert = tensors.experts.emplace_back();
    expert.gate_up.weight.push_back(
        {at + "gate_up_proj", 2 * ffn, hidden, true, count, i, in_turn});
    expert.gate_up.bias.push_back({at + "gate_up_proj_bias", 2 * ffn, 0, false, count, i, in_turn});
    expert.down.weight.push_back({at + "down_proj", hidden, ffn, true, count, i, {}});
    expert.down.bias.push_back({at + "down_proj_bias", hidden, 0, false, count, i, {}});
  }
}

LayerTensors Gpt2Layer(const ModelConfig& config, int32_t layer) {
  const std::string prefix = fmt::format("transformer.h.{}.", layer);
  const Sizes size(config);
  // Its Conv1D stores weights as [in, out].
  const auto conv = [&](const std::string& name, int64_t rows, int64_t cols) {
    LinearTensors linear = Linear(prefix + name, rows, cols, true);
    linear.weight.front().transposed = true;
    return linear;
  };
  LayerTensors tensors;
  tensors.attn_norm = Norm(prefix + "ln_1", size.hidden, true);
  tensors.qkv = conv("attn.c_attn", size.q_dim + 2 * size.kv_dim, size.hidden);
  tensors.o = conv("attn.c_proj", size.hidden, size.q_dim);
  tensors.ffn_norm = Norm(prefix + "ln_2", size.hidden, true);
  tensors.gate_up = conv("mlp.c_fc", size.ffn, size.hidden);
  tensors.down = conv("mlp.c_proj", size.hidden, size.ffn);
  return tensors;
}

// A layer of the decoder, or of the encoder: without the attention in between.
LayerTensors T5Layer(const ModelConfig& config, int32_t layer) {
  const bool decodes = layer < config.num_layers;
  const Sizes size(config);
  const std::string prefix =
      decodes ? fmt::format("decoder.block.{}.layer.", layer)
              : fmt::format("encoder.block.{}.layer.", layer - config.num_layers);
  const auto linear = [](const std::string& name, int64_t rows, int64_t cols) {
    return Linear(name, rows, cols, false);
  };
  LayerTensors tensors;
  const std::string self = prefix + "0.SelfAttention.";
  tensors.attn_norm = Norm(prefix + "0.layer_norm", size.hidden);
  tensors.qkv = Stacked({linear(self + "q", size.q_dim, size.hidden),
                         linear(self + "k", size.kv_dim, size.hidden),
                         linear(self + "v", size.kv_dim, size.hidden)});
  tensors.o = linear(self + "o", size.hidden, size.q_dim);
  if (decodes) {
    const std::string cross = prefix + "1.EncDecAttention.";
    tensors.cross_norm = Norm(prefix + "1.layer_norm", size.hidden);
    tensors.cross_q = linear(cross + "q", size.q_dim, size.hidden);
    tensors.cross_kv = Stacked({linear(cross + "k", size.kv_dim, size.hidden),
                                linear(cross + "v", size.kv_dim, size.hidden)});
    tensors.cross_o = linear(cross + "o", size.hidden, size.q_dim);
  }
  const std::string last = prefix + (decodes ? "2." : "1.");
  const std::string ffn = last + "DenseReluDense.";
  tensors.ffn_norm = Norm(last + "layer_norm", size.hidden);
  tensors.gate_up = config.gated ? Stacked({linear(ffn + "wi_0", size.ffn, size.hidden),
                                            linear(ffn + "wi_1", size.ffn, size.hidden)})
                                 : linear(ffn + "wi", size.ffn, size.hidden);
  tensors.down = linear(ffn + "wo", size.hidden, size.ffn);
  return tensors;
}

void AddFfn(const ModelConfig& config,
            const std::string& prefix,
            int32_t layer,
            LayerTensors& tensors) {
  const Sizes size(config);
  if (!config.moe.IsDense(layer)) {
    config.tensors == TensorStyle::kMixtral  ? AddMixtralExperts(config, prefix, tensors)
    : config.tensors == TensorStyle::kGptOss ? AddGptOssExperts(config, prefix, tensors)
                                             : AddQwenExperts(config, prefix, tensors);
  } else if (config.tensors == TensorStyle::kPhi3) {
    tensors.gate_up =
        Linear(prefix + "mlp.gate_up_proj", 2 * size.ffn, size.hidden, config.mlp_bias);
    tensors.down = Linear(prefix + "mlp.down_proj", size.hidden, size.ffn, config.mlp_bias);
  } else {
    AddGatedFfn(
        prefix + "mlp.", size.hidden, size.ffn, config.mlp_bias, tensors.gate_up, tensors.down);
  }
}

}  // namespace

std::vector<const TensorSpec*> LayerTensors::all() const {
  std::vector<const TensorSpec*> specs;
  const auto add = [&](const TensorParts& parts) {
    for (const TensorSpec& spec : parts) {
      specs.push_back(&spec);
    }
  };
  const auto add_both = [&](const auto& tensors) {
    add(tensors.weight);
    add(tensors.bias);
  };
  add_both(attn_norm);
  add_both(qkv);
  add_both(q_norm);
  add_both(k_norm);
  add(sinks);
  add_both(o);
  add_both(post_attn_norm);
  add_both(cross_norm);
  add_both(cross_q);
  add_both(cross_kv);
  add_both(cross_o);
  add_both(ffn_norm);
  add_both(gate_up);
  add_both(down);
  add_both(router);
  for (const ExpertTensors& expert : experts) {
    add_both(expert.gate_up);
    add_both(expert.down);
  }
  add_both(post_ffn_norm);
  return specs;
}

ModelTensors TensorsOfModel(const ModelConfig& config) {
  const int64_t hidden = config.hidden_dim;
  ModelTensors tensors;
  tensors.lm_head = {"lm_head.weight", config.vocab_size, hidden};
  if (config.tensors == TensorStyle::kGpt2) {
    tensors.embedding = {"transformer.wte.weight", config.vocab_size, hidden};
    tensors.positions.push_back({"transformer.wpe.weight", config.max_positions, hidden});
    tensors.final_norm = Norm("transformer.ln_f", hidden, true);
  } else if (config.tensors == TensorStyle::kT5) {
    const std::string bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    tensors.embedding = {"shared.weight", config.vocab_size, hidden};
    tensors.position_bias.push_back(
        {"decoder." + bias, config.position_bias.num_buckets, config.num_heads});
    tensors.encoder_position_bias = tensors.position_bias;
    tensors.encoder_position_bias.front().name = "encoder." + bias;
    tensors.encoder_norm = Norm("encoder.final_layer_norm", hidden);
    tensors.final_norm = Norm("decoder.final_layer_norm", hidden);
  } else {
    tensors.embedding = {"model.embed_tokens.weight", config.vocab_size, hidden};
    tensors.final_norm = Norm("model.norm", hidden);
  }
  return tensors;
}

LayerTensors TensorsOfLayer(const ModelConfig& config, int32_t layer) {
  if (config.tensors == TensorStyle::kGpt2) {
    return Gpt2Layer(config, layer);
  }
  if (config.tensors == TensorStyle::kT5) {
    return T5Layer(config, layer);
  }
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const Sizes size(config);
  LayerTensors tensors;
  tensors.attn_norm = Norm(prefix + "input_layernorm", size.hidden);
  AddAttention(config, prefix, tensors);
  if (config.tensors == TensorStyle::kPhi3) {
    const int64_t rows = size.q_dim + 2 * size.kv_dim;
    tensors.qkv = Linear(prefix + "self_attn.qkv_proj", rows, size.hidden, config.qkv_bias);
    tensors.qkv.weight.front().order =
        HeadOrder(config, int64_t{config.num_heads} + config.num_kv_heads, rows);
  }
  if (config.post_norms) {
    tensors.post_attn_norm = Norm(prefix + "post_attention_layernorm", size.hidden);
    tensors.ffn_norm = Norm(prefix + "pre_feedforward_layernorm", size.hidden);
    tensors.post_ffn_norm = Norm(prefix + "post_feedforward_layernorm", size.hidden);
  } else {
    tensors.ffn_norm = Norm(prefix + "post_attention_layernorm", size.hidden);
  }
  AddFfn(config, prefix, layer, tensors);
  return tensors;
}

bool IsIgnoredTensor(std::string_view name) {
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attn.bias") ||
         name.ends_with(".attn.masked_bias") ||
         name.ends_with(".EncDecAttention.relative_attention_bias.weight") ||
         name == "encoder.embed_tokens.weight" || name == "decoder.embed_tokens.weight";
}

}  // namespace ringserve
