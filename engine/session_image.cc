#include "engine/session_image.h"

#include <algorithm>

#include <fmt/format.h>

#include "engine/session.h"
#include "kernels/types.h"

namespace ringserve {
namespace {

absl::Status CheckIn(const char* what, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      fmt::format("{}: {} is not in [{}, {}]", what, value, min, max));
}

}  // namespace

BlockCounts NumBlocks(const SessionImage& image, int32_t block_size) {
  const int64_t end = CeilDiv<int64_t>(image.position, block_size);
  return {end - image.first_block + (image.has_sinks ? 1 : 0),
          image.has_local ? end - image.local_first_block : 0};
}

absl::Status CheckLocalImage(const SessionImage& image, const SessionShape& shape) {
  const SessionShape local = LocalShape(shape);
  const int64_t block_size = shape.block_size;
  // A rollback may have come after the window moved on; how far, the floor tells.
  RETURN_IF_ERROR(
      CheckIn("local first_block", image.local_first_block, 0, image.position / block_size));
  RETURN_IF_ERROR(CheckIn("local blocks",
                          CeilDiv(image.position, block_size) - image.local_first_block,
                          0,
                          CeilDiv(local.buffer_size, block_size)));
  return CheckIn("local rollback_floor",
                 image.local_floor,
                 LowestFloor(local, image.local_first_block * block_size),
                 image.position);
}

absl::Status CheckSessionImage(const SessionImage& image, const SessionShape& shape) {
  const int64_t block_size = shape.block_size;
  RETURN_IF_ERROR(CheckIn(
      "position", image.position, 0, shape.has_end() ? shape.max_context() : kMaxImagePosition));
  // The next row may move the window; an earlier one has not moved it further.
  RETURN_IF_ERROR(CheckIn(
      "first_block", image.first_block, 0, WindowFirst(shape, image.position) / block_size));
  RETURN_IF_ERROR(CheckIn("blocks",
                          CeilDiv(image.position, block_size) - image.first_block,
                          0,
                          CeilDiv(shape.buffer_size, block_size)));
  RETURN_IF_ERROR(CheckIn("rollback_floor",
                          image.rollback_floor,
                          LowestFloor(shape, image.first_block * block_size),
                          image.position));
  const bool needs_sinks = shape.sink_size > 0 && image.position > 0;
  if (image.has_sinks != needs_sinks) {
    return absl::InvalidArgumentError("sinks: there are some or none against the model's");
  }
  const int64_t num_tokens = image.position - image.first_block * block_size;
  return CheckIn("token_ids", static_cast<int64_t>(image.token_ids.size()), num_tokens, num_tokens);
}

}  // namespace ringserve
