// A backend whose arithmetic is hashing: an activation is one 32-bit word, a key in the pool says
// which word stood at which position, and attention hashes everything that it may see. A token
// therefore depends on exactly its context: a block mixed up, a stale slot or a wrong window shows
// as another token. FakeText computes the same from the text alone, without blocks or steps.
//
// Can fail the nth call and make logits NaN.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/sample/sampler.h"
#include "engine/session.h"

namespace ringserve {

namespace fake {

inline uint32_t Hash(uint32_t a, uint32_t b) {
  uint64_t x = (uint64_t{a} << 32 | b) + 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return static_cast<uint32_t>(x >> 32);
}

inline uint32_t AddResidual(uint32_t x, uint32_t residual) {
  return Hash(x, residual);
}

inline uint32_t Norm(uint32_t x) {
  return Hash(x, 1);
}

inline uint32_t MatMul(uint32_t x, int64_t rows) {
  return Hash(x, static_cast<uint32_t>(rows) + 100);
}

inline uint32_t SwiGlu(uint32_t x) {
  return Hash(x, 2);
}

// One more key, of value `key`, at `position`; `is_sink`: rotated there only now.
inline uint32_t SeeKey(uint32_t hash, uint32_t key, int64_t position, bool is_sink) {
  const auto low = static_cast<uint32_t>(position);
  const auto high = static_cast<uint32_t>(position >> 32);
  return Hash(Hash(hash, key), Hash(low, high * 2 + (is_sink ? 1 : 0)));
}

// Spread out so that sampling has a choice.
inline float Logit(uint32_t x, int32_t token_id) {
  const uint32_t bits = Hash(x, static_cast<uint32_t>(token_id) + 1000);
  return static_cast<float>(bits >> 8) * (6.0F / (1 << 24)) - 3.0F;
}

inline uint32_t Word(const float* at) {
  return std::bit_cast<uint32_t>(*at);
}

inline void SetWord(float* at, uint32_t word) {
  std::memcpy(at, &word, sizeof(word));
}

// A key as it lies in the pool: takes head_dim >= 4 floats.
struct StoredKey {
  uint32_t value = 0;
  uint32_t is_rotated = 0;
  int64_t position = 0;  // 0 unless rotated
};

// Layers of one KV head; vocab_size differs from every other matrix's row count, by which the
// backend knows the last one.
// `window` > 0: the first layer sees a window, as a layer beside a global one does.
inline ModelConfig TinyModel(int64_t window = 0) {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.vocab_size = 32;
  config.hidden_dim = 8;
  config.ffn_dim = 10;
  config.num_layers = 2;
  config.num_heads = 1;
  config.num_kv_heads = 1;
  config.head_dim = 4;
  config.max_positions = 1 << 20;
  config.rms_norm_eps = 1e-5F;
  config.eos_token_ids = {0};
  config.file_dtype = DType::kF32;
  if (window > 0) {
    config.window = window;
    config.local_layers = {true, false};
  }
  return config;
}

}  // namespace fake

class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(const ModelConfig& config, bool runs_ahead = false)
      : config_(config), runs_ahead_(runs_ahead) {}

  // The op that is `calls` ops away (0: the next) fails once, as everything after a device fault
  // would.
  void FailAfter(int64_t calls) { calls_left_ = calls; }

  // The next Sample calls `hook` first.
  void OnSample(std::function<void()> hook) { on_sample_ = std::move(hook); }

  // The next logits of a row with this value of `row` are NaN; -1: none.
  void PoisonLogitsRow(int32_t row) { poisoned_row_ = row; }

  int64_t num_calls() const { return num_calls_; }

  BackendInfo info() const override { return Info(runs_ahead_); }

  absl::Status CheckModel(const ModelConfig&, DType) const override { return absl::OkStatus(); }

  absl::Status CheckSteps(const StepLimits&) const override { return absl::OkStatus(); }

  BackendMemory StepMemory(const ModelConfig&, DType, const StepLimits&) const override {
    return {};
  }

  absl::Status PrepareSteps(const ModelConfig&, DType, const StepLimits&) override {
    return absl::OkStatus();
  }

  absl::Status CheckMemory(const BackendMemory&) const override { return absl::OkStatus(); }

  absl::StatusOr<Buffer> Allocate(size_t bytes, MemoryKind) override {
    auto* data = static_cast<std::byte*>(::operator new(bytes));
    std::memset(data, 0xff, bytes);
    return Buffer(data, bytes, [](std::byte* at, size_t) { ::operator delete(at); });
  }

