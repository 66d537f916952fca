// What a decoder means: plain loops in arithmetic of T over the tensors of its folder, one token
// after the other, no tiles, no blocks, no batches. In double it is the truth of the tests; in
// float with `round` it rounds where the bf16 kernels round and is their yardstick.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <numbers>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "engine/model/model_config.h"
#include "kernels/types.h"

namespace ringserve {

// The context rule of a sliding session; buffer_size 0: everything is visible.
struct ReferenceContext {
  int64_t buffer_size = 0;
  int64_t block_size = 0;
  int64_t sink_size = 0;
  int64_t length = 0;  // how long the text can become; 0: the model's max_positions

  // First position of the window that the query at `position` sees.
  int64_t FirstVisible(int64_t position) const {
    if (buffer_size == 0 || position < buffer_size) {
      return 0;
    }
    return CeilDiv(position + 1 - buffer_size, block_size) * block_size;
  }
};

struct ReferenceRounding {
  bool activations = false;  // to bf16, where the kernels round
  bool frequencies =
      false;  // the rotary frequencies to bf16, as a model cast to bf16 in memory has them
};

template <typename T>
class ReferenceModel {
 public:
  using Tensors = std::map<std::string, std::vector<float>>;
  using Row = std::vector<T>;

  ReferenceModel(ModelConfig config,
                 const Tensors& tensors,
                 ReferenceContext context,
                 ReferenceRounding round)
      : config_(std::move(config)),
        tensors_(tensors),
        context_(context),
        round_(round.activations),
        keys_(static_cast<size_t>(config_.num_layers)),
        values_(keys_.size()) {
    const int64_t length = context.length > 0 ? context.length : config_.max_positions;
    frequencies_[0] = RopeFrequencies(config_.rope, config_.head_dim, length);
    frequencies_[1] = RopeFrequencies(config_.local_rope, config_.head_dim, length);
    for (auto& frequencies : frequencies_) {
      for (double& frequency : frequencies) {
        if (round.frequencies) {
          frequency = ToFloat(ToBf16(static_cast<float>(frequency)));
        }
      }
    }
  }

  // Appends the token; its logits, [vocab_size].
  Row Push(int32_t token_id) {
    const bool gpt2 = config_.tensors == TensorStyle::kGpt2;
    const std::string table = gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight";
    Row x = TableRow(table, token_id);
    for (T& value : x) {
      value *= static_cast<T>(config_.embedding_scale);
    }
    if (config_.learned_positions) {
      Add(x, TableRow("transformer.wpe.weight", static_cast<int32_t>(position_)));
    }
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      PushLayer(layer, x);
    }
    ++position_;
    Row logits = Product(config_.tied_embeddings ? table : "lm_head.weight",
                         config_.vocab_size,
                         Norm(x, gpt2 ? "transformer.ln_f" : "model.norm"));
    for (T& logit : logits) {
      logit = Softcap(logit, config_.logits_softcap);
    }
    return logits;
  }

 private:
  void PushLayer(int32_t layer, Row& x) {
    if (config_.tensors == TensorStyle::kGpt2) {
      const std::string prefix = "transformer.h." + std::to_string(layer) + ".";
      Add(x, Attend(layer, prefix + "attn.", Norm(x, prefix + "ln_1")));
      const Row inner =
          Linear(prefix + "mlp.c_fc", config_.ffn_dim, Norm(x, prefix + "ln_2"), true);
      Row activated;
      for (const T value : inner) {
        activated.push_back(Round(Activate(value)));
      }
      Add(x, Linear(prefix + "mlp.c_proj", config_.hidden_dim, activated, true));
      return;
    }
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    Row attended = Attend(layer, prefix + "self_attn.", Norm(x, prefix + "input_layernorm"));
    if (config_.post_norms) {
      attended = Norm(attended, prefix + "post_attention_layernorm", false);
    }
    Add(x, attended);
    const Row normed = Norm(
        x,
        prefix + (config_.post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm"));
    Row fed = config_.moe.IsDense(layer) ? FeedForward(prefix + "mlp.", normed, config_.ffn_dim)
                                         : Mix(prefix, normed);
    if (config_.post_norms) {
      fed = Norm(fed, prefix + "post_feedforward_layernorm", false);
    }
    Add(x, fed);
  }

  T Round(T value) const {
    return round_ ? static_cast<T>(ToFloat(ToBf16(static_cast<float>(value)))) : value;
  }

  const std::vector<float>& Tensor(const std::string& name) const { return tensors_.at(name); }

  Row TableRow(const std::string& name, int32_t row) const {
    const auto hidden = static_cast<int64_t>(config_.hidden_dim);
    const auto first = Tensor(name).begin() + row * hidden;
    return Row(first, first + hidden);
  }

  static void Add(Row& x, const Row& y) {
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] += y[i];
    }
  }

