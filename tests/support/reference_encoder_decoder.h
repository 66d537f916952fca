// What an encoder-decoder of T5's kind means: plain loops in arithmetic of T over the tensors of
// its folder, no tiles, no blocks, no batches. In double it is the truth of the tests; in float
// with `rounds` it rounds where the bf16 kernels round and is their yardstick.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/model_config.h"
#include "tests/support/reference_layers.h"

namespace ringserve {

template <typename T>
class ReferenceEncoderDecoder : private ReferenceLayers<T> {
 public:
  using typename ReferenceLayers<T>::Tensors;
  using typename ReferenceLayers<T>::Row;

  ReferenceEncoderDecoder(const ModelConfig& config,
                          const Tensors& tensors,
                          std::span<const int32_t> prompt,
                          bool rounds)
      : ReferenceLayers<T>(config, tensors, rounds),
        texts_(static_cast<size_t>(config.num_layers)) {
    Encode(prompt);
  }

  // Appends the token to the decoder's text; its logits, [vocab_size].
  Row Push(int32_t token_id) {
    Row x = TableRow("shared.weight", token_id);
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      const std::string at = "decoder.block." + std::to_string(layer) + ".layer.";
      KeysAndValues& text = texts_[static_cast<size_t>(layer)];
      const Row normed = Norm(x, at + "0.layer_norm");
      Append(at + "0.SelfAttention.", normed, text);
      Add(x, Attend(at + "0.SelfAttention.", normed, text, position_, kCausalBias));
      Add(x,
          Attend(at + "1.EncDecAttention.",
                 Norm(x, at + "1.layer_norm"),
                 prompts_[static_cast<size_t>(layer)],
                 position_,
                 kNoBias));
      Add(x, Ffn(at + "2.DenseReluDense.", Norm(x, at + "2.layer_norm")));
    }
    ++position_;
    Row last = Norm(x, "decoder.final_layer_norm", false);
    for (T& value : last) {
      value = Round(value * static_cast<T>(config_.output_scale));
    }
    return Product(
        config_.tied_embeddings ? "shared.weight" : "lm_head.weight", config_.vocab_size, last);
  }

 private:
  using ReferenceLayers<T>::config_;
  using ReferenceLayers<T>::Activate;
  using ReferenceLayers<T>::Add;
  using ReferenceLayers<T>::Gated;
  using ReferenceLayers<T>::Norm;
  using ReferenceLayers<T>::Product;
  using ReferenceLayers<T>::Round;
  using ReferenceLayers<T>::TableRow;
  using ReferenceLayers<T>::Tensor;

  struct KeysAndValues {
    std::vector<Row> keys;  // by position
    std::vector<Row> values;
  };

  static constexpr const char* kNoBias = "";
  static constexpr const char* kCausalBias = "decoder";
  static constexpr const char* kTwoSidedBias = "encoder";

  void Encode(std::span<const int32_t> prompt) {
    std::vector<Row> x;
    for (const int32_t token_id : prompt) {
      x.push_back(TableRow("shared.weight", token_id));
    }
    for (int32_t layer = 0; layer < config_.num_encoder_layers; ++layer) {
      const std::string at = "encoder.block." + std::to_string(layer) + ".layer.";
      std::vector<Row> normed;
      KeysAndValues all;
      for (const Row& row : x) {
        normed.push_back(Norm(row, at + "0.layer_norm"));
        Append(at + "0.SelfAttention.", normed.back(), all);
      }
      for (size_t i = 0; i < x.size(); ++i) {
        const auto position = static_cast<int64_t>(i);
        Add(x[i], Attend(at + "0.SelfAttention.", normed[i], all, position, kTwoSidedBias));
        Add(x[i], Ffn(at + "1.DenseReluDense.", Norm(x[i], at + "1.layer_norm")));
      }
    }
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      KeysAndValues& seen = prompts_.emplace_back();
      for (const Row& row : x) {
        Append("decoder.block." + std::to_string(layer) + ".layer.1.EncDecAttention.",
               Norm(row, "encoder.final_layer_norm"),
               seen);
      }
    }
  }

  Row Projected(const std::string& name, const Row& x) const {
    Row out = Product(name + ".weight", int64_t{config_.num_heads} * config_.head_dim, x);
    for (T& value : out) {
      value = Round(value);
    }
    return out;
  }

  void Append(const std::string& at, const Row& x, KeysAndValues& to) const {
    to.keys.push_back(Projected(at + "k", x));
    to.values.push_back(Projected(at + "v", x));
  }

  Row Attend(const std::string& at,
             const Row& x,
             const KeysAndValues& seen,
             int64_t position,
             const std::string& bias) const {
    const Row query = Projected(at + "q", x);
    Row out(query.size());
    const auto dim = static_cast<size_t>(config_.head_dim);
    for (size_t first = 0; first < query.size(); first += dim) {
      const auto head = static_cast<int64_t>(first / dim);
      Row scores;
      for (size_t j = 0; j < seen.keys.size(); ++j) {
        T score = 0;
        for (size_t i = first; i < first + dim; ++i) {
          score += query[i] * seen.keys[j][i];
        }
        scores.push_back(score + Bias(bias, static_cast<int64_t>(j) - position, head));
      }
      const T largest = *std::max_element(scores.begin(), scores.end());
      T sum = 0;
      for (T& score : scores) {
        score = std::exp(score - largest);
        sum += score;
      }
      for (size_t i = first; i < first + dim; ++i) {
        T mixed = 0;
        for (size_t j = 0; j < scores.size(); ++j) {
          mixed += Round(scores[j]) * seen.values[j][i];
        }
        out[i] = Round(mixed / sum);
      }
    }
    return Product(at + "o.weight", config_.hidden_dim, out);
  }

  // Of a key that stands `distance` after the query.
  T Bias(const std::string& stack, int64_t distance, int64_t head) const {
    if (stack.empty()) {
      return 0;
    }
    int64_t buckets = config_.position_bias.num_buckets;
    int64_t bucket = 0;
    if (stack == kTwoSidedBias) {
      buckets /= 2;
      bucket = distance > 0 ? buckets : 0;
      distance = std::abs(distance);
    } else {
      distance = std::max<int64_t>(-distance, 0);
    }
    const int64_t exact = buckets / 2;
    if (distance < exact) {
      bucket += distance;
    } else {
      const float ratio = static_cast<float>(distance) / static_cast<float>(exact);
      const auto span = static_cast<float>(std::log(
          static_cast<double>(config_.position_bias.max_distance) / static_cast<double>(exact)));
      const float more = std::log(ratio) / span * static_cast<float>(buckets - exact);
      bucket += std::min(exact + static_cast<int64_t>(more), buckets - 1);
    }
    const std::vector<float>& table =
        Tensor(stack + ".block.0.layer.0.SelfAttention.relative_attention_bias.weight");
    return static_cast<T>(table[static_cast<size_t>(bucket * config_.num_heads + head)]);
  }

  Row Ffn(const std::string& at, const Row& x) const {
    Row inner;
    if (config_.gated) {
      inner = Gated(Product(at + "wi_0.weight", config_.ffn_dim, x),
                    Product(at + "wi_1.weight", config_.ffn_dim, x));
    } else {
      for (const T value : Product(at + "wi.weight", config_.ffn_dim, x)) {
        inner.push_back(Round(Activate(value)));
      }
    }
    return Product(at + "wo.weight", config_.hidden_dim, inner);
  }

  std::vector<KeysAndValues> prompts_;  // of each decoder layer: what it sees of the prompt
  std::vector<KeysAndValues> texts_;    // and of its own text
  int64_t position_ = 0;
};

}  // namespace ringserve