  absl::Status Copy(std::byte* to, const std::byte* from, size_t bytes) override {
    RETURN_IF_ERROR(Call());
    std::memcpy(to, from, bytes);
    return absl::OkStatus();
  }

  size_t MatrixBytes(int64_t, int64_t, DType) const override { return 128; }

  absl::StatusOr<Matrix> PackMatrix(std::span<const HostTensor> parts,
                                    DType dtype,
                                    std::byte* to) override {
    Matrix matrix = {to, 0, parts.front().cols, dtype};
    for (const HostTensor& part : parts) {
      matrix.rows += part.rows;
    }
    return matrix;
  }

  absl::Status BeginStep(const StepTiles&) override {
    ids_before_ = std::move(ids_);
    ids_.clear();
    return Call();
  }

  absl::StatusOr<const std::byte*> Upload(const std::byte* from, size_t) override {
    RETURN_IF_ERROR(Call());
    return from;
  }

  absl::Status Embed(const EmbedArgs& args) override {
    RETURN_IF_ERROR(Call());
    const size_t row_bytes = static_cast<size_t>(args.hidden_dim) * sizeof(float);
    for (int32_t i = 0; i < args.num_rows; ++i) {
      int32_t token_id = args.token_ids[i];
      if (token_id < 0) {
        token_id = std::max(ids_before_.at(ToSize(~token_id)), 0);  // kNoToken: nobody looks
      }
      std::memcpy(args.out + int64_t{i} * args.hidden_dim,
                  args.table + ToSize(token_id) * row_bytes,
                  row_bytes);
    }
    return absl::OkStatus();
  }

  absl::Status RmsNorm(const RmsNormArgs& args) override {
    RETURN_IF_ERROR(Call());
    for (int64_t i = 0; i < args.num_rows; ++i) {
      float* x = args.x + i * args.hidden_dim;
      if (args.residual_in != nullptr) {
        fake::SetWord(
            x,
            fake::AddResidual(fake::Word(x), fake::Word(args.residual_in + i * args.hidden_dim)));
      }
      fake::SetWord(static_cast<float*>(args.out) + i * args.hidden_dim, fake::Norm(fake::Word(x)));
    }
    return absl::OkStatus();
  }

  absl::Status MatMul(const MatMulArgs& args) override {
    RETURN_IF_ERROR(Call());
    for (int64_t i = 0; i < args.num_rows; ++i) {
      const uint32_t x = fake::Word(static_cast<const float*>(args.x) + i * args.weight.cols);
      float* out = args.out + i * args.weight.rows;
      if (args.weight.rows != config_.vocab_size) {
        fake::SetWord(out, fake::MatMul(x, args.weight.rows));
        continue;
      }
      for (int32_t token_id = 0; token_id < config_.vocab_size; ++token_id) {
        out[token_id] = fake::Logit(x, token_id);
      }
      if (i == poisoned_row_) {
        out[i % config_.vocab_size] = std::bit_cast<float>(0x7fc00000U);
        poisoned_row_ = -1;
      }
    }
    return absl::OkStatus();
  }

  absl::Status RopeAngles(const RopeAnglesArgs& args) override {
    RETURN_IF_ERROR(Call());
    for (int64_t i = 0; i < args.num_rows; ++i) {
      std::memcpy(args.angles + i * args.head_dim, &args.positions[i], sizeof(int64_t));
    }
    return absl::OkStatus();
  }

  absl::Status RopeAppend(const RopeAppendArgs& args) override {
    RETURN_IF_ERROR(Call());
    const int64_t head_dim = args.kv.layout.head_dim;
    const int64_t stride = (args.num_heads + 2 * args.kv.layout.num_kv_heads) * head_dim;
    for (int64_t i = 0; i < args.num_rows; ++i) {
      fake::StoredKey key = {.value = fake::Word(args.qkv + i * stride), .is_rotated = 1};
      std::memcpy(&key.position, args.angles + i * head_dim, sizeof(int64_t));
      fake::SetWord(static_cast<float*>(args.q) + i * args.num_heads * head_dim, key.value);
      *KeyAt(args.kv, args.slots[i]) = key;
      if (args.sink_slots != nullptr && args.sink_slots[i] >= 0) {
        *KeyAt(args.kv, args.sink_slots[i]) = {.value = key.value};
      }
    }
    return absl::OkStatus();
  }

