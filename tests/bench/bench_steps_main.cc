// `ringserve bench model --device cuda` as a program of its own, which needs no gRPC.
//   steps_bench [SHAPE [DECODE_LEN [BATCHxCONTEXT...]]]
//   steps_bench spill [SHAPE [DECODE_LEN [BATCHxCONTEXT]]]: blocks to pinned memory and back, alone
//                                                           and beside decoding
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/bench/bench_steps.h"

int main(int argc, char** argv) {
  ringserve::StepsBenchOptions options;
  if (argc > 1 && std::string(argv[1]) == "spill") {
    options.spill = true;
    options.prefill_len = 0;
    options.loads = {{32, 1024}};
    --argc;
    ++argv;
  }
  if (argc > 1) {
    options.shape = argv[1];
  }
  if (argc > 2) {
    options.decode_len = std::atoi(argv[2]);
  }
  if (argc > 3) {
    options.loads.clear();
  }
  for (int i = 3; i < argc; ++i) {
    const std::string load = argv[i];
    const size_t cross = load.find('x');
    options.loads.push_back(
        {std::atoi(load.c_str()),
         cross == std::string::npos ? 1024 : std::atoi(load.c_str() + cross + 1)});
  }
  const absl::Status status = ringserve::BenchSteps(options);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return 1;
  }
  return 0;
}
