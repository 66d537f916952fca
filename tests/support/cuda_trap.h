// Breaks the CUDA context of this process: a kernel that traps, as a stray access would.
#pragma once

namespace ringserve {

void LaunchTrap();

}  // namespace ringserve