  static T Softcap(T value, float cap) {
    return cap > 0 ? static_cast<T>(cap) * std::tanh(value / static_cast<T>(cap)) : value;
  }

  // `rounds`: what it makes goes into a product.
  Row Norm(const Row& x, const std::string& name, bool rounds = true) const {
    const auto size = static_cast<T>(x.size());
    T mean = 0;
    if (config_.layer_norm) {
      mean = std::accumulate(x.begin(), x.end(), T{0}) / size;
    }
    T sum = 0;
    for (const T value : x) {
      sum += (value - mean) * (value - mean);
    }
    const T scale = T{1} / std::sqrt(sum / size + static_cast<T>(config_.rms_norm_eps));
    const std::vector<float>& w = Tensor(name + ".weight");
    Row out(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const T weight = static_cast<T>(w[i]) + (config_.norm_plus_one ? T{1} : T{0});
      out[i] = (x[i] - mean) * scale * weight;
      if (config_.layer_norm) {
        out[i] += static_cast<T>(Tensor(name + ".bias")[i]);
      }
      out[i] = rounds ? Round(out[i]) : out[i];
    }
    return out;
  }

  // A matrix [num_out, x.size()]; or, `transposed`, [x.size(), num_out].
  Row Product(const std::string& name,
              int64_t num_out,
              const Row& x,
              bool transposed = false) const {
    const std::vector<float>& w = Tensor(name);
    const auto cols = static_cast<int64_t>(x.size());
    Row out(static_cast<size_t>(num_out));
    for (int64_t j = 0; j < num_out; ++j) {
      T sum = 0;
      for (int64_t k = 0; k < cols; ++k) {
        const int64_t at = transposed ? k * num_out + j : j * cols + k;
        sum += static_cast<T>(w[static_cast<size_t>(at)]) * x[static_cast<size_t>(k)];
      }
      out[static_cast<size_t>(j)] = sum;
    }
    return out;
  }

  // With the bias, if there is one.
  Row Linear(const std::string& name,
             int64_t num_out,
             const Row& x,
             bool transposed = false) const {
    Row out = Product(name + ".weight", num_out, x, transposed);
    const auto bias = tensors_.find(name + ".bias");
    for (size_t i = 0; bias != tensors_.end() && i < out.size(); ++i) {
      out[i] += static_cast<T>(bias->second[i]);
    }
    return out;
  }

  // Queries, keys and values before rotation.
  void Project(const std::string& prefix, const Row& x, Row& q, Row& k, Row& v) const {
    const int64_t q_dim = int64_t{config_.num_heads} * config_.head_dim;
    const int64_t kv_dim = int64_t{config_.num_kv_heads} * config_.head_dim;
    if (config_.tensors == TensorStyle::kGpt2 || config_.tensors == TensorStyle::kPhi3) {
      const Row all = config_.tensors == TensorStyle::kGpt2
                          ? Linear(prefix + "c_attn", q_dim + 2 * kv_dim, x, true)
                          : Linear(prefix + "qkv_proj", q_dim + 2 * kv_dim, x);
      q.assign(all.begin(), all.begin() + q_dim);
      k.assign(all.begin() + q_dim, all.begin() + q_dim + kv_dim);
      v.assign(all.begin() + q_dim + kv_dim, all.end());
      return;
    }
    q = Linear(prefix + "q_proj", q_dim, x);
    k = Linear(prefix + "k_proj", kv_dim, x);
    v = Linear(prefix + "v_proj", kv_dim, x);
    if (config_.qk_norm) {
      NormHeads(q, prefix + "q_norm");
      NormHeads(k, prefix + "k_norm");
    }
  }

  void NormHeads(Row& heads, const std::string& name) const {
    const auto dim = static_cast<size_t>(config_.head_dim);
    for (size_t head = 0; head < heads.size(); head += dim) {
      const Row one(heads.begin() + head, heads.begin() + head + dim);
      const Row normed = Norm(one, name, false);
      std::copy(normed.begin(), normed.end(), heads.begin() + head);
    }
  }

  // Rotates every head of `heads` from position 0 to `position`, as the files number dimensions.
  Row Rotated(Row heads, int64_t position, bool local) const {
    const RopeConfig& rope = local ? config_.local_rope : config_.rope;
    const auto dim = static_cast<size_t>(config_.head_dim);
    const size_t rotated = rope.rotary_dim == 0 ? dim : static_cast<size_t>(rope.rotary_dim);
    for (size_t head = 0; head < heads.size(); head += dim) {
      for (size_t i = 0; i < rotated / 2; ++i) {
        const double frequency = frequencies_[local ? 1 : 0][i];
        const double angle = static_cast<double>(position) * frequency;
        const double magnitude = rope.kind == RopeConfig::Kind::kNone ? 1.0 : rope.attention_factor;
        const T cosine = static_cast<T>(std::cos(angle) * magnitude);
        const T sine = static_cast<T>(std::sin(angle) * magnitude);
        const T a = heads[head + i];
        const T b = heads[head + rotated / 2 + i];
        heads[head + i] = a * cosine - b * sine;
        heads[head + rotated / 2 + i] = b * cosine + a * sine;
      }
    }
    for (T& value : heads) {
      value = Round(value);
    }
    return heads;
  }