  absl::Status Attention(const AttentionArgs& args) override {
    RETURN_IF_ERROR(Call());
    const TilePlan& plan = *args.plan;
    for (const TileSequence& sequence : plan.sequences) {
      for (int32_t i = 0; i < sequence.num_rows; ++i) {
        const int64_t row = sequence.first_row + i;
        uint32_t hash = fake::Word(static_cast<const float*>(args.q) + row * args.q_stride);
        for (int32_t e = 0; e < sequence.num_entries; ++e) {
          hash = SeeEntry(args,
                          plan.entries[ToSize(sequence.first_entry + e)],
                          sequence.first_position + i,
                          plan.window,
                          hash);
        }
        fake::SetWord(static_cast<float*>(args.out) + row * args.out_stride, hash);
      }
    }
    return absl::OkStatus();
  }

  absl::Status SwiGlu(const SwiGluArgs& args) override {
    RETURN_IF_ERROR(Call());
    for (int64_t i = 0; i < args.num_rows; ++i) {
      fake::SetWord(static_cast<float*>(args.out) + i * args.ffn_dim,
                    fake::SwiGlu(fake::Word(args.gate_up + i * 2 * args.ffn_dim)));
    }
    return absl::OkStatus();
  }

  absl::Status Sample(const SampleArgs& args) override {
    RETURN_IF_ERROR(Call());
    if (const std::function<void()> hook = std::exchange(on_sample_, nullptr)) {
      hook();
    }
    for (size_t i = 0; i < args.rows.size(); ++i) {
      const int64_t row = args.rows[i].logits_row;
      ScoredToken result =
          SampleLogits(args.logits + row * args.vocab_size, args.vocab_size, args.rows[i]);
      ids_.push_back(result.token.token_id);
      // A device's results are not there before the step was awaited.
      args.results[i] = {};
      sampled_.push_back({&args.results[i], std::move(result)});
    }
    return absl::OkStatus();
  }

  absl::Status EndStep() override {
    ended_.push_back(std::move(sampled_));
    sampled_.clear();
    return absl::OkStatus();
  }

  absl::Status AwaitStep() override {
    RETURN_IF_ERROR(Call());
    if (!ended_.empty()) {
      Deliver(ended_.front());
      ended_.pop_front();
    }
    return absl::OkStatus();
  }

  absl::Status Synchronize() override {
    RETURN_IF_ERROR(Call());
    for (std::vector<Sampled>& step : ended_) {
      Deliver(step);
    }
    ended_.clear();
    Deliver(sampled_);
    sampled_.clear();
    return absl::OkStatus();
  }

 private:
  struct Sampled {
    ScoredToken* to = nullptr;
    ScoredToken token;
  };

  static BackendInfo Info(bool runs_ahead) {
    BackendInfo info;
    info.device = "fake";
    info.name = "fake";
    info.kernels = "hash";
    info.runs_ahead = runs_ahead;
    return info;
  }

  static void Deliver(std::vector<Sampled>& results) {
    for (Sampled& result : results) {
      *result.to = std::move(result.token);
    }
  }

  static size_t ToSize(int32_t index) { return static_cast<size_t>(index); }

  absl::Status Call() {
    ++num_calls_;
    if (calls_left_ >= 0 && calls_left_-- == 0) {
      return absl::InternalError("injected fault");
    }
    return absl::OkStatus();
  }

  static fake::StoredKey* KeyAt(const KvView& kv, int64_t slot) {
    const int64_t block_size = kv.layout.block_size;
    std::byte* keys = kv.Keys(static_cast<int32_t>(slot / block_size), 0);
    return reinterpret_cast<fake::StoredKey*>(keys + slot % block_size * sizeof(fake::StoredKey));
  }

  static uint32_t SeeEntry(const AttentionArgs& args,
                           const BlockEntry& entry,
                           int64_t position,
                           int64_t window,
                           uint32_t hash) {
    const int64_t first_slot = int64_t{entry.block} * args.kv.layout.block_size;
    for (int32_t j = 0; j < entry.num_keys; ++j) {
      const fake::StoredKey& key = *KeyAt(args.kv, first_slot + j);
      if (entry.sink_angle_row >= 0) {
        int64_t rotated_to = 0;
        std::memcpy(&rotated_to,
                    args.angles + int64_t{entry.sink_angle_row + j} * args.kv.layout.head_dim,
                    sizeof(int64_t));
        hash = fake::SeeKey(hash, key.value + key.is_rotated, rotated_to, true);
      } else if (entry.position + j <= position && entry.position + j > position - window) {
        hash = fake::SeeKey(hash, key.value + 1 - key.is_rotated, key.position, false);
      }
    }
    return hash;
  }

