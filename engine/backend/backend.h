// The one interface between the layer loop and the arithmetic: allocate, copy, one call per op.
// Calls take effect in the order made (stream order); results are on the host after Synchronize.
// Used by the engine thread alone. Two implementations: backend_cpu, backend_cuda. Tests add one
// that injects faults.
//
// Pointers in args are device pointers from Allocate or Upload (on the CPU, plain memory) unless a
// field says host.
//
// A step is BeginStep, uploads, ops, EndStep. Where BackendInfo::runs_ahead, the next step may be
// enqueued before this one has run; AwaitStep takes them in their order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/backend/buffer.h"
#include "engine/base/status.h"
#include "engine/model/model_config.h"
#include "engine/request.h"
#include "engine/sample/sampler.h"
#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/embed.h"
#include "kernels/layernorm.h"
#include "kernels/matmul.h"
#include "kernels/moe.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/softcap.h"
#include "kernels/swiglu.h"
#include "kernels/types.h"

namespace ringserve {

struct SampleArgs {
  const float* logits = nullptr;  // [.., vocab_size]
  int32_t vocab_size = 0;
  std::span<const SampleRow> rows;  // host
  std::span<ScoredToken> results;   // host, one per row; valid once the step was awaited
};

// Upper bounds of a step; what is allocated at start is sized for them.
struct StepLimits {
  int32_t block_size = 0;        // tokens of a block of keys and values
  int32_t max_rows = 0;          // query rows: prefill_size + max_batch
  int32_t max_sink_rows = 0;     // max_batch * sink_size
  int32_t max_logits_rows = 0;   // rows of one ComputeLogits
  int64_t max_partials = 0;      // TilePlan::num_partials
  int64_t max_entries = 0;       // TilePlan::entries
  int64_t max_positions = 0;     // how long a text can become; 0: the model's max_positions
  int32_t max_encoder_rows = 0;  // of the prompts that an encoder reads; a multiple of block_size
};

// The plans of a step's attention calls, on the host; null: there are no such calls.
struct StepTiles {
  const TilePlan* rows = nullptr;     // never null
  const TilePlan* local = nullptr;    // of layers of a second window
  const TilePlan* cross = nullptr;    // of the rows over encoded prompts
  const TilePlan* encoder = nullptr;  // of prompts that are encoded in this step
};

struct BackendInfo {
  std::string device;       // "cpu", "cuda"
  std::string name;         // what the hardware calls itself
  std::string kernels;      // the instruction sets picked at run time
  int32_t num_workers = 1;  // to balance work over
  std::string worker = "threads";
  // Keys between two splits of attention (TileOptions::split_size) that suit the kernels.
  int64_t split_size = 1024;
  // PackMatrix leaves weights row-major, so that Embed can read one.
  bool row_major = false;
  // Weights, activations, keys and values may be f16.
  bool runs_f16 = false;
  // A step may be enqueued before the step before it has ended.
  bool runs_ahead = false;
  // Takes deferred norms, and products that multiply by their scales.
  bool defers_norms = false;
  // What PrepareSteps sets up serves one model: the steps of another take a backend of their own.
  // Otherwise models share it, and it is as large as the one that needs most asks for.
  bool serves_one_model = false;
  // Kernels may be given pointers to any host memory where args ask for device memory.
  bool reads_host_memory = false;
};

struct BackendMemory {
  int64_t device_bytes = 0;
  int64_t pinned_bytes = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual BackendInfo info() const = 0;

  // Every shape and dtype requirement of the kernels, before anything is loaded.
  virtual absl::Status CheckModel(const ModelConfig& config, DType dtype) const = 0;

  // What of a config's steps the kernels cannot do, naming the config key.
  virtual absl::Status CheckSteps(const StepLimits& limits) const = 0;

  // What the backend takes for itself to run steps of these limits, beside what it is asked to
  // Allocate. Pure.
  virtual BackendMemory StepMemory(const ModelConfig& config,
                                   DType dtype,
                                   const StepLimits& limits) const = 0;
  // Sets StepMemory's bytes aside. Before the first step; again for another model or other limits.
  virtual absl::Status PrepareSteps(const ModelConfig& config,
                                    DType dtype,
                                    const StepLimits& limits) = 0;

  // RESOURCE_EXHAUSTED, with the numbers, if there is not so much memory.
  virtual absl::Status CheckMemory(const BackendMemory& wanted) const = 0;
  virtual absl::StatusOr<Buffer> Allocate(size_t bytes, MemoryKind kind) = 0;
  // Between any two buffers of this backend, or from or to other host memory.
  virtual absl::Status Copy(std::byte* to, const std::byte* from, size_t bytes) = 0;

  // Bytes that PackMatrix needs for a [rows, cols] weight of `dtype`; a multiple of 128.
  virtual size_t MatrixBytes(int64_t rows, int64_t cols, DType dtype) const = 0;
  // Converts the parts, stacked by rows, into `to` (device, 128-byte aligned, MatrixBytes long).
  virtual absl::StatusOr<Matrix> PackMatrix(std::span<const HostTensor> parts,
                                            DType dtype,
                                            std::byte* to) = 0;

  // The plans of the attention calls until EndStep stay as they are till then. What was uploaded
  // before is gone.
  virtual absl::Status BeginStep(const StepTiles& tiles) = 0;
  // Makes host data readable by the ops of this step; it stays as it is until EndStep.
  virtual absl::StatusOr<const std::byte*> Upload(const std::byte* from, size_t bytes) = 0;

  // A token id below 0 is one that the host does not know yet: ~id is the place of a result among
  // those of the step before (only where BackendInfo::runs_ahead).
  virtual absl::Status Embed(const EmbedArgs& args) = 0;
  virtual absl::Status RmsNorm(const RmsNormArgs& args) = 0;
  virtual absl::Status MatMul(const MatMulArgs& args) = 0;
  virtual absl::Status RopeAngles(const RopeAnglesArgs& args) = 0;
  virtual absl::Status RopeAppend(const RopeAppendArgs& args) = 0;
  virtual absl::Status Attention(const AttentionArgs& args) = 0;
  virtual absl::Status SwiGlu(const SwiGluArgs& args) = 0;

  // The product, then the activation of its result. What product.out holds afterwards is undefined:
  // a backend that can do both at once does not write it.
  virtual absl::Status MatMulSwiGlu(const MatMulArgs& product, const SwiGluArgs& activation) {
    RETURN_IF_ERROR(MatMul(product));
    return SwiGlu(activation);
  }

  // What only some families need; a backend without these refuses such models in CheckModel.
  virtual absl::Status LayerNorm(const LayerNormArgs& /*args*/) { return NotHere("LayerNorm"); }

  virtual absl::Status Activate(const ActivationArgs& /*args*/) { return NotHere("Activate"); }

  virtual absl::Status Experts(const ExpertsArgs& /*args*/) { return NotHere("Experts"); }

  virtual absl::Status Softcap(const SoftcapArgs& /*args*/) { return NotHere("Softcap"); }

  virtual absl::Status Sample(const SampleArgs& args) = 0;
  virtual absl::Status EndStep() = 0;
  // Blocks until the oldest step that ended and was not awaited yet has run.
  virtual absl::Status AwaitStep() = 0;
  // Blocks until everything has run; no step is left to await.
  virtual absl::Status Synchronize() = 0;

 private:
  static absl::Status NotHere(const char* op) { return absl::UnimplementedError(op); }
};

}  // namespace ringserve
