#include "engine/model/weights.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "engine/base/check.h"
#include "engine/model/random_tensor.h"
#include "engine/model/tensor_names.h"

namespace ringserve {
namespace {

constexpr int64_t kAlignment = 128;

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

std::vector<int64_t> ShapeOf(const TensorSpec& spec) {
  return spec.cols == 0 ? std::vector<int64_t>{spec.rows}
                        : std::vector<int64_t>{spec.rows, spec.cols};
}

int64_t NormBytes(const ModelConfig& config) {
  return RoundUp<int64_t>(config.hidden_dim * int64_t{sizeof(float)}, kAlignment);
}

// The device's copy of the embedding table, where it needs one.
int64_t TableBytes(const ModelConfig& config, DType dtype, const Backend& backend) {
  const BackendInfo info = backend.info();
  if (info.reads_host_memory || (info.row_major && config.tied_embeddings)) {
    return 0;
  }
  return RoundUp<int64_t>(int64_t{config.vocab_size} * config.hidden_dim * DTypeBytes(dtype),
                          kAlignment);
}

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

// Elements [first, first + count) as `dtype`.
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
      const Bf16 rounded = ToBf16(value);
      std::memcpy(to, &rounded, sizeof(rounded));
    }
  }
  return out;
}

// Where tensors come from. A tensor lives until it is released.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual HostTensor Get(const TensorSpec& spec) = 0;
  virtual void Release(const HostTensor& tensor) = 0;
};

class CheckpointSource final : public TensorSource {
 public:
  explicit CheckpointSource(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  HostTensor Get(const TensorSpec& spec) override {
    const FileTensor* tensor = checkpoint_.Find(spec.name);
    RS_CHECK(tensor != nullptr);  // WeightProblems found none
    SafetensorsFile::Prefetch(tensor->data);
    return {.data = tensor->data.data(),
            .rows = spec.rows,
            .cols = std::max<int64_t>(spec.cols, 1),
            .dtype = *ParseFileDType(tensor->dtype)};
  }

  void Release(const HostTensor& tensor) override {
    const int64_t bytes = tensor.rows * tensor.cols * DTypeBytes(tensor.dtype);
    SafetensorsFile::Release({tensor.data, static_cast<size_t>(bytes)});
  }

 private:
  const Checkpoint& checkpoint_;
};

class RandomSource final : public TensorSource {
 public:
  RandomSource(DType dtype, uint64_t seed) : dtype_(dtype), seed_(seed) {}

  HostTensor Get(const TensorSpec& spec) override {
    const int64_t cols = std::max<int64_t>(spec.cols, 1);
    std::byte* data = Take(static_cast<size_t>(spec.rows * cols * DTypeBytes(dtype_)));
    const RandomKind kind = spec.cols == 0 ? RandomKind::kOnes : RandomKind::kNormal;
    FillRandomTensor(spec.name, spec.rows * cols, kind, dtype_, seed_, data);
    return {.data = data, .rows = spec.rows, .cols = cols, .dtype = dtype_};
  }

  void Release(const HostTensor& tensor) override {
    for (Piece& piece : pieces_) {
      piece.taken = piece.taken && piece.data.get() != tensor.data;
    }
  }

  // The embedding table outlives the loading.
  std::unique_ptr<std::byte[]> Keep(const HostTensor& tensor) {
    for (Piece& piece : pieces_) {
      if (piece.data.get() == tensor.data) {
        return std::move(piece.data);
      }
    }
    return nullptr;
  }

 private:
  // Used again and again: fresh pages cost more than the numbers in them.
  struct Piece {
    std::unique_ptr<std::byte[]> data;
    size_t size = 0;
    bool taken = false;
  };

  std::byte* Take(size_t bytes) {
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

  DType dtype_;
  uint64_t seed_;
  std::vector<Piece> pieces_;
};

std::string Where(const FileTensor& tensor) {
  return fmt::format("{}: tensor \"{}\"", tensor.file, tensor.name);
}

void CheckTensor(const TensorSpec& spec,
                 const Checkpoint& checkpoint,
                 bool required,
                 std::vector<std::string>& problems) {
  const FileTensor* tensor = checkpoint.Find(spec.name);
  const std::vector<int64_t> shape = ShapeOf(spec);
  if (tensor == nullptr) {
    if (required) {
      problems.push_back(fmt::format("{}: tensor \"{}\": missing; needed with shape [{}]",
                                     checkpoint.dir(),
                                     spec.name,
                                     fmt::join(shape, ", ")));
    }
    return;
  }
  if (!std::equal(shape.begin(), shape.end(), tensor->shape.begin(), tensor->shape.end())) {
    problems.push_back(fmt::format("{}: shape [{}] where config.json needs [{}]",
                                   Where(*tensor),
                                   fmt::join(tensor->shape, ", "),
                                   fmt::join(shape, ", ")));
  }
  if (!ParseFileDType(tensor->dtype).has_value()) {
    problems.push_back(fmt::format(
        "{}: dtype {} is not supported, only: F32, F16, BF16", Where(*tensor), tensor->dtype));
  }
}

}  // namespace

std::vector<std::string> WeightProblems(const ModelConfig& config, const Checkpoint& checkpoint) {
  std::vector<std::string> problems;
  std::unordered_set<std::string> known;
  const auto check = [&](const TensorSpec& spec, bool required) {
    CheckTensor(spec, checkpoint, required, problems);
    known.insert(spec.name);
  };
  check(EmbeddingTensor(config), true);
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const LayerTensors tensors = TensorsOfLayer(config, layer);
    for (const TensorSpec* spec : tensors.all()) {
      check(*spec, true);
    }
  }
  check(FinalNormTensor(config), true);
  check(LmHeadTensor(config), !config.tied_embeddings);
  for (const FileTensor& tensor : checkpoint.tensors()) {
    if (!known.contains(std::string(tensor.name)) && !IsIgnoredTensor(tensor.name)) {
      problems.push_back(fmt::format("{}: not a tensor of {}", Where(tensor), config.architecture));
    }
  }
  return problems;
}

