#include "kernels/rope.h"

#include <array>
#include <cmath>
#include <vector>

#include "kernels/thread_pool.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

TEST_CASE("angles are right to the last bit of a float up to position 2^53") {
  // cos and sin of position * frequency to 40 digits, by mpmath.
  struct Case {
    int64_t position;
    double frequency;
    double cosine;
    double sine;
  };

  static const std::array cases = std::to_array<Case>({
#include "tests/kernels/rope_angles.inc"
  });
  ThreadPool pool(1);
  for (const Case& c : cases) {
    std::vector<float> angles(8);
    const std::vector<double> frequencies(4, c.frequency);
    RopeAnglesCpu({.positions = &c.position,
                   .frequencies = frequencies.data(),
                   .angles = angles.data(),
                   .num_rows = 1,
                   .head_dim = 8},
                  pool);
    CAPTURE(c.position, c.frequency);
    CHECK(angles[6] == static_cast<float>(c.cosine));
    CHECK(angles[7] == static_cast<float>(c.sine));
  }
}

// All rows of a small model: angles, slots and the arguments over them.
struct Fixture {
  Fixture(int32_t head_dim, int32_t num_rows, DType kv_dtype, DType q_dtype, uint64_t seed)
      : random(seed) {
    args.kv.layout = {.block_size = 4,
                      .num_layers = 2,
                      .num_kv_heads = 2,
                      .head_dim = head_dim,
                      .dtype = kv_dtype};
    args.kv.layer = 1;
    args.num_rows = num_rows;
    args.num_heads = 6;
    args.q_dtype = q_dtype;
    qkv = random.NormalVector(int64_t{num_rows} * 10 * head_dim);
    pool_bytes.assign(kBlocks * args.kv.layout.block_bytes() / 4, kUntouched);
    q.assign(int64_t{num_rows} * 6 * head_dim * DTypeBytes(q_dtype), std::byte{0});
    for (int32_t row = 0; row < num_rows; ++row) {
      positions.push_back(random.Int(0, 100000));
      slots.push_back((int64_t{row} * 7) % (kBlocks * 4 - 12));
      sink_slots.push_back(row % 3 == 0 ? kBlocks * 4 - 12 + row / 3 : -1);
    }
    for (int32_t i = 0; i < head_dim / 2; ++i) {
      frequencies.push_back(std::pow(10000.0, -2.0 * i / head_dim));
    }
    angles.resize(int64_t{num_rows} * head_dim);
    RopeAnglesCpu({.positions = positions.data(),
                   .frequencies = frequencies.data(),
                   .angles = angles.data(),
                   .num_rows = num_rows,
                   .head_dim = head_dim},
                  threads);
    args.qkv = qkv.data();
    args.angles = angles.data();
    args.slots = slots.data();
    args.sink_slots = sink_slots.data();
    args.q = q.data();
    args.kv.pool = reinterpret_cast<std::byte*>(pool_bytes.data());
  }

  // Element `i` of a head's key or value in `slot`.
  double Stored(bool is_key, int64_t slot, int32_t head, int32_t i) const {
    const KvLayout& layout = args.kv.layout;
    const auto block = static_cast<int32_t>(slot / layout.block_size);
    const std::byte* plane = is_key ? args.kv.Keys(block, head) : args.kv.Values(block, head);
    return Element(plane, layout.dtype, slot % layout.block_size * layout.head_dim + i);
  }

  static double Element(const std::byte* data, DType dtype, int64_t i) {
    return dtype == DType::kF32 ? reinterpret_cast<const float*>(data)[i]
                                : ToFloat(reinterpret_cast<const Bf16*>(data)[i]);
  }

  static constexpr int64_t kBlocks = 32;
  static constexpr uint32_t kUntouched = 0x7fc07fc0;  // NaN in either type
  Random random;
  ThreadPool threads{2};
  std::vector<float> qkv, angles;
  std::vector<uint32_t> pool_bytes;
  std::vector<std::byte> q;
  std::vector<int64_t> positions, slots, sink_slots;
  std::vector<double> frequencies;
  RopeAppendArgs args;
};

