#include "server/commands.h"

#include <cstdio>

#include <fmt/format.h>

namespace ringserve {

int Complain(const absl::Status& status) {
  fmt::print(stderr, "ringserve: {}\n", std::string(status.message()));
  return status.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitFailure;
}

}  // namespace ringserve
