// What a decoder means: plain loops in arithmetic of T over the tensors of its folder, one token
// after the other, no tiles, no blocks, no batches. In double it is the truth of the tests; in
// float with `round` it rounds where the bf16 kernels round and is their yardstick.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "engine/model/model_config.h"
#include "kernels/rmsnorm.h"
#include "kernels/types.h"
#include "tests/support/reference_layers.h"

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
  bool activations = false;     // to bf16, where the kernels round
  bool deferred_norms = false;  // activations as by deferred norms (kernels/rmsnorm.h)
  bool frequencies =
      false;  // the rotary frequencies to bf16, as a model cast to bf16 in memory has them
};

template <typename T>
class ReferenceModel : private ReferenceLayers<T> {
 public:
  using typename ReferenceLayers<T>::Tensors;
  using typename ReferenceLayers<T>::Row;

  ReferenceModel(ModelConfig config,
                 const Tensors& tensors,
                 ReferenceContext context,
                 ReferenceRounding round)
      : ReferenceLayers<T>(std::move(config), tensors, round.activations),
        context_(context),
        defers_(round.deferred_norms && CanDeferRmsNorm(config_.hidden_dim, DType::kBf16)),
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
    ReferenceRoute route;
    return Push(token_id, route);
  }

  Row Push(int32_t token_id, ReferenceRoute& route) {
    route.experts.resize(keys_.size());
    route.logits.resize(keys_.size());
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
      PushLayer(layer, x, route);
    }
    ++position_;
    hidden_ = Norm(x, gpt2 ? "transformer.ln_f" : "model.norm", /*rounds=*/false);
    Row logits = Product(config_.tied_embeddings ? table : "lm_head.weight",
                         config_.vocab_size,
                         Norm(x, gpt2 ? "transformer.ln_f" : "model.norm"));
    for (T& logit : logits) {
      logit = Softcap(logit, config_.logits_softcap);
    }
    return logits;
  }

  // Of the last token pushed, after the final norm: [hidden_dim].
  const Row& hidden() const { return hidden_; }

 private:
  using ReferenceLayers<T>::config_;
  using ReferenceLayers<T>::Activate;
  using ReferenceLayers<T>::Add;
  using ReferenceLayers<T>::FeedForward;
  using ReferenceLayers<T>::Linear;
  using ReferenceLayers<T>::Mix;
  using ReferenceLayers<T>::Norm;
  using ReferenceLayers<T>::Product;
  using ReferenceLayers<T>::Round;
  using ReferenceLayers<T>::Softcap;
  using ReferenceLayers<T>::TableRow;
  using ReferenceLayers<T>::Tensor;

  void PushLayer(int32_t layer, Row& x, ReferenceRoute& route) {
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
    Row attended =
        Attend(layer, prefix + "self_attn.", Norm(x, prefix + "input_layernorm", true, defers_));
    if (config_.post_norms) {
      attended = Norm(attended, prefix + "post_attention_layernorm", false);
    }
    Add(x, attended);
    const Row normed = Norm(
        x,
        prefix + (config_.post_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm"),
        true,
        defers_ && config_.moe.IsDense(layer));
    Row fed = config_.moe.IsDense(layer) ? FeedForward(prefix + "mlp.", normed, config_.ffn_dim)
                                         : Mix(prefix,
                                               normed,
                                               route.experts[static_cast<size_t>(layer)],
                                               route.logits[static_cast<size_t>(layer)]);
    if (config_.post_norms) {
      fed = Norm(fed, prefix + "post_feedforward_layernorm", false);
    }
    Add(x, fed);
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
        dot += query[i] * keys[j][static_cast<size_t>(offset) + static_cast<size_t>(i)];
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

  const ReferenceContext context_;
  const bool defers_;                   // norms before products
  std::vector<double> frequencies_[2];  // of global and of local layers
  int64_t position_ = 0;
  Row hidden_;
  std::vector<std::vector<Key>> keys_;    // [layer][position]
  std::vector<std::vector<Row>> values_;  // [layer][position]
};

}  // namespace ringserve