// Fills the slab from front to back.
class WeightsBuilder {
 public:
  WeightsBuilder(const ModelConfig& config,
                 DType dtype,
                 TensorSource& source,
                 Backend& backend,
                 const LoadProgress& progress)
      : config_(config),
        source_(source),
        backend_(backend),
        progress_(progress),
        weights_(new Weights()) {
    weights_->dtype_ = dtype;
  }

  absl::StatusOr<std::unique_ptr<Weights>> Build() {
    RS_CHECK(weights_->dtype_ == DType::kF32 || weights_->dtype_ == DType::kBf16);
    slab_bytes_ = Weights::SlabBytes(config_, weights_->dtype_, backend_);
    ASSIGN_OR_RETURN(weights_->slab_,
                     backend_.Allocate(static_cast<size_t>(slab_bytes_), MemoryKind::kDevice));
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      RETURN_IF_ERROR(AddLayer(TensorsOfLayer(config_, layer)));
    }
    RETURN_IF_ERROR(AddNorm(FinalNormTensor(config_), weights_->final_norm_));
    RETURN_IF_ERROR(AddEmbedding());
    if (!config_.tied_embeddings) {
      RETURN_IF_ERROR(AddMatrix({LmHeadTensor(config_)}, weights_->lm_head_));
    }
    RS_CHECK(used_ == slab_bytes_);
    return std::move(weights_);
  }

  // What Build left in the source: the table that the weights point to, if they do.
  const HostTensor& table() const { return table_; }

  static void Own(Weights& weights, std::unique_ptr<Checkpoint> checkpoint) {
    weights.checkpoint_ = std::move(checkpoint);
  }

  static void Own(Weights& weights, std::unique_ptr<std::byte[]> table) {
    weights.host_table_ = std::move(table);
  }

 private:
  std::byte* Carve(int64_t bytes) {
    std::byte* at = weights_->slab_.data() + used_;
    used_ += bytes;
    RS_CHECK(used_ <= slab_bytes_);
    return at;
  }

  void Report() const {
    if (progress_) {
      progress_(static_cast<double>(used_) / static_cast<double>(slab_bytes_));
    }
  }

  // The copy may still be under way when it returns, so the source waits for it.
  absl::Status CopyIn(std::byte* to, const std::vector<std::byte>& from) {
    RETURN_IF_ERROR(backend_.Copy(to, from.data(), from.size()));
    return backend_.Synchronize();
  }

  absl::Status AddNorm(const TensorSpec& spec, const float*& norm) {
    const HostTensor tensor = source_.Get(spec);
    std::byte* at = Carve(NormBytes(config_));
    RETURN_IF_ERROR(CopyIn(at, Converted(tensor, 0, config_.hidden_dim, DType::kF32)));
    norm = reinterpret_cast<const float*>(at);
    source_.Release(tensor);
    return absl::OkStatus();
  }

  absl::Status Pack(const std::vector<HostTensor>& parts, Matrix& matrix) {
    int64_t rows = 0;
    for (const HostTensor& part : parts) {
      rows += part.rows;
    }
    const size_t bytes = backend_.MatrixBytes(rows, parts.front().cols, weights_->dtype_);
    std::byte* at = Carve(static_cast<int64_t>(bytes));
    ASSIGN_OR_RETURN(matrix, backend_.PackMatrix(parts, weights_->dtype_, at));
    RETURN_IF_ERROR(backend_.Synchronize());
    Report();
    return absl::OkStatus();
  }

  absl::Status AddMatrix(const std::vector<TensorSpec>& specs, Matrix& matrix) {
    std::vector<HostTensor> parts;
    parts.reserve(specs.size());
    for (const TensorSpec& spec : specs) {
      parts.push_back(source_.Get(spec));
    }
    RETURN_IF_ERROR(Pack(parts, matrix));
    for (const HostTensor& part : parts) {
      source_.Release(part);
    }
    return absl::OkStatus();
  }

  absl::Status AddLayer(const LayerTensors& tensors) {
    LayerWeights& layer = weights_->layers_.emplace_back();
    RETURN_IF_ERROR(AddNorm(tensors.attn_norm, layer.attn_norm));
    RETURN_IF_ERROR(AddMatrix({tensors.q, tensors.k, tensors.v}, layer.qkv));
    RETURN_IF_ERROR(AddMatrix({tensors.o}, layer.o_proj));
    RETURN_IF_ERROR(AddNorm(tensors.ffn_norm, layer.ffn_norm));
    RETURN_IF_ERROR(AddMatrix({tensors.gate, tensors.up}, layer.gate_up));
    return AddMatrix({tensors.down}, layer.down);
  }

  absl::Status CopyTable(std::byte* to) {
    const DType dtype = weights_->dtype_;
    const int64_t rows_at_once = std::max<int64_t>(1, (int64_t{1} << 22) / table_.cols);
    for (int64_t row = 0; row < table_.rows; row += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, table_.rows - row);
      const int64_t first = row * table_.cols;
      RETURN_IF_ERROR(CopyIn(to + first * DTypeBytes(dtype),
                             Converted(table_, first, rows * table_.cols, dtype)));
    }
    weights_->embedding_ = {.data = to, .dtype = dtype};
    return absl::OkStatus();
  }

  absl::Status AddEmbedding() {
    table_ = source_.Get(EmbeddingTensor(config_));
    if (config_.tied_embeddings) {
      RETURN_IF_ERROR(Pack({table_}, weights_->lm_head_));
    }
    const BackendInfo info = backend_.info();
    if (info.reads_host_memory) {
      weights_->embedding_ = {.data = table_.data, .dtype = table_.dtype};
      return absl::OkStatus();
    }
    if (info.row_major && config_.tied_embeddings) {
      weights_->embedding_ = {.data = weights_->lm_head_.data, .dtype = weights_->dtype_};
      return absl::OkStatus();
    }
    std::byte* at = Carve(TableBytes(config_, weights_->dtype_, backend_));
    if (info.row_major) {
      RETURN_IF_ERROR(backend_.PackMatrix({&table_, 1}, weights_->dtype_, at).status());
      RETURN_IF_ERROR(backend_.Synchronize());
      weights_->embedding_ = {.data = at, .dtype = weights_->dtype_};
    } else {
      RETURN_IF_ERROR(CopyTable(at));
    }
    Report();
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  TensorSource& source_;
  Backend& backend_;
  const LoadProgress& progress_;
  std::unique_ptr<Weights> weights_;
  HostTensor table_;
  int64_t slab_bytes_ = 0;
  int64_t used_ = 0;
};

