// Attention inputs for tests and benchmarks: sequences over a pool of blocks in random places.
// Contents follow from a sequence's seed and a position alone, so a text can be cut into steps in
// any way. Every slot of the pool that holds no key is NaN.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "engine/plan/tile_planner.h"
#include "kernels/attention.h"
#include "kernels/thread_pool.h"
#include "tests/support/random.h"

namespace ringserve {

struct AttentionShape {
  int32_t num_heads = 4;
  int32_t num_kv_heads = 2;
  int32_t head_dim = 64;
  int32_t block_size = 16;
  DType kv_dtype = DType::kBf16;
  DType q_dtype = DType::kBf16;
  DType out_dtype = DType::kF32;
  float q_scale = 1;  // larger: fewer keys matter
};

struct AttentionSequence {
  int64_t first_position = 0;
  int32_t num_rows = 1;
  int64_t first_key = 0;  // a multiple of block_size: the blocks before it are gone
  int32_t num_sinks = 0;
  uint64_t seed = 1;
  int64_t num_keys = 0;  // from first_key on; 0: up to the last row's own

  int64_t end_key() const {
    return num_keys > 0 ? first_key + num_keys : first_position + num_rows;
  }
};

class AttentionCase {
 public:
  // `share`: full blocks of sequences with one seed are the same block. `seed` places the blocks.
  AttentionCase(const AttentionShape& shape,
                const std::vector<AttentionSequence>& sequences,
                bool share = false,
                uint64_t seed = 1)
      : shape_(shape) {
    const KvLayout layout = {.block_size = shape.block_size,
                             .num_layers = 2,
                             .num_kv_heads = shape.num_kv_heads,
                             .head_dim = shape.head_dim,
                             .dtype = shape.kv_dtype};
    Random random(seed);
    int64_t num_blocks = 8;
    for (const AttentionSequence& s : sequences) {
      num_blocks += (s.end_key() - s.first_key) / shape.block_size + 4;
    }
    std::vector<int32_t> free(num_blocks);
    for (int64_t i = 0; i < num_blocks; ++i) {
      free[i] = static_cast<int32_t>(i);
      std::swap(free[i], free[random.Int(0, i)]);
    }
    pool_.assign(num_blocks * layout.block_bytes() / 4, 0x7fc17fc1U);
    args_.kv = {reinterpret_cast<std::byte*>(pool_.data()), layout, 1};
    args_.num_heads = shape.num_heads;
    args_.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    args_.q_dtype = shape.q_dtype;
    args_.out_dtype = shape.out_dtype;
    args_.q_stride = int64_t{shape.num_heads} * shape.head_dim + 8;
    args_.out_stride = int64_t{shape.num_heads} * shape.head_dim;
    std::map<std::pair<uint64_t, int64_t>, int32_t> shared;
    for (const AttentionSequence& s : sequences) {
      AddSequence(s, share, free, shared);
    }
    q_.resize(q_.size() + 64);
    args_.q = q_.data();
    args_.angles = angles_.data();
  }

  TileOptions Options() const {
    return {.num_heads = shape_.num_heads,
            .num_kv_heads = shape_.num_kv_heads,
            .tile_size = shape_.block_size};
  }

  void Plan(const TileOptions& options) {
    PlanTiles({.sequences = sequences_, .entries = entries_}, options, plan_);
    args_.plan = &plan_;
    workspace_.assign(plan_.num_partials * (shape_.head_dim + 2), std::nanf(""));
    args_.workspace = workspace_.data();
    out_.assign(num_rows_ * args_.out_stride * DTypeBytes(shape_.out_dtype), std::byte{0xff});
    args_.out = out_.data();
  }

  // Plans and runs; the output as raw bytes.
  const std::vector<std::byte>& Run(const TileOptions& options, ThreadPool& pool) {
    Plan(options);
    AttentionCpu(args_, pool);
    return out_;
  }

  std::vector<double> Output() const {
    std::vector<double> values(num_rows_ * args_.out_stride);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = shape_.out_dtype == DType::kF32
                      ? reinterpret_cast<const float*>(out_.data())[i]
                      : ToFloat(reinterpret_cast<const Bf16*>(out_.data())[i]);
    }
    return values;
  }

  // The output's bytes of one row.
  std::vector<std::byte> Row(int64_t row) const {
    const int64_t bytes = args_.out_stride * DTypeBytes(shape_.out_dtype);
    return {out_.begin() + row * bytes, out_.begin() + (row + 1) * bytes};
  }

  template <typename T>
  std::vector<T> Reference(DType round_p) const {
    std::vector<T> values(num_rows_ * args_.out_stride);
    AttentionRef(args_, round_p, values.data());
    return values;
  }

  // Overwrites the key or value of a position of sequence `s`, in all heads.
  void Poison(int32_t s, int64_t position, bool is_key, float value) {
    const TileSequence& sequence = sequences_[s];
    for (int32_t e = 0; e < sequence.num_entries; ++e) {
      const BlockEntry& entry = entries_[sequence.first_entry + e];
      const int64_t offset = position - entry.position;
      if (offset >= 0 && offset < entry.num_keys) {
        for (int32_t head = 0; head < shape_.num_kv_heads; ++head) {
          std::byte* plane =
              is_key ? args_.kv.Keys(entry.block, head) : args_.kv.Values(entry.block, head);
          const std::vector<float> row(shape_.head_dim, value);
          Store(row, shape_.kv_dtype, plane + offset * RowBytes());
        }
      }
    }
  }

  AttentionArgs& args() { return args_; }

  const TilePlan& plan() const { return plan_; }

  // The pool and the queries as they lie in memory; the queries have 64 spare bytes at the end.
  const std::vector<uint32_t>& pool() const { return pool_; }

