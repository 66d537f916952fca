// How the rings of an idle session stand, without the bytes of its blocks. Plain data.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/base/status.h"
#include "engine/cache/block_pool.h"

namespace ringserve {

struct SessionShape;

// Texts longer than that are nobody's, and arithmetic on their positions stays far from overflow.
inline constexpr int64_t kMaxImagePosition = int64_t{1} << 48;

struct SessionImage {
  // What SessionOptions::buffer_size says of a session of this shape; 0: its text has no end.
  int64_t buffer_size = 0;
  int64_t position = 0;
  int64_t rollback_floor = 0;
  int64_t first_block = 0;  // of the window, in blocks of the text
  bool has_sinks = false;
  // Of the local ring, in models that have one.
  bool has_local = false;
  int64_t local_first_block = 0;
  int64_t local_floor = 0;
  std::vector<int32_t> token_ids;  // of the positions from first_block * block_size on
};

// The blocks that belong to it.
BlockCounts NumBlocks(const SessionImage& image, int32_t block_size);

// INVALID_ARGUMENT unless a session of `shape` can stand so, its local ring aside. The token ids
// are anybody's.
absl::Status CheckSessionImage(const SessionImage& image, const SessionShape& shape);

// The same of its local ring. Requires that the shape has one.
absl::Status CheckLocalImage(const SessionImage& image, const SessionShape& shape);

}  // namespace ringserve