Weights::~Weights() = default;

int64_t Weights::SlabBytes(const ModelConfig& config, DType dtype, const Backend& backend) {
  const auto matrix = [&](int64_t rows, int64_t cols) {
    return static_cast<int64_t>(backend.MatrixBytes(rows, cols, dtype));
  };
  const int64_t hidden = config.hidden_dim;
  const int64_t q_dim = int64_t{config.num_heads} * config.head_dim;
  const int64_t qkv_dim = q_dim + 2 * int64_t{config.num_kv_heads} * config.head_dim;
  const int64_t layer = 2 * NormBytes(config) + matrix(qkv_dim, hidden) + matrix(hidden, q_dim) +
                        matrix(2 * int64_t{config.ffn_dim}, hidden) +
                        matrix(hidden, config.ffn_dim);
  return config.num_layers * layer + NormBytes(config) + matrix(config.vocab_size, hidden) +
         TableBytes(config, dtype, backend);
}

absl::StatusOr<std::unique_ptr<Weights>> Weights::Load(const std::string& model_dir,
                                                       const ModelConfig& config,
                                                       DType dtype,
                                                       Backend& backend,
                                                       const LoadProgress& progress) {
  ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(model_dir));
  const std::vector<std::string> problems = WeightProblems(config, *checkpoint);
  if (!problems.empty()) {
    return absl::InvalidArgumentError(
        problems.size() == 1
            ? problems.front()
            : fmt::format("{} (the first of {} problems)", problems.front(), problems.size()));
  }
  CheckpointSource source(*checkpoint);
  WeightsBuilder builder(config, dtype, source, backend, progress);
  ASSIGN_OR_RETURN(std::unique_ptr<Weights> weights, builder.Build());
  source.Release(builder.table());
  if (backend.info().reads_host_memory) {
    WeightsBuilder::Own(*weights, std::move(checkpoint));
  }
  return weights;
}

absl::StatusOr<std::unique_ptr<Weights>> Weights::Random(const ModelConfig& config,
                                                         DType dtype,
                                                         uint64_t seed,
                                                         Backend& backend,
                                                         const LoadProgress& progress) {
  RandomSource source(dtype, seed);
  WeightsBuilder builder(config, dtype, source, backend, progress);
  ASSIGN_OR_RETURN(std::unique_ptr<Weights> weights, builder.Build());
  if (backend.info().reads_host_memory) {
    WeightsBuilder::Own(*weights, source.Keep(builder.table()));
  }
  return weights;
}

}  // namespace ringserve
