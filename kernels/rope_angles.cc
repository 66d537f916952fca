#include <cmath>

#include "kernels/rope.h"
#include "kernels/thread_pool.h"

namespace ringserve {
namespace {

// 2 pi in three parts of falling size; the first two are doubles, so their products with a whole
// number of turns are taken exactly by fma.
constexpr double kTurn = 6.283185307179586;
constexpr double kTurnLow = 2.4492935982947064e-16;
constexpr double kTurns = 0.15915494309189535;  // 1 / (2 pi)

// position * frequency modulo 2 pi, in [-pi, pi] or just outside. The product is kept as a sum of
// two doubles: at position 2^40 one double would be off by 1e-4.
double Angle(int64_t position, double frequency) {
  const auto exact = static_cast<double>(position);
  const double product = exact * frequency;
  const double rest = std::fma(exact, frequency, -product);
  const double turns = std::nearbyint(product * kTurns);
  const double reduced = std::fma(-turns, kTurn, product);
  return std::fma(-turns, kTurnLow, reduced) + rest;
}

}  // namespace

void RopeAnglesCpu(const RopeAnglesArgs& args, ThreadPool& pool) {
  const int64_t half = args.head_dim / 2;
  pool.ParallelFor(args.num_rows, 8, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = Angle(args.positions[row], args.frequencies[i]);
        float* out = args.angles + 2 * (row * half + i);
        const double magnitude = args.frequencies[i] == 0 ? 1.0 : args.magnitude;
        out[0] = static_cast<float>(std::cos(angle) * magnitude);
        out[1] = static_cast<float>(std::sin(angle) * magnitude);
      }
    }
  });
}

}  // namespace ringserve
