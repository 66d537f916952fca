// Where the tensors of a model come from while it is loaded: a checkpoint, or thin air.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/safetensors.h"
#include "engine/model/tensor_names.h"
#include "kernels/matmul.h"
#include "kernels/types.h"

namespace ringserve {

// "F32", "BF16" or "F16".
std::optional<DType> ParseFileDType(std::string_view name);

// Null if there is none. A checkpoint of the bare model leaves the prefix of its part ("model.",
// "transformer.") out.
const FileTensor* FindTensor(const Checkpoint& checkpoint, std::string_view name);

// The shape that a tensor has in its file.
std::vector<int64_t> FileShape(const TensorSpec& spec);

// Elements [first, first + count) as `dtype`.
std::vector<std::byte> Converted(const HostTensor& tensor,
                                 int64_t first,
                                 int64_t count,
                                 DType dtype);

// A tensor lives until it is released.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // Row-major [rows, max(cols, 1)], as it is used.
  virtual HostTensor Get(const TensorSpec& spec) = 0;
  virtual void Release(const HostTensor& tensor) = 0;
};

// Requires that WeightProblems found none.
class CheckpointSource final : public TensorSource {
 public:
  explicit CheckpointSource(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  HostTensor Get(const TensorSpec& spec) override;
  void Release(const HostTensor& tensor) override;

 private:
  HostTensor Rearranged(const TensorSpec& spec, const std::byte* from, DType dtype);

  const Checkpoint& checkpoint_;
  // Tensors that lie otherwise in their file than they are used.
  std::vector<std::unique_ptr<std::byte[]>> rearranged_;
};

class RandomSource final : public TensorSource {
 public:
  RandomSource(DType dtype, uint64_t seed) : dtype_(dtype), seed_(seed) {}

  HostTensor Get(const TensorSpec& spec) override;
  void Release(const HostTensor& tensor) override;
  // The embedding table outlives the loading.
  std::unique_ptr<std::byte[]> Keep(const HostTensor& tensor);

 private:
  // Used again and again: fresh pages cost more than the numbers in them.
  struct Piece {
    std::unique_ptr<std::byte[]> data;
    size_t size = 0;
    bool taken = false;
  };

  std::byte* Take(size_t bytes);

  DType dtype_;
  uint64_t seed_;
  std::vector<Piece> pieces_;
};

}  // namespace ringserve
