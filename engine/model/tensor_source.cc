#include "engine/model/tensor_source.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/base/check.h"
#include "engine/model/random_tensor.h"

namespace ringserve {
namespace {

float ElementAsFloat(const HostTensor& tensor, int64_t index) {
  const std::byte* from = tensor.data + index * DTypeBytes(tensor.dtype);
  if (tensor.dtype == DType::kF32) {
    float value = 0;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, from, sizeof(bits));
  return tensor.dtype == DType::kBf16 ? ToFloat(Bf16{bits}) : ToFloat(F16{bits});
}

int64_t Columns(const TensorSpec& spec) {
  return std::max<int64_t>(spec.cols, 1);
}

}  // namespace

std::optional<DType> ParseFileDType(std::string_view name) {
  if (name == "F32") {
    return DType::kF32;
  }
  if (name == "BF16") {
    return DType::kBf16;
  }
  if (name == "F16") {
    return DType::kF16;
  }
  return std::nullopt;
}

const FileTensor* FindTensor(const Checkpoint& checkpoint, std::string_view name) {
  const FileTensor* tensor = checkpoint.Find(name);
  for (const std::string_view prefix : {"model.", "transformer."}) {
    if (tensor == nullptr && name.starts_with(prefix)) {
      tensor = checkpoint.Find(name.substr(prefix.size()));
    }
  }
  // Tables that are one may be stored under either's name.
  for (const std::string_view alias :
       {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}) {
    if (tensor == nullptr && name == "shared.weight") {
      tensor = checkpoint.Find(alias);
    }
  }
  return tensor;
}

std::vector<int64_t> FileShape(const TensorSpec& spec) {
  std::vector<int64_t> shape = {spec.rows};
  if (spec.cols != 0) {
    shape.insert(spec.transposed ? shape.begin() : shape.end(), spec.cols);
  }
  if (spec.num_slices != 0) {
    shape.insert(shape.begin(), spec.num_slices);
  }
  return shape;
}

std::vector<std::byte> Converted(const HostTensor& tensor,
                                 int64_t first,
                                 int64_t count,
                                 DType dtype) {
  std::vector<std::byte> out(static_cast<size_t>(count * DTypeBytes(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    const float value = ElementAsFloat(tensor, first + i);
    std::byte* to = out.data() + i * DTypeBytes(dtype);
    if (dtype == DType::kF32) {
      std::memcpy(to, &value, sizeof(value));
    } else {
      const uint16_t rounded = dtype == DType::kBf16 ? ToBf16(value).bits : ToF16(value).bits;
      std::memcpy(to, &rounded, sizeof(rounded));
    }
  }
  return out;
}

HostTensor CheckpointSource::Get(const TensorSpec& spec) {
  const FileTensor* tensor = FindTensor(checkpoint_, spec.name);
  RS_CHECK(tensor != nullptr);
  const DType dtype = *ParseFileDType(tensor->dtype);
  const int64_t bytes = spec.rows * Columns(spec) * DTypeBytes(dtype);
  const std::byte* data = tensor->data.data() + spec.slice * bytes;
  SafetensorsFile::Prefetch({data, static_cast<size_t>(bytes)});
  if (spec.transposed || !spec.order.empty()) {
    return Rearranged(spec, data, dtype);
  }
  return {.data = data, .rows = spec.rows, .cols = Columns(spec), .dtype = dtype};
}

HostTensor CheckpointSource::Rearranged(const TensorSpec& spec,
                                        const std::byte* from,
                                        DType dtype) {
  const int64_t cols = Columns(spec);
  const auto element = static_cast<size_t>(DTypeBytes(dtype));
  auto& copy = rearranged_.emplace_back(
      std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(spec.rows * cols) * element));
  const int64_t row_step = spec.transposed ? 1 : cols;
  const int64_t col_step = spec.transposed ? spec.rows : 1;
  std::byte* to = copy.get();
  for (int64_t row = 0; row < spec.rows; ++row) {
    const int64_t file_row = spec.order.empty() ? row : spec.order[static_cast<size_t>(row)];
    for (int64_t col = 0; col < cols; ++col, to += element) {
      const auto index = static_cast<size_t>(file_row * row_step + col * col_step);
      std::memcpy(to, from + index * element, element);
    }
  }
  return {.data = copy.get(), .rows = spec.rows, .cols = cols, .dtype = dtype};
}

void CheckpointSource::Release(const HostTensor& tensor) {
  const auto copy = std::find_if(rearranged_.begin(), rearranged_.end(), [&](const auto& data) {
    return data.get() == tensor.data;
  });
  if (copy != rearranged_.end()) {
    rearranged_.erase(copy);
    return;
  }
  const int64_t bytes = tensor.rows * tensor.cols * DTypeBytes(tensor.dtype);
  SafetensorsFile::Release({tensor.data, static_cast<size_t>(bytes)});
}

HostTensor RandomSource::Get(const TensorSpec& spec) {
  const int64_t cols = Columns(spec);
  std::byte* data = Take(static_cast<size_t>(spec.rows * cols * DTypeBytes(dtype_)));
  const RandomKind kind = spec.cols == 0 ? RandomKind::kOnes : RandomKind::kNormal;
  FillRandomTensor(spec.name, spec.rows * cols, kind, dtype_, seed_, data);
  return {.data = data, .rows = spec.rows, .cols = cols, .dtype = dtype_};
}

void RandomSource::Release(const HostTensor& tensor) {
  for (Piece& piece : pieces_) {
    piece.taken = piece.taken && piece.data.get() != tensor.data;
  }
}

std::unique_ptr<std::byte[]> RandomSource::Keep(const HostTensor& tensor) {
  for (Piece& piece : pieces_) {
    if (piece.data.get() == tensor.data) {
      return std::move(piece.data);
    }
  }
  return nullptr;
}

std::byte* RandomSource::Take(size_t bytes) {
  const auto found = std::find_if(pieces_.begin(), pieces_.end(), [&](const Piece& piece) {
    return !piece.taken && piece.size >= bytes;
  });
  Piece& piece = found != pieces_.end() ? *found : pieces_.emplace_back();
  if (piece.data == nullptr) {
    piece.data = std::make_unique_for_overwrite<std::byte[]>(bytes);
    piece.size = bytes;
  }
  piece.taken = true;
  return piece.data.get();
}

}  // namespace ringserve
