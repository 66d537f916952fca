// What a Llama model means: plain loops in arithmetic of T over the tensors of its folder, one
// token after the other, no tiles, no blocks, no batches. In double it is the truth of the tests;
// in float with `round` it rounds where the bf16 kernels round and is their yardstick.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
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

  ReferenceModel(ModelConfig config,
                 const Tensors& tensors,
                 ReferenceContext context,
                 ReferenceRounding round)
      : config_(std::move(config)),
        tensors_(tensors),
        context_(context),
        round_(round.activations),
        frequencies_(RopeFrequencies(config_.rope, config_.head_dim)),
        keys_(static_cast<size_t>(config_.num_layers)),
        values_(keys_.size()) {
    for (double& frequency : frequencies_) {
      if (round.frequencies) {
        frequency = ToFloat(ToBf16(static_cast<float>(frequency)));
      }
    }
  }

  // Appends the token; its logits, [vocab_size].
  std::vector<T> Push(int32_t token_id) {
    const auto hidden = static_cast<size_t>(config_.hidden_dim);
    const float* row = Tensor("model.embed_tokens.weight") + static_cast<size_t>(token_id) * hidden;
    std::vector<T> x(row, row + hidden);
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      Add(x, Attend(layer, prefix + "self_attn.", Norm(x, prefix + "input_layernorm.weight")));
      Add(x, FeedForward(prefix + "mlp.", Norm(x, prefix + "post_attention_layernorm.weight")));
    }
    ++position_;
    return Product(config_.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight",
                   config_.vocab_size,
                   Norm(x, "model.norm.weight"));
  }

 private:
  T Round(T value) const {
    return round_ ? static_cast<T>(ToFloat(ToBf16(static_cast<float>(value)))) : value;
  }

  const float* Tensor(const std::string& name) const { return tensors_.at(name).data(); }

  static void Add(std::vector<T>& x, const std::vector<T>& y) {
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] += y[i];
    }
  }

  std::vector<T> Norm(const std::vector<T>& x, const std::string& weight) const {
    T sum = 0;
    for (const T value : x) {
      sum += value * value;
    }
    const T scale =
        T{1} / std::sqrt(sum / static_cast<T>(x.size()) + static_cast<T>(config_.rms_norm_eps));
    const float* w = Tensor(weight);
    std::vector<T> out(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      out[i] = Round(x[i] * scale * static_cast<T>(w[i]));
    }
    return out;
  }

  std::vector<T> Product(const std::string& weight,
                         int32_t num_out,
                         const std::vector<T>& x) const {
    const float* w = Tensor(weight);
    std::vector<T> out(static_cast<size_t>(num_out));
    for (T& y : out) {
      T sum = 0;
      for (size_t k = 0; k < x.size(); ++k) {
        sum += static_cast<T>(w[k]) * x[k];
      }
      y = sum;
      w += x.size();
    }
    return out;
  }

  // Rotates every head of `heads` from position 0 to `position`.
  std::vector<T> Rotated(std::vector<T> heads, int64_t position) const {
    const auto dim = static_cast<size_t>(config_.head_dim);
    for (size_t head = 0; head < heads.size(); head += dim) {
      for (size_t i = 0; i < dim / 2; ++i) {
        const double angle = static_cast<double>(position) * frequencies_[i];
        const T cosine = static_cast<T>(std::cos(angle));
        const T sine = static_cast<T>(std::sin(angle));
        const T a = heads[head + i];
        const T b = heads[head + dim / 2 + i];
        heads[head + i] = Round(a * cosine - b * sine);
        heads[head + dim / 2 + i] = Round(b * cosine + a * sine);
      }
    }
    return heads;
  }

  struct Key {
    std::vector<T> plain;    // before rotation
    std::vector<T> rotated;  // at its own position
  };

  std::vector<T> Attend(int32_t layer, const std::string& prefix, const std::vector<T>& x) {
    const int32_t dim = config_.head_dim;
    const int32_t kv_dim = config_.num_kv_heads * dim;
    auto& keys = keys_[static_cast<size_t>(layer)];
    auto& values = values_[static_cast<size_t>(layer)];
    const std::vector<T> key = Product(prefix + "k_proj.weight", kv_dim, x);
    std::vector<T> plain = key;
    std::vector<T> value = Product(prefix + "v_proj.weight", kv_dim, x);
    for (size_t i = 0; i < value.size(); ++i) {
      value[i] = Round(value[i]);
      plain[i] = Round(plain[i]);
    }
    keys.push_back({std::move(plain), Rotated(key, position_)});
    values.push_back(std::move(value));
    const std::vector<T> query =
        Rotated(Product(prefix + "q_proj.weight", config_.num_heads * dim, x), position_);

    // The keys that this position sees, in order.
    const int64_t first = context_.FirstVisible(position_);
    std::vector<std::vector<T>> seen_keys;
    std::vector<const T*> seen_values;
    for (int64_t j = 0; first > 0 && j < context_.sink_size; ++j) {
      seen_keys.push_back(
          Rotated(keys[static_cast<size_t>(j)].plain, first - context_.sink_size + j));
      seen_values.push_back(values[static_cast<size_t>(j)].data());
    }
    for (int64_t j = first; j <= position_; ++j) {
      seen_keys.push_back(keys[static_cast<size_t>(j)].rotated);
      seen_values.push_back(values[static_cast<size_t>(j)].data());
    }
    std::vector<T> out(query.size());
    for (int32_t head = 0; head < config_.num_heads; ++head) {
      AttendHead(query.data() + head * dim,
                 seen_keys,
                 seen_values,
                 head / (config_.num_heads / config_.num_kv_heads) * dim,
                 out.data() + head * dim);
    }
    return Product(prefix + "o_proj.weight", config_.hidden_dim, out);
  }

  void AttendHead(const T* query,
                  const std::vector<std::vector<T>>& keys,
                  const std::vector<const T*>& values,
                  int32_t offset,
                  T* out) const {
    const int32_t dim = config_.head_dim;
    std::vector<T> scores(keys.size());
    T largest = -std::numeric_limits<T>::infinity();
    for (size_t j = 0; j < keys.size(); ++j) {
      T dot = 0;
      for (int32_t i = 0; i < dim; ++i) {
        dot += query[i] * keys[j][static_cast<size_t>(offset + i)];
      }
      scores[j] = dot / std::sqrt(static_cast<T>(dim));
      largest = std::max(largest, scores[j]);
    }
    T sum = 0;
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

  std::vector<T> FeedForward(const std::string& prefix, const std::vector<T>& x) const {
    std::vector<T> gate = Product(prefix + "gate_proj.weight", config_.ffn_dim, x);
    const std::vector<T> up = Product(prefix + "up_proj.weight", config_.ffn_dim, x);
    for (size_t i = 0; i < gate.size(); ++i) {
      gate[i] = Round(gate[i] / (T{1} + std::exp(-gate[i])) * up[i]);
    }
    return Product(prefix + "down_proj.weight", config_.hidden_dim, gate);
  }

  const ModelConfig config_;
  const Tensors& tensors_;
  const ReferenceContext context_;
  const bool round_;
  std::vector<double> frequencies_;
  int64_t position_ = 0;
  std::vector<std::vector<Key>> keys_;               // [layer][position]
  std::vector<std::vector<std::vector<T>>> values_;  // [layer][position]
};

}  // namespace ringserve
