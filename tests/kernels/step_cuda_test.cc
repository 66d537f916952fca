// The small kernels of a step on CUDA: norm, rotation and append, activation, embedding.
#include <cmath>
#include <vector>

#include "kernels/embed_cuda.h"
#include "kernels/rmsnorm_cuda.h"
#include "kernels/rope_cuda.h"
#include "kernels/swiglu_cuda.h"
#include "kernels/thread_pool.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/device_memory.h"
#include "tests/support/half_words.h"
#include "tests/support/random.h"

namespace ringserve {
TEST_CASE("the norm on CUDA is exact to rounding, row by row", "[cuda]") {
  Random random(3);
  for (const DType dtype : kHalfTypes) {
    for (const int32_t hidden : {4, 64, 704, 4096, 5120, 16384}) {
      for (const bool with_residual : {false, true}) {
        constexpr int32_t kRows = 5;
        const size_t count = size_t{kRows} * static_cast<size_t>(hidden);
        std::vector<float> x = random.NormalVector(static_cast<int64_t>(count), 4);
        const std::vector<float> residual = random.NormalVector(static_cast<int64_t>(count), 4);
        const std::vector<float> weight = random.NormalVector(hidden);
        RmsNormArgs args = {.x = x.data(),
                            .residual_in = with_residual ? residual.data() : nullptr,
                            .weight = weight.data(),
                            .num_rows = kRows,
                            .hidden_dim = hidden,
                            .eps = 1e-5F,
                            .out_dtype = dtype};
        std::vector<double> truth(count);
        std::vector<float> plain(count);
        RmsNormRef(args, truth.data());
        RmsNormRef(args, plain.data());
        const DeviceMemory device_residual(residual);
        const DeviceMemory device_weight(weight);
        const auto run = [&](int32_t first, int32_t rows, std::vector<float>* updated) {
          const size_t offset = static_cast<size_t>(first) * static_cast<size_t>(hidden);
          const DeviceMemory device_x(x);
          const DeviceMemory out(2 * static_cast<size_t>(rows) * static_cast<size_t>(hidden));
          out.Fill(0xff);
          RmsNormArgs on_device = args;
          on_device.x = device_x.as<float>() + offset;
          on_device.residual_in = with_residual ? device_residual.as<float>() + offset : nullptr;
          on_device.weight = device_weight.as<float>();
          on_device.out = out.as();
          on_device.num_rows = rows;
          CheckCuda(cuda::LaunchRmsNorm(on_device, nullptr), "LaunchRmsNorm");
          CheckCuda(cudaDeviceSynchronize(), "norm");
          if (updated != nullptr) {
            *updated = device_x.Download<float>();
          }
          return out.Download<uint16_t>();
        };
        INFO("hidden " << hidden << " residual " << with_residual << " " << DTypeName(dtype));
        std::vector<float> updated;
        const std::vector<uint16_t> got = run(0, kRows, &updated);
        CHECK(MaxError(Widen(got, dtype), truth) <=
              2 * MaxError(Round(plain, dtype), truth) + OneUlp(MaxAbs(truth), dtype));
        std::vector<float> sum = x;
        for (size_t i = 0; with_residual && i < count; ++i) {
          sum[i] += residual[i];
        }
        CHECK(SameBits(updated, sum));
        CHECK(SameBits(run(2, 1, nullptr),
                       std::vector<uint16_t>(got.begin() + 2 * hidden, got.begin() + 3 * hidden)));
      }
    }
  }
}

TEST_CASE("a deferred norm leaves the weighted row and its scale", "[cuda]") {
  Random random(31);
  for (const int32_t hidden : {64, 704, 4096, 5120, 8192, 16384}) {
    for (const bool with_residual : {false, true}) {
      INFO("hidden " << hidden << " residual " << with_residual);
      constexpr int32_t kRows = 5;
      const int64_t count = int64_t{kRows} * hidden;
      const std::vector<float> x = random.NormalVector(count, 4);
      const std::vector<float> residual = random.NormalVector(count, 4);
      const std::vector<float> weight = random.NormalVector(hidden);
      const DeviceMemory device_residual(residual);
      const DeviceMemory device_weight(weight);
      // The scales, of rows from `first` on; what else there is goes where it is asked for.
      const auto run = [&](int32_t first,
                           int32_t rows,
                           std::vector<float>* updated,
                           std::vector<uint16_t>* out) {
        const size_t offset = static_cast<size_t>(first) * static_cast<size_t>(hidden);
        const DeviceMemory device_x(x);
        const DeviceMemory device_out(2 * static_cast<size_t>(rows) * static_cast<size_t>(hidden));
        const DeviceMemory scales(4 * static_cast<size_t>(rows));
        device_out.Fill(0xff);
        scales.Fill(0xff);
        CheckCuda(
            cuda::LaunchRmsNorm(
                {.x = device_x.as<float>() + offset,
                 .residual_in = with_residual ? device_residual.as<float>() + offset : nullptr,
                 .weight = device_weight.as<float>(),
                 .out = device_out.as(),
                 .num_rows = rows,
                 .hidden_dim = hidden,
                 .eps = 1e-5F,
                 .scales = scales.as<float>()},
                nullptr),
            "LaunchRmsNorm");
        CheckCuda(cudaDeviceSynchronize(), "norm");
        if (updated != nullptr) {
          *updated = device_x.Download<float>();
        }
        if (out != nullptr) {
          *out = device_out.Download<uint16_t>();
        }
        return scales.Download<float>();
      };
      std::vector<float> updated;
      std::vector<uint16_t> out;
      const std::vector<float> scales = run(0, kRows, &updated, &out);
      std::vector<float> sum = x;
      std::vector<float> weighted(sum.size());
      std::vector<double> truth;
      for (size_t row = 0; row < kRows; ++row) {
        double squares = 0;
        for (size_t i = 0; i < static_cast<size_t>(hidden); ++i) {
          const size_t at = row * static_cast<size_t>(hidden) + i;
          sum[at] += with_residual ? residual[at] : 0.0F;
          weighted[at] = sum[at] * weight[i];
          squares += double{sum[at]} * double{sum[at]};
        }
        truth.push_back(1 / std::sqrt(squares / hidden + 1e-5));
      }
      CHECK(SameBits(updated, sum));
      CHECK(SameBits(out, ToWords(weighted, DType::kBf16)));
      // The sum, the quotient, the addition and the root each round.
      CHECK(MaxError(scales, truth) <= 4 * OneUlp(MaxAbs(truth), DType::kF32));
      CHECK(SameBits(run(2, 1, nullptr, nullptr), {scales[2]}));
    }
  }
  CHECK(cuda::LaunchRmsNorm({.hidden_dim = 68, .scales = reinterpret_cast<float*>(16)}, nullptr) !=
        cudaSuccess);
  CHECK(cuda::LaunchRmsNorm(
            {.hidden_dim = 64, .out_dtype = DType::kF16, .scales = reinterpret_cast<float*>(16)},
            nullptr) != cudaSuccess);
}

TEST_CASE("the activation on CUDA is exact to rounding", "[cuda]") {
  Random random(5);
  for (const DType dtype : kHalfTypes) {
    constexpr int32_t kRows = 3;
    constexpr int32_t kFfn = 1404;
    const std::vector<float> gate_up = random.NormalVector(int64_t{kRows} * 2 * kFfn, 4);
    SwiGluArgs args = {
        .gate_up = gate_up.data(), .num_rows = kRows, .ffn_dim = kFfn, .out_dtype = dtype};
    std::vector<double> truth(size_t{kRows} * kFfn);
    std::vector<float> plain(truth.size());
    SwiGluRef(args, truth.data());
    SwiGluRef(args, plain.data());
    const DeviceMemory device(gate_up);
    const DeviceMemory out(2 * truth.size());
    out.Fill(0xff);
    args.gate_up = device.as<float>();
    args.out = out.as();
    CheckCuda(cuda::LaunchSwiGlu(args, nullptr), "LaunchSwiGlu");
    CHECK(MaxError(Widen(out.Download<uint16_t>(), dtype), truth) <=
          2 * MaxError(Round(plain, dtype), truth) + OneUlp(MaxAbs(truth), dtype));
  }
}

TEST_CASE("rows of a table arrive as they are, by id or by feedback", "[cuda]") {
  Random random(7);
  constexpr int32_t kVocab = 50;
  for (const int32_t hidden : {8, 256, 3080}) {
    const std::vector<float> table =
        Round(random.NormalVector(int64_t{kVocab} * hidden), DType::kBf16);
    std::vector<uint16_t> words;
    for (const float value : table) {
      words.push_back(ToWord(value, DType::kBf16));
    }
    const DeviceMemory device_words(words);
    const DeviceMemory device_floats(table);
    // The last two: a feedback place, and an id that is none.
    const std::vector<int32_t> ids = {0, 49, 7, 7, ~2, kVocab};
    const std::vector<int32_t> feedback = {1, 2, 33};
    const DeviceMemory device_ids(ids);
    const DeviceMemory device_feedback(feedback);
    for (const DType dtype : {DType::kBf16, DType::kF32}) {
      const DeviceMemory out(ids.size() * static_cast<size_t>(hidden) * 4);
      out.Fill(0x11);
      const EmbedArgs args = {
          .token_ids = device_ids.as<int32_t>(),
          .table = dtype == DType::kF32 ? device_floats.as() : device_words.as(),
          .out = out.as<float>(),
          .num_rows = static_cast<int32_t>(ids.size()),
          .hidden_dim = hidden,
          .vocab_size = kVocab,
          .table_dtype = dtype};
      CheckCuda(cuda::LaunchEmbed(args, device_feedback.as<int32_t>(), nullptr), "LaunchEmbed");
      const std::vector<float> got = out.Download<float>();
      std::vector<float> expected;
      for (const int32_t id : {0, 49, 7, 7, 33}) {
        expected.insert(
            expected.end(), table.begin() + id * hidden, table.begin() + (id + 1) * hidden);
      }
      CHECK(SameBits({got.begin(), got.end() - hidden}, expected));
      CHECK(std::isnan(got.back()));
    }
  }
}

TEST_CASE("angles on CUDA are those of the host", "[cuda]") {
  Random random(11);
  constexpr int32_t kHeadDim = 128;
  std::vector<int64_t> positions = {0, 1, (int64_t{1} << 31) + 5, (int64_t{1} << 45) + 12345};
  for (int32_t i = 0; i < 60; ++i) {
    positions.push_back(random.Int(0, 1000000));
  }
  std::vector<double> frequencies;
  for (int32_t i = 0; i < kHeadDim / 2; ++i) {
    frequencies.push_back(std::pow(500000.0, -2.0 * i / kHeadDim));
  }
  std::vector<float> expected(positions.size() * kHeadDim);
  RopeAnglesArgs args = {.positions = positions.data(),
                         .frequencies = frequencies.data(),
                         .angles = expected.data(),
                         .num_rows = static_cast<int32_t>(positions.size()),
                         .head_dim = kHeadDim};
  ThreadPool pool(1);
  RopeAnglesCpu(args, pool);
  const DeviceMemory device_positions(positions);
  const DeviceMemory device_frequencies(frequencies);
  const DeviceMemory out(expected.size() * 4);
  args.positions = device_positions.as<int64_t>();
  args.frequencies = device_frequencies.as<double>();
  args.angles = out.as<float>();
  CheckCuda(cuda::LaunchRopeAngles(args, nullptr), "LaunchRopeAngles");
  CHECK(SameBits(out.Download<float>(), expected));
}

TEST_CASE("heads on CUDA arrive rotated, rounded and in their slots", "[cuda]") {
  for (const DType dtype : kHalfTypes) {
    for (const int32_t head_dim : {8, 24, 64, 96, 128, 256}) {
      constexpr int32_t kRows = 17;
      constexpr int32_t kHeads = 6;
      constexpr int32_t kKvHeads = 2;
      constexpr int32_t kAll = kHeads + 2 * kKvHeads;
      constexpr int64_t kBlocks = 32;
      Random random(static_cast<uint64_t>(head_dim));
      const std::vector<float> qkv = random.NormalVector(int64_t{kRows} * kAll * head_dim);
      const std::vector<float> angles = random.NormalVector(int64_t{kRows} * head_dim);
      std::vector<int64_t> slots;
      std::vector<int64_t> sink_slots;
      for (int64_t row = 0; row < kRows; ++row) {
        slots.push_back(row * 7 % (kBlocks * 4 - 12));
        sink_slots.push_back(row % 3 == 0 ? kBlocks * 4 - 12 + row / 3 : -1);
      }
      RopeAppendArgs args;
      args.qkv = qkv.data();
      args.angles = angles.data();
      args.kv.layout = {.block_size = 4,
                        .num_layers = 2,
                        .num_kv_heads = kKvHeads,
                        .head_dim = head_dim,
                        .dtype = dtype};
      args.kv.layer = 1;
      args.num_rows = kRows;
      args.num_heads = kHeads;
      args.q_dtype = dtype;
      const size_t count = size_t{kRows} * kAll * static_cast<size_t>(head_dim);
      std::vector<double> truth(count);
      std::vector<float> plain(count);
      RopeRef(args, truth.data());
      RopeRef(args, plain.data());

      const DeviceMemory device_qkv(qkv);
      const DeviceMemory device_angles(angles);
      const DeviceMemory device_slots(slots);
      const DeviceMemory device_sinks(sink_slots);
      const DeviceMemory q(2 * size_t{kRows} * kHeads * static_cast<size_t>(head_dim));
      const DeviceMemory kv(static_cast<size_t>(kBlocks * args.kv.layout.block_bytes()));
      q.Fill(0xff);
      kv.Fill(0xff);
      RopeAppendArgs on_device = args;
      on_device.qkv = device_qkv.as<float>();
      on_device.angles = device_angles.as<float>();
      on_device.slots = device_slots.as<int64_t>();
      on_device.sink_slots = device_sinks.as<int64_t>();
      on_device.q = q.as();
      on_device.kv.pool = kv.as();
      CheckCuda(cuda::LaunchRopeAppend(on_device, nullptr), "LaunchRopeAppend");
      const std::vector<uint16_t> got_q = q.Download<uint16_t>();
      std::vector<uint16_t> pool = kv.Download<uint16_t>();
      KvView view = args.kv;
      view.pool = nullptr;  // so that addresses are offsets
      const auto take = [&](bool is_key, int64_t slot, int32_t head, int32_t i) {
        const auto block = static_cast<int32_t>(slot / 4);
        const auto plane =
            reinterpret_cast<size_t>(is_key ? view.Keys(block, head) : view.Values(block, head));
        uint16_t& word = pool[plane / 2 + static_cast<size_t>(slot % 4 * head_dim + i)];
        const float value = FromWord(word, dtype);
        word = 0xffff;
        return value;
      };
      std::vector<float> got;
      bool sinks_right = true;
      for (int64_t row = 0; row < kRows; ++row) {
        for (int32_t head = 0; head < kAll; ++head) {
          for (int32_t i = 0; i < head_dim; ++i) {
            const auto at = static_cast<size_t>((row * kAll + head) * head_dim + i);
            if (head < kHeads) {
              got.push_back(FromWord(
                  got_q[static_cast<size_t>((row * kHeads + head) * head_dim + i)], dtype));
              continue;
            }
            const bool is_key = head < kHeads + kKvHeads;
            got.push_back(take(is_key, slots[static_cast<size_t>(row)], head % 2, i));
            if (sink_slots[static_cast<size_t>(row)] >= 0) {
              sinks_right &= take(is_key, sink_slots[static_cast<size_t>(row)], head % 2, i) ==
                             FromWord(ToWord(qkv[at], dtype), dtype);
            }
          }
        }
      }
      INFO("head_dim " << head_dim << " " << DTypeName(dtype));
      CHECK(MaxError(got, truth) <=
            2 * MaxError(Round(plain, dtype), truth) + OneUlp(MaxAbs(truth), dtype));
      CHECK(sinks_right);
      CHECK(SameBits(pool, std::vector<uint16_t>(pool.size(), 0xffff)));  // nothing else written
    }
  }
}

}  // namespace ringserve