TEST_CASE("queries, keys and values arrive rotated, rounded and in their slots") {
  for (const int32_t head_dim : {8, 24, 64, 96, 128, 136, 256}) {
    for (const DType kv_dtype : {DType::kF32, DType::kBf16}) {
      for (const DType q_dtype : {DType::kF32, DType::kBf16}) {
        CAPTURE(head_dim, DTypeName(kv_dtype), DTypeName(q_dtype));
        Fixture f(head_dim, 17, kv_dtype, q_dtype, 1);
        const int64_t num_all = int64_t{17} * 10 * head_dim;
        std::vector<double> truth(num_all);
        std::vector<float> plain(num_all);
        RopeRef(f.args, truth.data());
        RopeRef(f.args, plain.data());
        RopeAppendCpu(f.args, f.threads);
        std::vector<double> got;
        for (int64_t at = 0; at < num_all; ++at) {
          const int64_t row = at / (int64_t{10} * head_dim);
          const auto head = static_cast<int32_t>(at / head_dim % 10);
          const auto i = static_cast<int32_t>(at % head_dim);
          if (head < 6) {
            got.push_back(Fixture::Element(f.q.data(), q_dtype, (row * 6 + head) * head_dim + i));
          } else {
            got.push_back(f.Stored(head < 8, f.slots[row], head % 2, i));
          }
          const DType dtype = head < 6 ? q_dtype : kv_dtype;
          plain[at] = dtype == DType::kF32 ? plain[at] : ToFloat(ToBf16(plain[at]));
        }
        const DType coarser =
            kv_dtype == DType::kF32 && q_dtype == DType::kF32 ? DType::kF32 : DType::kBf16;
        CHECK(MaxError(got, truth) <= 2 * MaxError(plain, truth) + OneUlp(MaxAbs(truth), coarser));
      }
    }
  }
}

TEST_CASE("a sink's key is kept unrotated and its value as it is; nothing else is written") {
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    Fixture f(64, 9, dtype, dtype, 2);
    RopeAppendCpu(f.args, f.threads);
    int64_t touched = 0;
    for (const uint32_t word : f.pool_bytes) {
      touched += word != Fixture::kUntouched ? 1 : 0;
    }
    CHECK(touched * 4 == int64_t{3072} * DTypeBytes(dtype));
    for (int32_t row = 0; row < 9; row += 3) {
      for (int32_t head = 0; head < 2; ++head) {
        for (int32_t i = 0; i < 64; ++i) {
          const auto rounded = [&](int64_t source) {
            const float value = f.qkv[(int64_t{row} * 10 + source) * 64 + i];
            return dtype == DType::kF32 ? value : ToFloat(ToBf16(value));
          };
          CHECK(f.Stored(true, f.sink_slots[row], head, i) == rounded(6 + head));
          CHECK(f.Stored(false, f.sink_slots[row], head, i) == rounded(8 + head));
        }
      }
    }
  }
}

TEST_CASE("a stored key rotates to what would have been stored rotated") {
  Fixture f(96, 1, DType::kF32, DType::kF32, 3);
  RopeAppendCpu(f.args, f.threads);
  std::vector<float> rotated(96);
  RotateStoredKey(
      f.args.kv.Keys(static_cast<int32_t>(f.sink_slots[0] / 4), 0) + f.sink_slots[0] % 4 * 96 * 4,
      f.args.angles,
      96,
      DType::kF32,
      reinterpret_cast<std::byte*>(rotated.data()));
  for (int32_t i = 0; i < 96; ++i) {
    CHECK(rotated[i] == static_cast<float>(f.Stored(true, f.slots[0], 0, i)));
  }
}

TEST_CASE("a row's bits do not depend on the rows beside it") {
  Fixture all(64, 33, DType::kBf16, DType::kBf16, 4);
  RopeAppendCpu(all.args, all.threads);
  Fixture one(64, 33, DType::kBf16, DType::kBf16, 4);
  one.args.num_rows = 1;
  for (int32_t row = 0; row < 33; ++row) {
    RopeAppendCpu(one.args, one.threads);
    one.args.qkv += 640;
    one.args.angles += 64;
    ++one.args.slots;
    ++one.args.sink_slots;
    one.args.q = static_cast<std::byte*>(one.args.q) + 768;
  }
  CHECK(SameBits(all.q, one.q));
  CHECK(SameBits(all.pool_bytes, one.pool_bytes));
}

TEST_CASE("NaN is rounded to NaN") {
  Fixture f(8, 1, DType::kBf16, DType::kBf16, 5);
  for (float& value : f.qkv) {
    value = std::bit_cast<float>(0x7f800001U);
  }
  RopeAppendCpu(f.args, f.threads);
  for (int32_t i = 0; i < 8; ++i) {
    CHECK(std::isnan(f.Stored(true, f.slots[0], 1, i)));
    CHECK(std::isnan(f.Stored(false, f.slots[0], 1, i)));
  }
}

}  // namespace
}  // namespace ringserve
