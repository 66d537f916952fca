// The weights of a model on a backend: read from a Hugging Face folder (or made up, to measure),
// checked name by name and shape by shape, then packed into one slab of device memory whose size is
// known beforehand.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/model/model_config.h"
#include "engine/model/safetensors.h"
#include "kernels/matmul.h"
#include "kernels/moe.h"

namespace ringserve {

// What a family does not have is null. Biases are of their matrix's rows.
struct NormWeights {
  const float* weight = nullptr;
  const float* bias = nullptr;  // of layer norms
};

struct LayerWeights {
  NormWeights attn_norm;  // [hidden_dim]
  Matrix qkv;             // [(num_heads + 2 * num_kv_heads) * head_dim, hidden_dim]
  const float* qkv_bias = nullptr;
  NormWeights q_norm;            // [head_dim]
  NormWeights k_norm;            // [head_dim]
  const float* sinks = nullptr;  // [num_heads]
  Matrix o_proj;                 // [hidden_dim, num_heads * head_dim]
  const float* o_bias = nullptr;
  NormWeights post_attn_norm;  // [hidden_dim]
  NormWeights cross_norm;      // [hidden_dim], with the three below: of a decoder beside an encoder
  Matrix cross_q;              // [num_heads * head_dim, hidden_dim]
  Matrix cross_kv;             // [2 * num_kv_heads * head_dim, hidden_dim]
  Matrix cross_o;              // [hidden_dim, num_heads * head_dim]
  NormWeights ffn_norm;        // [hidden_dim]
  Matrix gate_up;              // [2 * ffn_dim, hidden_dim], gate first; or [ffn_dim, hidden_dim]
  const float* gate_up_bias = nullptr;
  Matrix down;  // [hidden_dim, ffn_dim]
  const float* down_bias = nullptr;
  Matrix router;  // [num_experts, hidden_dim]
  const float* router_bias = nullptr;
  std::vector<ExpertWeights> experts;  // empty: a dense layer
  NormWeights post_ffn_norm;           // [hidden_dim]
};

// A row-major [vocab_size, hidden_dim] table for Backend::Embed.
struct EmbeddingTable {
  const std::byte* data = nullptr;
  DType dtype = DType::kBf16;
};

// Called with the fraction done, in (0, 1], never falling, 1 last. May be empty.
using LoadProgress = std::function<void(double fraction)>;

// Everything in the folder's tensors that does not fit `config`, one sentence each, naming file,
// tensor, what was found and what is needed: missing, unexpected, of a wrong shape or dtype. Empty
// if all is well.
std::vector<std::string> WeightProblems(const ModelConfig& config, const Checkpoint& checkpoint);

// Immutable; borrows `backend` for its memory.
class Weights {
 public:
  // Bytes of device memory that Load and Random allocate, in one piece. Pure.
  static int64_t SlabBytes(const ModelConfig& config, DType dtype, const Backend& backend);

  // `dtype` is that of the matrices; norms, biases and positions are float32.
  // Tensors of F32, F16 and BF16 are converted as needed. A backend that reads host memory is given
  // the embedding table as it lies in the mapped file, in the file's dtype; another one a copy in
  // `dtype`.
  static absl::StatusOr<std::unique_ptr<Weights>> Load(const std::string& model_dir,
                                                       const ModelConfig& config,
                                                       DType dtype,
                                                       Backend& backend,
                                                       const LoadProgress& progress);

  // Normal-like numbers of standard deviation 0.02 that depend on (seed, tensor, index) alone;
  // norms are 1.
  static absl::StatusOr<std::unique_ptr<Weights>> Random(const ModelConfig& config,
                                                         DType dtype,
                                                         uint64_t seed,
                                                         Backend& backend,
                                                         const LoadProgress& progress);
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  DType dtype() const { return dtype_; }

  const EmbeddingTable& embedding() const { return embedding_; }

  // The decoder's, then the encoder's.
  const LayerWeights& layer(int32_t index) const { return layers_[static_cast<size_t>(index)]; }

  // Learned positions; data is null if there are none.
  const EmbeddingTable& positions() const { return positions_; }

  // With output_scale in it.
  const NormWeights& final_norm() const { return final_norm_; }

  const NormWeights& encoder_norm() const { return encoder_norm_; }

  // [num_heads, 2 * BiasReach + 1] or null.
  const float* position_bias() const { return position_bias_; }

  const float* encoder_position_bias() const { return encoder_position_bias_; }

  const Matrix& lm_head() const { return lm_head_; }

 private:
  friend class WeightsBuilder;
  Weights() = default;

  DType dtype_ = DType::kBf16;
  EmbeddingTable embedding_;
  std::vector<LayerWeights> layers_;
  EmbeddingTable positions_;
  NormWeights final_norm_;
  NormWeights encoder_norm_;
  const float* position_bias_ = nullptr;
  const float* encoder_position_bias_ = nullptr;
  Matrix lm_head_;
  Buffer slab_;
  std::unique_ptr<std::byte[]> host_table_;  // what embedding_ points to, if random
  std::unique_ptr<Checkpoint> checkpoint_;   // what embedding_ points to, if mapped
};

}  // namespace ringserve