  const std::vector<std::byte>& queries() const { return q_; }

  const std::vector<float>& angles() const { return angles_; }

  // One for each query head; AttentionArgs names them only after LearnSinks.
  const std::vector<float>& sink_logits() const { return sink_logits_; }

  void LearnSinks(uint64_t seed) {
    Random random(seed);
    sink_logits_ = Values(random, shape_.num_heads, 2);
    args_.sink_logits = sink_logits_.data();
  }

  // Of every distance up to `reach` either way.
  void BiasPositions(uint64_t seed, int32_t reach) {
    Random random(seed);
    position_bias_ = Values(random, int64_t{shape_.num_heads} * (2 * reach + 1), 2);
    args_.position_bias = position_bias_.data();
    args_.bias_reach = reach;
  }

  const std::vector<float>& position_bias() const { return position_bias_; }

  int64_t num_rows() const { return num_rows_; }

  const std::vector<TileSequence>& sequences() const { return sequences_; }

  const std::vector<BlockEntry>& entries() const { return entries_; }

 private:
  int64_t RowBytes() const { return int64_t{shape_.head_dim} * DTypeBytes(shape_.kv_dtype); }

  static void Store(const std::vector<float>& values, DType dtype, std::byte* to) {
    if (dtype == DType::kF32) {
      std::memcpy(to, values.data(), values.size() * sizeof(float));
    } else {
      const std::vector<Bf16> rounded = ToBf16(values);
      std::memcpy(to, rounded.data(), rounded.size() * sizeof(Bf16));
    }
  }

  // Variance 1, and cheaper than a normal distribution.
  static std::vector<float> Values(Random& random, int64_t count, float scale = 1) {
    std::vector<float> values(count);
    for (float& value : values) {
      value = scale * static_cast<float>(random.Uniform(-1.732, 1.732));
    }
    return values;
  }

  static Random Contents(uint64_t seed, int64_t position, int64_t what) {
    Random random((seed * 1000003 + static_cast<uint64_t>(position)) * 1031 +
                  static_cast<uint64_t>(what));
    random.Bits();
    return random;
  }

  void WriteKeys(const BlockEntry& entry, int64_t first_position, uint64_t seed) {
    for (int32_t head = 0; head < shape_.num_kv_heads; ++head) {
      for (int32_t key = 0; key < entry.num_keys; ++key) {
        const int64_t offset = key * RowBytes();
        Random random = Contents(seed, first_position + key, head);
        Store(Values(random, shape_.head_dim),
              shape_.kv_dtype,
              args_.kv.Keys(entry.block, head) + offset);
        Store(Values(random, shape_.head_dim),
              shape_.kv_dtype,
              args_.kv.Values(entry.block, head) + offset);
      }
    }
  }

  void AddSequence(const AttentionSequence& s,
                   bool share,
                   std::vector<int32_t>& free,
                   std::map<std::pair<uint64_t, int64_t>, int32_t>& shared) {
    TileSequence sequence = {.first_row = static_cast<int32_t>(num_rows_),
                             .num_rows = s.num_rows,
                             .first_position = s.first_position,
                             .first_entry = static_cast<int32_t>(entries_.size())};
    const int64_t end = s.end_key();
    if (s.num_sinks > 0) {
      const BlockEntry sinks = {
          .block = free.back(),
          .num_keys = s.num_sinks,
          .position = s.first_key - s.num_sinks,
          .sink_angle_row = static_cast<int32_t>(angles_.size()) / shape_.head_dim};
      free.pop_back();
      WriteKeys(sinks, 0, s.seed);
      entries_.push_back(sinks);
      for (int64_t i = 0; i < int64_t{s.num_sinks} * shape_.head_dim / 2; ++i) {
        const double angle = Contents(s.seed, i, 77).Uniform(-4, 4);
        angles_.push_back(static_cast<float>(std::cos(angle)));
        angles_.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    for (int64_t position = s.first_key; position < end; position += shape_.block_size) {
      BlockEntry entry = {
          .num_keys = static_cast<int32_t>(std::min<int64_t>(shape_.block_size, end - position)),
          .position = position};
      const bool sharable = share && entry.num_keys == shape_.block_size;
      const auto found = shared.find({s.seed, position});
      if (sharable && found != shared.end()) {
        entry.block = found->second;
      } else {
        entry.block = free.back();
        free.pop_back();
        WriteKeys(entry, position, s.seed);
        if (sharable) {
          shared[{s.seed, position}] = entry.block;
        }
      }
      entries_.push_back(entry);
    }
    sequence.num_entries = static_cast<int32_t>(entries_.size()) - sequence.first_entry;
    sequences_.push_back(sequence);
    const int64_t row_bytes = args_.q_stride * DTypeBytes(shape_.q_dtype);
    q_.resize((num_rows_ + s.num_rows) * row_bytes);
    for (int32_t row = 0; row < s.num_rows; ++row) {
      Random random = Contents(s.seed, s.first_position + row, 99);
      Store(Values(random, int64_t{shape_.num_heads} * shape_.head_dim, shape_.q_scale),
            shape_.q_dtype,
            q_.data() + (num_rows_ + row) * row_bytes);
    }
    num_rows_ += s.num_rows;
  }

  AttentionShape shape_;
  AttentionArgs args_;
  TilePlan plan_;
  int64_t num_rows_ = 0;
  std::vector<TileSequence> sequences_;
  std::vector<BlockEntry> entries_;
  std::vector<uint32_t> pool_;
  std::vector<std::byte> q_;
  std::vector<std::byte> out_;
  std::vector<float> angles_;
  std::vector<float> sink_logits_;
  std::vector<float> position_bias_;
  std::vector<float> workspace_;
};

}  // namespace ringserve