  struct Key {
    Row plain;    // before rotation
    Row rotated;  // at its own position
  };

  Row Attend(int32_t layer, const std::string& prefix, const Row& x) {
    const int32_t dim = config_.head_dim;
    const bool local = config_.IsLocal(layer);
    auto& keys = keys_[static_cast<size_t>(layer)];
    auto& values = values_[static_cast<size_t>(layer)];
    Row query;
    Row key;
    Row value;
    Project(prefix, x, query, key, value);
    Row plain = key;
    for (size_t i = 0; i < value.size(); ++i) {
      value[i] = Round(value[i]);
      plain[i] = Round(plain[i]);
    }
    keys.push_back({std::move(plain), Rotated(key, position_, local)});
    values.push_back(std::move(value));
    query = Rotated(std::move(query), position_, local);

    // The keys that this position sees, in order.
    const int64_t first = local ? std::max<int64_t>(0, position_ + 1 - config_.window)
                                : context_.FirstVisible(position_);
    std::vector<Row> seen_keys;
    std::vector<const T*> seen_values;
    for (int64_t j = 0; !local && first > 0 && j < context_.sink_size; ++j) {
      seen_keys.push_back(
          Rotated(keys[static_cast<size_t>(j)].plain, first - context_.sink_size + j, false));
      seen_values.push_back(values[static_cast<size_t>(j)].data());
    }
    for (int64_t j = first; j <= position_; ++j) {
      seen_keys.push_back(keys[static_cast<size_t>(j)].rotated);
      seen_values.push_back(values[static_cast<size_t>(j)].data());
    }
    Row out(query.size());
    for (int32_t head = 0; head < config_.num_heads; ++head) {
      const T* sink = nullptr;
      T sink_value = 0;
      if (config_.learned_sinks) {
        sink_value = static_cast<T>(Tensor(prefix + "sinks")[static_cast<size_t>(head)]);
        sink = &sink_value;
      }
      AttendHead(query.data() + head * dim,
                 seen_keys,
                 seen_values,
                 head / (config_.num_heads / config_.num_kv_heads) * dim,
                 Scale(layer),
                 sink,
                 out.data() + head * dim);
    }
    return config_.tensors == TensorStyle::kGpt2
               ? Linear(prefix + "c_proj", config_.hidden_dim, out, true)
               : Linear(prefix + "o_proj", config_.hidden_dim, out);
  }

  T Scale(int32_t layer) const {
    const T scale = config_.attention_scale > 0
                        ? static_cast<T>(config_.attention_scale)
                        : T{1} / std::sqrt(static_cast<T>(config_.head_dim));
    return config_.scale_by_layer ? scale / static_cast<T>(layer + 1) : scale;
  }

  void AttendHead(const T* query,
                  const std::vector<Row>& keys,
                  const std::vector<const T*>& values,
                  int32_t offset,
                  T scale,
                  const T* sink,
                  T* out) const {
    const int32_t dim = config_.head_dim;
    Row scores(keys.size());
    T largest = sink != nullptr ? *sink : -std::numeric_limits<T>::infinity();
    for (size_t j = 0; j < keys.size(); ++j) {
      T dot = 0;
      for (int32_t i = 0; i < dim; ++i) {
        dot += query[i] * keys[j][static_cast<size_t>(offset + i)];
      }
      scores[j] = Softcap(dot * scale, config_.attention_softcap);
      largest = std::max(largest, scores[j]);
    }
    T sum = sink != nullptr ? std::exp(*sink - largest) : T{0};
    for (T& score : scores) {
      score = std::exp(score - largest);
      sum += score;
    }
    for (int32_t i = 0; i < dim; ++i) {
      T mixed = 0;
      for (size_t j = 0; j < keys.size(); ++j) {
        mixed += Round(scores[j]) * values[j][offset + i];
      }
      out[i] = Round(mixed / sum);
    }
  }

  T Activate(T x) const {
    switch (config_.activation) {
      case Activation::kSilu:
        return x / (T{1} + std::exp(-x));
      case Activation::kGelu:
        return x * T{0.5} * (T{1} + std::erf(x / std::numbers::sqrt2_v<T>));
      case Activation::kGeluTanh:
        return T{0.5} * x *
               (T{1} + std::tanh(std::sqrt(T{2} / std::numbers::pi_v<T>) *
                                 (x + static_cast<T>(0.044715) * x * x * x)));
      case Activation::kRelu:
        return std::max(x, T{0});
      case Activation::kClampedSilu:
        x = std::min(x, T{7});
        return x / (T{1} + std::exp(static_cast<T>(-1.702) * x));
    }
    return x;
  }

