#include "tests/support/cuda_trap.h"

namespace ringserve {
namespace {

__global__ void TrapKernel() {
  asm volatile("trap;");
}

}  // namespace

void LaunchTrap() {
  TrapKernel<<<1, 1>>>();
}

}  // namespace ringserve
