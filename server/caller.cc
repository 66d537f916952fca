#include "server/caller.h"

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

}  // namespace ringserve
