// The parts of a decoder that know one row at a time: norms, products, feed-forward layers and
// experts, in arithmetic of T over the tensors of the model's folder.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <numbers>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/model_config.h"
#include "kernels/types.h"

namespace ringserve {

// The experts of one token, by layer.
struct ReferenceRoute {
  // Taken where a layer has some, else chosen and left here.
  std::vector<std::vector<int32_t>> experts;
  std::vector<std::vector<double>> logits;  // of the router; those of layers without experts: empty
};

template <typename T>
class ReferenceLayers {
 public:
  using Tensors = std::map<std::string, std::vector<float>>;
  using Row = std::vector<T>;

  // `rounds`: activations to bf16, where the kernels round. `tensors` must outlive it.
  ReferenceLayers(ModelConfig config, const Tensors& tensors, bool rounds)
      : config_(std::move(config)), tensors_(tensors), round_(rounds) {}

 protected:
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

  // `rounds`: what it makes goes into a product; `defers`: and is rounded before it is multiplied
  // by the row's scale.
  Row Norm(const Row& x, const std::string& name, bool rounds = true, bool defers = false) const {
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
      if (defers) {
        out[i] = Round(x[i] * weight) * scale;
        continue;
      }
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

  // `taken`: the experts to take, or where there are none, those that were; `told`: the router's
  // logits.
  Row Mix(const std::string& prefix,
          const Row& x,
          std::vector<int32_t>& taken,
          std::vector<double>& told) const {
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
    told.assign(logits.begin(), logits.end());
    if (taken.empty()) {
      taken.assign(order.begin(), order.begin() + moe.experts_per_token);
    }
    // Those taken first, each part in descending order.
    std::stable_partition(order.begin(), order.end(), [&](int32_t expert) {
      return std::find(taken.begin(), taken.end(), expert) != taken.end();
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

 private:
  const Tensors& tensors_;
  const bool round_;
};

}  // namespace ringserve