  ModelConfig config_;
  const bool runs_ahead_;
  std::vector<Sampled> sampled_;  // by the step at hand
  std::deque<std::vector<Sampled>> ended_;
  std::vector<int32_t> ids_;         // that the step at hand sampled
  std::vector<int32_t> ids_before_;  // that the step before it did
  std::function<void()> on_sample_;
  int64_t num_calls_ = 0;
  int64_t calls_left_ = -1;
  int32_t poisoned_row_ = -1;
};

static_assert(sizeof(fake::StoredKey) == 16);

// What the model says after each token of a text, computed from the text alone.
class FakeText {
 public:
  // `embedding` is the table of the weights, [vocab_size, hidden_dim] float32.
  FakeText(const ModelConfig& config, const SessionShape& shape, const float* embedding)
      : config_(config),
        shape_(shape),
        embedding_(embedding),
        keys_(static_cast<size_t>(config.num_layers)) {}

  // The logits that follow the token.
  std::vector<float> Push(int32_t token_id) {
    const auto position = static_cast<int64_t>(keys_[0].size());
    uint32_t x = fake::Word(embedding_ + int64_t{token_id} * config_.hidden_dim);
    uint32_t residual = 0;
    for (size_t layer = 0; layer < keys_.size(); ++layer) {
      x = layer == 0 ? x : fake::AddResidual(x, residual);
      const int64_t qkv_rows =
          (config_.num_heads + 2 * config_.num_kv_heads) * int64_t{config_.head_dim};
      const uint32_t query = fake::MatMul(fake::Norm(x), qkv_rows);
      keys_[layer].push_back(query);
      residual = fake::MatMul(config_.IsLocal(static_cast<int32_t>(layer))
                                  ? AttendLocally(keys_[layer], query, position)
                                  : Attend(keys_[layer], query, position),
                              config_.hidden_dim);
      x = fake::AddResidual(x, residual);
      residual =
          fake::MatMul(fake::SwiGlu(fake::MatMul(fake::Norm(x), int64_t{2} * config_.ffn_dim)),
                       config_.hidden_dim);
    }
    hidden_ = fake::Norm(fake::AddResidual(x, residual));
    std::vector<float> logits(static_cast<size_t>(config_.vocab_size));
    for (int32_t id = 0; id < config_.vocab_size; ++id) {
      logits[static_cast<size_t>(id)] = fake::Logit(hidden_, id);
    }
    return logits;
  }

  // The first element of the hidden state of the last token pushed, after the final norm.
  float hidden() const { return std::bit_cast<float>(hidden_); }

 private:
  uint32_t AttendLocally(const std::vector<uint32_t>& keys,
                         uint32_t query,
                         int64_t position) const {
    uint32_t hash = query;
    for (int64_t at = std::max<int64_t>(position + 1 - config_.window, 0); at <= position; ++at) {
      hash = fake::SeeKey(hash, keys[static_cast<size_t>(at)], at, false);
    }
    return hash;
  }

  uint32_t Attend(const std::vector<uint32_t>& keys, uint32_t query, int64_t position) const {
    uint32_t hash = query;
    // By the definition (session.h), not by its arithmetic.
    int64_t first = 0;
    while (shape_.slides && position >= shape_.buffer_size &&
           first < position + 1 - shape_.buffer_size) {
      first += shape_.block_size;
    }
    for (int64_t j = 0; first > 0 && j < shape_.sink_size; ++j) {
      const int64_t rotated_to = first - shape_.sink_size + j;
      hash = fake::SeeKey(hash, keys[static_cast<size_t>(j)], rotated_to, true);
    }
    for (int64_t at = first; at <= position; ++at) {
      hash = fake::SeeKey(hash, keys[static_cast<size_t>(at)], at, false);
    }
    return hash;
  }

  ModelConfig config_;
  SessionShape shape_;
  const float* embedding_;
  uint32_t hidden_ = 0;
  std::vector<std::vector<uint32_t>> keys_;  // [num_layers][position]
};

}  // namespace ringserve
