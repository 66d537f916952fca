#include "server/caller.h"

#include <atomic>
#include <chrono>
#include <iterator>

#include <fmt/format.h>

namespace ringserve {

absl::StatusOr<std::string> CallerIdentity(const grpc::ServerContextBase& context,
                                           const std::string& identity_header) {
  if (identity_header.empty()) {
    return std::string();
  }
  const auto [begin, end] = context.client_metadata().equal_range(identity_header);
  if (begin == end) {
    return std::string();
  }
  const grpc::string_ref value = begin->second;
  if (std::next(begin) != end || value.empty() || value.size() > kMaxOwnerLength) {
    return absl::UnauthenticatedError(
        fmt::format("{}: to be there once, with 1 to {} bytes", identity_header, kMaxOwnerLength));
  }
  return std::string(value.data(), value.size());
}

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

CallOptions OptionsOf(const grpc::CallbackServerContext& context) {
  static std::atomic<uint64_t> last_id = 0;
  return {.deadline = DeadlineOf(context), .call_id = ++last_id};
}

}  // namespace ringserve
