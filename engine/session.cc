#include "engine/session.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>

#include "engine/base/check.h"
#include "kernels/types.h"

namespace ringserve {
namespace {

int64_t WindowBlocks(const SessionShape& shape, int64_t max_position) {
  return CeilDiv<int64_t>(std::clamp<int64_t>(max_position, 1, shape.buffer_size),
                          shape.block_size);
}

// The tokens of positions [first, end), each at its position modulo the size of either table: in
// runs, since a division a token is most of what a fork of a long text would take.
void CopyTokens(const std::vector<int32_t>& from,
                int64_t first,
                int64_t end,
                std::vector<int32_t>& to) {
  while (first < end) {
    const size_t from_at = static_cast<size_t>(first) % from.size();
    const size_t to_at = static_cast<size_t>(first) % to.size();
    const size_t count =
        std::min({static_cast<size_t>(end - first), from.size() - from_at, to.size() - to_at});
    std::copy_n(from.begin() + static_cast<int64_t>(from_at),
                count,
                to.begin() + static_cast<int64_t>(to_at));
    first += static_cast<int64_t>(count);
  }
}

}  // namespace

SessionShape MakeSessionShape(const EngineConfig::Rings& rings) {
  const bool slides = rings.overflow == OverflowPolicy::kSlide;
  return SessionShape{.buffer_size = rings.buffer_size,
                      .block_size = rings.block_size,
                      .sink_size = slides ? rings.sink_size : 0,
                      .feedback_size = rings.buffer_size,
                      .slides = slides};
}

SessionShape MakeWindowShape(int64_t window,
                             int32_t block_size,
                             int32_t step_rows,
                             int64_t max_length) {
  // Wherever in its block the window begins, and with the rows of a step after it.
  const int64_t most = RoundUp<int64_t>(window - 1 + step_rows, block_size) + block_size;
  const int64_t size = std::min(most, RoundUp<int64_t>(std::min(max_length, most), block_size));
  return {.buffer_size = size,
          .block_size = block_size,
          .sink_size = 0,
          .feedback_size = size,
          .slides = true,
          .window = window,
          .max_length = max_length};
}

void AddLocalRing(int64_t window, int32_t step_rows, SessionShape& shape) {
  const int64_t max_length =
      shape.has_end() ? shape.max_context() : std::numeric_limits<int64_t>::max();
  shape.local_window = window;
  shape.local_size =
      MakeWindowShape(2 * window, shape.block_size, step_rows, max_length).buffer_size;
}

SessionShape LocalShape(const SessionShape& shape) {
  RS_CHECK(shape.has_local());
  return {.buffer_size = shape.local_size,
          .block_size = shape.block_size,
          .sink_size = 0,
          .feedback_size = shape.local_size,
          .slides = true,
          .window = shape.local_window,
          .slack = shape.local_window,
          .group = BlockGroup::kLocal};
}

int64_t WindowFirst(const SessionShape& shape, int64_t position) {
  if (shape.window > 0) {
    const int64_t first = std::max<int64_t>(position + 1 - shape.window - shape.slack, 0);
    return first - first % shape.block_size;
  }
  if (!shape.slides || position < shape.buffer_size) {
    return 0;
  }
  return RoundUp<int64_t>(position + 1 - shape.buffer_size, shape.block_size);
}

int64_t LowestFloor(const SessionShape& shape, int64_t first_position) {
  if (first_position == 0) {
    return 0;
  }
  return first_position +
         (shape.window > 0 ? shape.window - 1 : shape.buffer_size - shape.block_size);
}

BlockCounts WorstCaseBlocks(const SessionShape& shape, int64_t max_position) {
  return {WindowBlocks(shape, max_position) + (shape.sink_size > 0 ? 1 : 0),
          shape.has_local() ? WindowBlocks(LocalShape(shape), max_position) : 0};
}

Session::Session(const SessionShape& shape, int64_t max_position, BlockPool& pool)
    : shape_(shape),
      pool_(pool),
      forward_(WindowBlocks(shape, max_position)),
      feedback_(std::min(WindowBlocks(shape, max_position),
                         CeilDiv<int64_t>(shape.feedback_size, shape.block_size))),
      token_ids_(static_cast<size_t>(forward_.capacity() * shape.block_size)) {
  RS_CHECK(shape.block_size >= 1);
  RS_CHECK(shape.buffer_size >= shape.block_size);
  RS_CHECK(shape.sink_size <= shape.block_size);
  RS_CHECK(shape.sink_size == 0 || shape.slides);
  RS_CHECK(shape.window == 0 || (shape.slides && shape.sink_size == 0));
  if (shape.has_local()) {
    RS_CHECK(shape.window == 0 && shape.sink_size == 0 && !shape.has_source);
    local_ = std::make_unique<Session>(LocalShape(shape), max_position, pool);
  }
}

Session::Session(const Session& from,
                 int64_t position,
                 int64_t max_position,
                 std::vector<BlockCopy>& copies)
    : Session(from.shape_, max_position, from.pool_) {
  RS_CHECK(position >= from.floor_);
  RS_CHECK(position <= from.position_);
  RS_CHECK(position >= from.text_start());
  RS_CHECK(position <= max_position);
  if (from.local_ != nullptr) {
    local_ = std::make_unique<Session>(*from.local_, position, max_position, copies);
  }
  source_len_ = from.source_len_;
  position_ = position;
  floor_ = from.floor_;
  CopyTokens(from.token_ids_, from.window_first(), position, token_ids_);
  const int64_t first_block = from.forward_.first();
  const int64_t full_end = std::max(position / shape_.block_size, first_block);
  forward_.Restart(first_block);
  for (int64_t index = first_block; index < full_end; ++index) {
    const int32_t block = from.BlockAt(index);
    pool_.AddOwner(block);
    forward_.Append(block);
  }
  feedback_.Restart(full_end);
  const int64_t num_keys = position - full_end * shape_.block_size;
  if (num_keys > 0) {
    feedback_.Append(OwnCopy(from.BlockAt(full_end), num_keys, copies));
  }
  if (from.sink_block_ < 0 || position == 0) {
    return;
  }
  if (position < shape_.sink_size) {
    sink_block_ = OwnCopy(from.sink_block_, position, copies);
  } else {
    pool_.AddOwner(from.sink_block_);
    sink_block_ = from.sink_block_;
  }
}

Session::Session(const SessionShape& shape, const SessionImage& image, BlockPool& pool)
    : Session(shape, std::numeric_limits<int64_t>::max(), pool) {
  const int64_t full_end = image.position / shape.block_size;
  forward_.Restart(image.first_block);
  while (forward_.end() < full_end) {
    forward_.Append(Acquire());
  }
  feedback_.Restart(full_end);
  if (image.position % shape.block_size != 0) {
    feedback_.Append(Acquire());
  }
  if (image.has_sinks) {
    sink_block_ = Acquire();
  }
  int64_t position = image.first_block * shape.block_size;
  for (const int32_t token_id : image.token_ids) {
    token_ids_[static_cast<size_t>(position++) % token_ids_.size()] = token_id;
  }
  RS_CHECK(position == image.position);
  if (local_ != nullptr) {
    SessionImage local;
    local.position = image.position;
    local.rollback_floor = image.local_floor;
    local.first_block = image.local_first_block;
    // Only the first group's tokens are asked for.
    local.token_ids.resize(
        static_cast<size_t>(image.position - image.local_first_block * shape.block_size));
    local_ = std::make_unique<Session>(LocalShape(shape), local, pool);
  }
  position_ = image.position;
  floor_ = image.rollback_floor;
}

SessionImage Session::Image() const {
  RS_CHECK(feedback_.size() <= 1);
  SessionImage image;
  image.buffer_size = shape_.window == 0 || shape_.has_end() ? shape_.max_context() : 0;
  image.position = position_;
  image.rollback_floor = floor_;
  image.first_block = forward_.first();
  image.has_sinks = sink_block_ >= 0 && position_ > 0;
  if (local_ != nullptr) {
    RS_CHECK(kept_ == nullptr);
    image.has_local = true;
    image.local_first_block = local_->forward_.first();
    image.local_floor = local_->floor_;
  }
  for (int64_t position = window_first(); position < position_; ++position) {
    image.token_ids.push_back(TokenAt(position));
  }
  return image;
}

Session::~Session() {
  while (!forward_.empty()) {
    pool_.Release(forward_.TakeLast());
  }
  while (!feedback_.empty()) {
    pool_.Release(feedback_.TakeLast());
  }
  if (sink_block_ >= 0) {
    pool_.Release(sink_block_);
  }
}

int64_t Session::MaxRows() const {
  // The window moves with the row whose first position is the next multiple of block_size.
  const int64_t first = shape_.slides ? WindowFirst(shape_, position_) : 0;
  const int64_t most = std::min(first + shape_.buffer_size, shape_.max_length) - position_;
  return local_ != nullptr ? std::min(most, local_->MaxRows()) : most;
}

int64_t Session::Append(std::span<const int32_t> token_ids, Phase phase) {
  const auto num_rows = static_cast<int64_t>(token_ids.size());
  RS_CHECK(num_rows >= 1);
  RS_CHECK(num_rows <= MaxRows());
  const int64_t evicted = MoveWindow(WindowFirst(shape_, position_));
  for (const int32_t token_id : token_ids) {
    token_ids_[static_cast<size_t>(position_) % token_ids_.size()] = token_id;
    ++position_;
  }
  if (shape_.sink_size > 0 && sink_block_ < 0) {
    sink_block_ = Acquire();
  }
  const int64_t end_block = CeilDiv<int64_t>(position_, shape_.block_size);
  while (feedback_.end() < end_block) {
    if (feedback_.full()) {
      HandOverOldest();
    }
    feedback_.Append(Acquire());
  }
  if (phase == Phase::kPrefill) {
    HandOverFull();
  }
  if (local_ != nullptr) {
    local_->Append(token_ids, phase);
  }
  return evicted;
}

void Session::AppendSource(std::span<const int32_t> token_ids) {
  RS_CHECK(position_ == 0);
  RS_CHECK(!shape_.slides);
  source_len_ = static_cast<int64_t>(token_ids.size());
  std::vector<int32_t> rows(token_ids.begin(), token_ids.end());
  rows.resize(static_cast<size_t>(text_start()));  // slots that nobody reads
  Append(rows, Phase::kPrefill);
}

void Session::SetToken(int64_t position, int32_t token_id) {
  RS_DCHECK(position >= window_first());
  RS_DCHECK(position < position_);
  token_ids_[static_cast<size_t>(position) % token_ids_.size()] = token_id;
}

void Session::BeginWith(std::span<const int32_t> token_ids, std::span<const int32_t> blocks) {
  RS_CHECK(position_ == 0);
  RS_CHECK(token_ids.size() == blocks.size() * static_cast<size_t>(shape_.block_size));
  RS_CHECK(token_ids.size() <= token_ids_.size());
  // Sinks are kept apart, unrotated, and a shared block has none.
  RS_CHECK(shape_.sink_size == 0 || blocks.empty());
  RS_CHECK(local_ == nullptr || blocks.empty());
  RS_CHECK(feedback_.empty());
  for (const int32_t block : blocks) {
    forward_.Append(block);
  }
  feedback_.Restart(forward_.end());
  std::copy(token_ids.begin(), token_ids.end(), token_ids_.begin());
  position_ = static_cast<int64_t>(token_ids.size());
}

int64_t Session::Slot(int64_t position) const {
  const int32_t block = BlockAt(position / shape_.block_size);
  return int64_t{block} * shape_.block_size + position % shape_.block_size;
}

int64_t Session::SinkSlot(int64_t position) const {
  return position < shape_.sink_size ? int64_t{sink_block_} * shape_.block_size + position : -1;
}

int32_t Session::TokenAt(int64_t position) const {
  RS_DCHECK(position >= window_first());
  RS_DCHECK(position < position_);
  return token_ids_[static_cast<size_t>(position) % token_ids_.size()];
}

void Session::AppendContext(int32_t sink_angle_row, std::vector<BlockEntry>& entries) const {
  if (HasSinkEntry()) {
    entries.push_back({.block = sink_block_,
                       .num_keys = shape_.sink_size,
                       .position = SinkPosition(),
                       .sink_angle_row = sink_angle_row});
  }
  const int64_t text_block = std::max(forward_.first(), text_start() / shape_.block_size);
  for (int64_t index = text_block; index < feedback_.end(); ++index) {
    const int64_t first = index * shape_.block_size;
    const int64_t num_keys = std::min<int64_t>(shape_.block_size, position_ - first);
    entries.push_back({.block = BlockAt(index),
                       .num_keys = static_cast<int32_t>(num_keys),
                       .position = first - text_start()});
  }
}

void Session::AppendSourceContext(std::vector<BlockEntry>& entries) const {
  for (int64_t first = 0; first < source_len_; first += shape_.block_size) {
    const int64_t num_keys = std::min<int64_t>(shape_.block_size, source_len_ - first);
    entries.push_back({.block = BlockAt(first / shape_.block_size),
                       .num_keys = static_cast<int32_t>(num_keys),
                       .position = first});
  }
}

void Session::BeginTurn(std::vector<BlockCopy>& copies) {
  if (local_ != nullptr) {
    // It may come to be the local ring of all turns that follow.
    constexpr int64_t kEndless = std::numeric_limits<int64_t>::max();
    kept_ = std::make_unique<Session>(*local_, position_, kEndless, copies);
  }
}

void Session::Commit() {
  HandOverFull();
  if (local_ != nullptr) {
    local_->Commit();
    kept_.reset();
  }
}

void Session::Rollback(int64_t position, std::vector<BlockCopy>& copies) {
  RS_CHECK(CanRollBackTo(position));
  RS_CHECK(position <= position_);
  if (kept_ != nullptr && position == kept_->position_) {
    local_ = std::move(kept_);  // as it was, its floor included
  } else if (local_ != nullptr) {
    local_->Rollback(position, copies);
  }
  position_ = position;
  const int64_t end_block = CeilDiv<int64_t>(position, shape_.block_size);
  while (!feedback_.empty() && feedback_.end() > end_block) {
    pool_.Release(feedback_.TakeLast());
  }
  while (forward_.end() > end_block) {
    pool_.Release(forward_.TakeLast());
  }
  if (feedback_.empty()) {
    // The end of the text may fall into a block of the forward ring, which is written to again.
    const bool reopens = forward_.end() * shape_.block_size > position;
    const int32_t block = reopens ? forward_.TakeLast() : -1;
    feedback_.Restart(forward_.end());
    if (reopens) {
      feedback_.Append(block);
    }
  }
  const int64_t num_keys = position % shape_.block_size;
  if (num_keys > 0) {
    const int64_t index = feedback_.end() - 1;
    const int32_t shared = feedback_[index];
    if (pool_.is_shared(shared)) {
      pool_.Release(feedback_.Exchange(index, OwnCopy(shared, num_keys, copies)));
    }
  }
  if (position < shape_.sink_size && sink_block_ >= 0 && pool_.num_owners(sink_block_) > 1) {
    const int32_t shared = sink_block_;
    sink_block_ = OwnCopy(shared, position, copies);
    pool_.Release(shared);
  }
}

BlockCounts Session::NumCopies(int64_t position) const {
  const bool splits =
      position % shape_.block_size != 0 && pool_.is_shared(BlockAt(position / shape_.block_size));
  const bool reopens_sinks =
      position < shape_.sink_size && sink_block_ >= 0 && pool_.is_shared(sink_block_);
  return {(splits ? 1 : 0) + (reopens_sinks ? 1 : 0),
          local_ != nullptr ? local_->NumCopies(position).global : 0};
}

void Session::CollectBeginning(std::vector<int32_t>& blocks) const {
  if (window_first() > 0 || shape_.sink_size > 0 || local_ != nullptr) {
    return;
  }
  const int64_t end = std::min(position_, shape_.buffer_size) / shape_.block_size;
  for (int64_t index = 0; index < end; ++index) {
    blocks.push_back(BlockAt(index));
  }
}

void Session::CollectBlocks(std::vector<int32_t>& blocks) const {
  for (int64_t index = forward_.first(); index < feedback_.end(); ++index) {
    blocks.push_back(BlockAt(index));
  }
  if (sink_block_ >= 0) {
    blocks.push_back(sink_block_);
  }
  if (local_ != nullptr) {
    local_->CollectBlocks(blocks);
  }
}

int32_t Session::Acquire() {
  const std::optional<int32_t> block = pool_.Acquire(shape_.group);
  RS_CHECK(block.has_value());
  return *block;
}

// A block of this session's own that is to begin as `block` does.
int32_t Session::OwnCopy(int32_t block, int64_t num_keys, std::vector<BlockCopy>& copies) {
  const int32_t copy = Acquire();
  if (num_keys > 0) {
    copies.push_back({.from = block, .to = copy, .num_keys = static_cast<int32_t>(num_keys)});
  }
  return copy;
}

// Drops the blocks before `first_position`; the tokens that they held and the model would see.
int64_t Session::MoveWindow(int64_t first_position) {
  const int64_t before = window_first();
  while (window_first() < first_position) {
    if (forward_.empty()) {
      HandOverOldest();
    }
    pool_.Release(forward_.TakeFirst());
  }
  if (window_first() > before) {
    floor_ = std::max(floor_, LowestFloor(shape_, window_first()));
  }
  return shape_.window > 0 ? 0 : window_first() - before;
}

void Session::HandOverOldest() {
  RS_CHECK(!forward_.full());
  forward_.Append(feedback_.TakeFirst());
}

void Session::HandOverFull() {
  while (!feedback_.empty() && forward_.end() < position_ / shape_.block_size) {
    HandOverOldest();
  }
}

int32_t Session::BlockAt(int64_t index) const {
  return index < forward_.end() ? forward_[index] : feedback_[index];
}

}  // namespace ringserve
