#include "engine/snapshot.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "engine/base/check.h"
#include "engine/base/checksum.h"
#include "engine/request.h"
#include "kernels/types.h"

namespace ringserve {
namespace {

static_assert(std::endian::native == std::endian::little, "snapshots are little-endian");

constexpr uint32_t kVersion = 1;
constexpr uint32_t kLocalVersion = 2;
constexpr size_t kSumBytes = sizeof(uint64_t);
static_assert(kSumBytes == kBlockChecksumBytes);
constexpr int32_t kNoToken = -1;
constexpr uint32_t kMaxIdBytes = 128;
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// The head as it is written; the layout has no padding.
struct Head {
  std::array<char, 8> magic = {'R', 'I', 'N', 'G', 'S', 'N', 'A', 'P'};
  uint32_t version = kVersion;
  uint32_t version_inverse = ~kVersion;  // tells another version from a changed bit
  uint64_t model = 0;
  std::array<char, 64> backend = {};  // ends with a zero
  int32_t block_size = 0;
  int32_t num_layers = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t dtype = 0;
  int32_t sink_size = 0;
  int32_t slides = 0;
  int32_t pending_token = kNoToken;
  int64_t window = 0;
  int64_t buffer_size = 0;
  int64_t position = 0;
  int64_t rollback_floor = 0;
  int64_t first_block = 0;
  int32_t has_sinks = 0;
  int32_t is_foreign = 0;
  uint32_t id_bytes = 0;
  uint32_t owner_bytes = 0;
  int64_t idle_timeout_ms = 0;  // kNever: none
  int64_t created_ms = 0;       // since 1970
  int64_t last_used_ms = 0;
  int64_t turns = 0;
  int64_t interrupted_turns = 0;
  int64_t rollbacks = 0;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t reprefilled_tokens = 0;
  int64_t evicted_tokens = 0;
  int64_t device_byte_seconds = 0;
  int64_t host_byte_seconds = 0;
  uint64_t sum = 0;  // of all before
};

static_assert(sizeof(Head) == 288 && std::has_unique_object_representations_v<Head>);

// How a local ring stands, as it is written before the text.
struct LocalHead {
  int64_t num_layers = 0;
  int64_t window = 0;
  int64_t first_block = 0;
  int64_t rollback_floor = 0;
};

static_assert(sizeof(LocalHead) == 32);

size_t LocalBytes(const SnapshotKey& key) {
  return key.has_local() ? sizeof(LocalHead) : 0;
}

std::span<const std::byte> BytesOf(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

uint64_t SumOf(const Head& head) {
  return Checksum(std::as_bytes(std::span(&head, 1)).first(offsetof(Head, sum)));
}

void AppendSum(uint64_t sum, std::string& to) {
  to.append(std::string_view(reinterpret_cast<const char*>(&sum), sizeof(sum)));
}

// The last bytes of `part` are the sum of the others.
bool HasSum(std::string_view part, uint64_t seed) {
  const std::string_view bytes = part.substr(0, part.size() - kSumBytes);
  uint64_t sum = 0;
  std::memcpy(&sum, part.data() + bytes.size(), kSumBytes);
  return sum == Checksum(BytesOf(bytes), seed);
}

absl::Status Damaged(std::string_view what) {
  return absl::DataLossError(fmt::format("the snapshot is damaged: {}", what));
}

int64_t ToMs(absl::Time time) {
  return absl::ToUnixMillis(time);
}

Head MakeHead(const SnapshotKey& key, const Snapshot& snapshot) {
  Head head;
  head.version = key.has_local() ? kLocalVersion : kVersion;
  head.version_inverse = ~head.version;
  head.model = key.model;
  RS_CHECK(key.backend.size() < head.backend.size());
  std::copy(key.backend.begin(), key.backend.end(), head.backend.begin());
  head.block_size = key.kv.block_size;
  head.num_layers = key.kv.num_layers;
  head.num_kv_heads = key.kv.num_kv_heads;
  head.head_dim = key.kv.head_dim;
  head.dtype = static_cast<int32_t>(key.kv.dtype);
  head.sink_size = key.sink_size;
  head.slides = key.slides ? 1 : 0;
  head.window = key.window;
  head.pending_token = snapshot.pending_token.value_or(kNoToken);
  const SessionImage& image = snapshot.image;
  head.buffer_size = image.buffer_size;
  head.position = image.position;
  head.rollback_floor = image.rollback_floor;
  head.first_block = image.first_block;
  head.has_sinks = image.has_sinks ? 1 : 0;
  head.is_foreign = snapshot.is_foreign ? 1 : 0;
  head.id_bytes = static_cast<uint32_t>(snapshot.id.size());
  head.owner_bytes = static_cast<uint32_t>(snapshot.owner.size());
  head.idle_timeout_ms = snapshot.idle_timeout == absl::InfiniteDuration()
                             ? kNever
                             : absl::ToInt64Milliseconds(snapshot.idle_timeout);
  head.created_ms = ToMs(snapshot.created);
  head.last_used_ms = ToMs(snapshot.last_used);
  const SessionCounters& counters = snapshot.counters;
  head.turns = counters.turns;
  head.interrupted_turns = counters.interrupted_turns;
  head.rollbacks = counters.rollbacks;
  head.prompt_tokens = counters.prompt_tokens;
  head.completion_tokens = counters.completion_tokens;
  head.cached_tokens = counters.cached_tokens;
  head.reprefilled_tokens = counters.reprefilled_tokens;
  head.evicted_tokens = counters.evicted_tokens;
  head.device_byte_seconds = static_cast<int64_t>(counters.held.device_byte_seconds);
  head.host_byte_seconds = static_cast<int64_t>(counters.held.host_byte_seconds);
  head.sum = SumOf(head);
  return head;
}

absl::Status CheckVersion(const Head& head, const SnapshotKey& key) {
  if (head.magic != Head().magic) {
    return Damaged("it does not begin as one");
  }
  if (head.version_inverse != ~head.version) {
    return Damaged("its version");
  }
  const uint32_t version = key.has_local() ? kLocalVersion : kVersion;
  if (head.version != version) {
    return absl::FailedPreconditionError(fmt::format(
        "the snapshot is of version {}, this server reads version {}", head.version, version));
  }
  return head.sum == SumOf(head) ? absl::OkStatus() : Damaged("its head");
}

absl::Status CheckKey(const Head& head, const SnapshotKey& key) {
  const Head here = MakeHead(key, {});
  if (head.model != here.model) {
    return absl::FailedPreconditionError(fmt::format(
        "the snapshot is of another model ({:016x}, this one is {:016x})", head.model, here.model));
  }
  if (head.backend != here.backend) {
    return absl::FailedPreconditionError(fmt::format(
        "the snapshot was made on \"{}\", this is \"{}\": its keys and values have other bits",
        std::string(head.backend.data(), strnlen(head.backend.data(), head.backend.size())),
        key.backend));
  }
  const bool same_blocks = head.block_size == here.block_size &&
                           head.num_layers == here.num_layers &&
                           head.num_kv_heads == here.num_kv_heads &&
                           head.head_dim == here.head_dim && head.dtype == here.dtype;
  if (!same_blocks) {
    return absl::FailedPreconditionError(fmt::format(
        "the snapshot's blocks are of another layout: rings.block_size {} or another model.dtype",
        head.block_size));
  }
  if (head.sink_size != here.sink_size || head.slides != here.slides ||
      head.window != here.window) {
    return absl::FailedPreconditionError(
        "the snapshot was made under another rings.overflow or rings.sink_size");
  }
  return absl::OkStatus();
}

absl::Time TimeOf(int64_t ms) {
  return absl::FromUnixMillis(ms);
}

void ReadFields(const Head& head, Snapshot& snapshot) {
  if (head.pending_token != kNoToken) {
    snapshot.pending_token = head.pending_token;
  }
  SessionImage& image = snapshot.image;
  image.buffer_size = head.buffer_size;
  image.position = head.position;
  image.rollback_floor = head.rollback_floor;
  image.first_block = head.first_block;
  image.has_sinks = head.has_sinks != 0;
  snapshot.is_foreign = head.is_foreign != 0;
  snapshot.idle_timeout = head.idle_timeout_ms == kNever ? absl::InfiniteDuration()
                                                         : absl::Milliseconds(head.idle_timeout_ms);
  snapshot.created = TimeOf(head.created_ms);
  snapshot.last_used = TimeOf(head.last_used_ms);
  snapshot.counters = {
      .turns = head.turns,
      .interrupted_turns = head.interrupted_turns,
      .rollbacks = head.rollbacks,
      .prompt_tokens = head.prompt_tokens,
      .completion_tokens = head.completion_tokens,
      .cached_tokens = head.cached_tokens,
      .reprefilled_tokens = head.reprefilled_tokens,
      .evicted_tokens = head.evicted_tokens,
      .held = {.device_byte_seconds = static_cast<double>(head.device_byte_seconds),
               .host_byte_seconds = static_cast<double>(head.host_byte_seconds)}};
}

bool IsToken(int32_t token_id, int32_t vocab_size) {
  return token_id >= 0 && token_id < vocab_size;
}

}  // namespace

std::string SnapshotBeginning(const SnapshotKey& key, const Snapshot& snapshot) {
  const Head head = MakeHead(key, snapshot);
  std::string out(reinterpret_cast<const char*>(&head), sizeof(head));
  if (key.has_local()) {
    const LocalHead local = {.num_layers = key.local_kv.num_layers,
                             .window = key.local_window,
                             .first_block = snapshot.image.local_first_block,
                             .rollback_floor = snapshot.image.local_floor};
    out.append(reinterpret_cast<const char*>(&local), sizeof(local));
  }
  const std::vector<int32_t>& token_ids = snapshot.image.token_ids;
  out.append(reinterpret_cast<const char*>(token_ids.data()), token_ids.size() * sizeof(int32_t));
  out.append(snapshot.id);
  out.append(snapshot.owner);
  // The head's sum is its seed: parts of two snapshots are no third.
  AppendSum(Checksum(BytesOf(std::string_view(out).substr(sizeof(head))), head.sum), out);
  return out;
}

std::string BlockChecksum(std::span<const std::byte> block, int64_t index) {
  std::string out;
  AppendSum(Checksum(block, static_cast<uint64_t>(index)), out);
  return out;
}

absl::Status CheckBlock(std::span<const std::byte> block_and_checksum, int64_t index) {
  const std::string_view part(reinterpret_cast<const char*>(block_and_checksum.data()),
                              block_and_checksum.size());
  return HasSum(part, static_cast<uint64_t>(index)) ? absl::OkStatus()
                                                    : Damaged(fmt::format("block {}", index));
}

int64_t BlocksBytes(const SnapshotKey& key, const BlockCounts& num_blocks) {
  int64_t bytes = 0;
  for (const BlockGroup group : kBlockGroups) {
    bytes +=
        num_blocks.of(group) * (key.layout(group).block_bytes() + static_cast<int64_t>(kSumBytes));
  }
  return bytes;
}

int64_t SnapshotBytes(const SnapshotKey& key, const Snapshot& snapshot) {
  const size_t text = LocalBytes(key) + snapshot.image.token_ids.size() * sizeof(int32_t) +
                      snapshot.id.size() + snapshot.owner.size() + kSumBytes;
  return static_cast<int64_t>(sizeof(Head) + text) +
         BlocksBytes(key, NumBlocks(snapshot.image, key.kv.block_size));
}

SnapshotReader::SnapshotReader(const SnapshotKey& key, ShapeOf shape_of)
    : key_(key), shape_of_(std::move(shape_of)) {}

size_t SnapshotReader::BytesOfPart() const {
  switch (part_) {
    case Part::kHead:
      return sizeof(Head);
    case Part::kText:
      return LocalBytes(key_) + snapshot_.image.token_ids.size() * sizeof(int32_t) + id_bytes_ +
             owner_bytes_ + kSumBytes;
    case Part::kBlocks: {
      const BlockGroup group =
          num_read_ < num_blocks_.global ? BlockGroup::kGlobal : BlockGroup::kLocal;
      return static_cast<size_t>(key_.layout(group).block_bytes()) + kSumBytes;
    }
  }
  RS_CHECK(false);
}

absl::Status SnapshotReader::Add(std::string_view piece) {
  while (status_.ok() && !piece.empty()) {
    if (part_ == Part::kBlocks && num_read_ == num_blocks()) {
      status_ = Damaged("it goes on after its end");
      break;
    }
    const size_t wanted = BytesOfPart() - rest_.size();
    rest_.append(piece.substr(0, wanted));
    piece.remove_prefix(std::min(wanted, piece.size()));
    if (rest_.size() < BytesOfPart()) {
      break;
    }
    status_ = part_ == Part::kHead ? ReadHead() : part_ == Part::kText ? ReadText() : ReadBlock();
    rest_.clear();
  }
  return status_;
}

absl::Status SnapshotReader::ReadHead() {
  Head head;
  std::memcpy(&head, rest_.data(), sizeof(head));
  RETURN_IF_ERROR(CheckVersion(head, key_));
  RETURN_IF_ERROR(CheckKey(head, key_));
  ReadFields(head, snapshot_);
  absl::StatusOr<SessionShape> shape = shape_of_(head.buffer_size);
  if (!shape.ok()) {
    return absl::FailedPreconditionError(
        fmt::format("the snapshot's session does not fit this server: {}",
                    std::string(shape.status().message())));
  }
  SessionImage& image = snapshot_.image;
  // Sized before it is read, and only if the size is one that the rings can have.
  const bool is_text = image.position >= 0 && image.position <= kMaxImagePosition &&
                       image.first_block >= 0 &&
                       image.first_block <= image.position / shape->block_size;
  const int64_t num_tokens = is_text ? image.position - image.first_block * shape->block_size : -1;
  const int64_t most = RoundUp<int64_t>(shape->buffer_size, shape->block_size);
  const bool is_sized = num_tokens >= 0 && num_tokens <= most && head.id_bytes <= kMaxIdBytes &&
                        head.owner_bytes <= kMaxOwnerLength;
  if (!is_sized) {
    return absl::FailedPreconditionError("the snapshot's session does not fit this server's rings");
  }
  image.token_ids.resize(static_cast<size_t>(num_tokens));
  const absl::Status stands = CheckSessionImage(image, *shape);
  if (!stands.ok()) {
    return absl::FailedPreconditionError(
        fmt::format("the snapshot's session does not fit this server's rings: {}",
                    std::string(stands.message())));
  }
  if (snapshot_.pending_token.has_value() && !IsToken(*snapshot_.pending_token, key_.vocab_size)) {
    return Damaged("a token id");
  }
  if (snapshot_.idle_timeout < absl::ZeroDuration()) {
    return Damaged("its idle timeout");
  }
  id_bytes_ = head.id_bytes;
  owner_bytes_ = head.owner_bytes;
  text_seed_ = head.sum;
  shape_ = *shape;
  part_ = Part::kText;
  return absl::OkStatus();
}

absl::Status SnapshotReader::ReadText() {
  if (!HasSum(rest_, text_seed_)) {
    return Damaged("its text");
  }
  RETURN_IF_ERROR(ReadLocal());
  rest_.erase(0, LocalBytes(key_));
  std::vector<int32_t>& token_ids = snapshot_.image.token_ids;
  const size_t token_bytes = token_ids.size() * sizeof(int32_t);
  rest_.copy(reinterpret_cast<char*>(token_ids.data()), token_bytes);
  snapshot_.id = rest_.substr(token_bytes, id_bytes_);
  snapshot_.owner = rest_.substr(token_bytes + id_bytes_, owner_bytes_);
  const bool are_tokens = std::all_of(token_ids.begin(), token_ids.end(), [&](int32_t token_id) {
    return IsToken(token_id, key_.vocab_size);
  });
  if (!are_tokens) {
    return Damaged("a token id");
  }
  part_ = Part::kBlocks;
  num_blocks_ = NumBlocks(snapshot_.image, shape_->block_size);
  is_known_ = true;
  return absl::OkStatus();
}

absl::Status SnapshotReader::ReadLocal() {
  if (!key_.has_local()) {
    return absl::OkStatus();
  }
  LocalHead local;
  std::memcpy(&local, rest_.data(), sizeof(local));
  if (local.num_layers != key_.local_kv.num_layers || local.window != key_.local_window) {
    return absl::FailedPreconditionError(
        "the snapshot's local layers or their window are another model's");
  }
  SessionImage& image = snapshot_.image;
  image.has_local = true;
  image.local_first_block = local.first_block;
  image.local_floor = local.rollback_floor;
  const absl::Status stands = CheckLocalImage(image, *shape_);
  return stands.ok() ? stands
                     : absl::FailedPreconditionError(fmt::format(
                           "the snapshot's session does not fit this server's rings: {}",
                           std::string(stands.message())));
}

absl::Status SnapshotReader::ReadBlock() {
  RETURN_IF_ERROR(CheckBlock(std::as_bytes(std::span(rest_)), num_read_));
  blocks_.append(rest_, 0, rest_.size() - kSumBytes);
  ++num_read_;
  return absl::OkStatus();
}

std::optional<Snapshot> SnapshotReader::TakeSnapshot() {
  if (!is_known_ || std::exchange(is_taken_, true)) {
    return std::nullopt;
  }
  return std::move(snapshot_);
}

std::string SnapshotReader::TakeBlocks(int64_t& first_index) {
  first_index = std::exchange(num_blocks_taken_, num_read_);
  return std::exchange(blocks_, {});
}

absl::Status SnapshotReader::Finish() const {
  RETURN_IF_ERROR(status_);
  return part_ == Part::kBlocks && num_read_ == num_blocks()
             ? absl::OkStatus()
             : Damaged(fmt::format("it ends after {} of its blocks", num_read_));
}

}  // namespace ringserve