  Row Gated(const Row& gate, const Row& up) const {
    Row out(gate.size());
    for (size_t i = 0; i < gate.size(); ++i) {
      T other = up[i];
      if (config_.activation == Activation::kClampedSilu) {
        other = std::clamp(other, T{-7}, T{7}) + T{1};
      }
      out[i] = Round(Activate(gate[i]) * other);
    }
    return out;
  }

  Row FeedForward(const std::string& prefix, const Row& x, int32_t ffn_dim) const {
    if (config_.tensors == TensorStyle::kPhi3) {
      const Row both = Linear(prefix + "gate_up_proj", int64_t{2} * ffn_dim, x);
      return Linear(prefix + "down_proj",
                    config_.hidden_dim,
                    Gated(Row(both.begin(), both.begin() + ffn_dim),
                          Row(both.begin() + ffn_dim, both.end())));
    }
    return Linear(
        prefix + "down_proj",
        config_.hidden_dim,
        Gated(Linear(prefix + "gate_proj", ffn_dim, x), Linear(prefix + "up_proj", ffn_dim, x)));
  }

  Row Mix(const std::string& prefix, const Row& x) const {
    const MoeConfig& moe = config_.moe;
    const std::string router = config_.tensors == TensorStyle::kMixtral  ? "block_sparse_moe.gate"
                               : config_.tensors == TensorStyle::kGptOss ? "mlp.router"
                                                                         : "mlp.gate";
    const Row logits = Linear(prefix + router, moe.num_experts, x);
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    T total = 0;
    for (size_t i = 0; i < order.size(); ++i) {
      if (!moe.normalize || i < static_cast<size_t>(moe.experts_per_token)) {
        total += std::exp(logits[static_cast<size_t>(order[i])]);
      }
    }
    Row sum(static_cast<size_t>(config_.hidden_dim));
    for (int32_t i = 0; i < moe.experts_per_token; ++i) {
      const int32_t expert = order[static_cast<size_t>(i)];
      const Row part = Expert(prefix, expert, x);
      const T weight = std::exp(logits[static_cast<size_t>(expert)]) / total;
      for (size_t j = 0; j < sum.size(); ++j) {
        sum[j] += weight * part[j];
      }
    }
    return sum;
  }

  Row Expert(const std::string& prefix, int32_t expert, const Row& x) const {
    const int32_t ffn = config_.moe.ffn_dim;
    if (config_.tensors == TensorStyle::kMixtral) {
      const std::string at = prefix + "block_sparse_moe.experts." + std::to_string(expert) + ".";
      return Linear(at + "w2",
                    config_.hidden_dim,
                    Gated(Linear(at + "w1", ffn, x), Linear(at + "w3", ffn, x)));
    }
    if (config_.tensors != TensorStyle::kGptOss) {
      return FeedForward(prefix + "mlp.experts." + std::to_string(expert) + ".", x, ffn);
    }
    const std::string at = prefix + "mlp.experts.";
    const Row both = Slice(at + "gate_up_proj", expert, int64_t{2} * ffn, x);
    Row gate;
    Row up;
    for (size_t i = 0; i < both.size(); i += 2) {
      gate.push_back(both[i]);
      up.push_back(both[i + 1]);
    }
    return Slice(at + "down_proj", expert, config_.hidden_dim, Gated(gate, up));
  }

  // x times matrix `slice` of a tensor [slices, x.size(), num_out], and its bias.
  Row Slice(const std::string& name, int64_t slice, int64_t num_out, const Row& x) const {
    const std::vector<float>& w = Tensor(name);
    const std::vector<float>& bias = Tensor(name + "_bias");
    Row out(static_cast<size_t>(num_out));
    for (int64_t j = 0; j < num_out; ++j) {
      T sum = static_cast<T>(bias[static_cast<size_t>(slice * num_out + j)]);
      for (size_t k = 0; k < x.size(); ++k) {
        const auto row = slice * static_cast<int64_t>(x.size()) + static_cast<int64_t>(k);
        sum += static_cast<T>(w[static_cast<size_t>(row * num_out + j)]) * x[k];
      }
      out[static_cast<size_t>(j)] = sum;
    }
    return out;
  }

  const ModelConfig config_;
  const Tensors& tensors_;
  const ReferenceContext context_;
  const bool round_;
  std::vector<double> frequencies_[2];  // of global and of local layers
  int64_t position_ = 0;
  std::vector<std::vector<Key>> keys_;    // [layer][position]
  std::vector<std::vector<Row>> values_;  // [layer][position]
};

}  // namespace ringserve
