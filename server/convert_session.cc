#include <absl/time/time.h>

#include "server/convert.h"

namespace ringserve {
namespace {

google::protobuf::Timestamp TimestampOf(absl::Time time) {
  const absl::Duration since_epoch = time - absl::UnixEpoch();
  google::protobuf::Timestamp out;
  absl::Duration rest;
  out.set_seconds(absl::IDivDuration(since_epoch, absl::Seconds(1), &rest));
  out.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  return out;
}

}  // namespace

v1::Session ToProto(const SessionInfo& info, const std::string& model) {
  v1::Session out;
  out.set_id(info.id);
  out.set_model(model);
  out.set_position(info.position);
  out.set_rollback_floor(info.rollback_floor);
  out.set_buffer_size(info.buffer_size);
  out.set_num_blocks(info.num_blocks);
  out.set_busy(info.is_busy);
  *out.mutable_created() = TimestampOf(info.created);
  *out.mutable_last_used() = TimestampOf(info.last_used);
  if (info.expires != absl::InfiniteFuture()) {
    *out.mutable_expires() = TimestampOf(info.expires);
  }
  v1::SessionUsage& usage = *out.mutable_usage();
  usage.set_turns(info.counters.turns);
  usage.set_interrupted_turns(info.counters.interrupted_turns);
  usage.set_device_byte_seconds(info.counters.held.device_byte_seconds);
  usage.set_host_byte_seconds(info.counters.held.host_byte_seconds);
  usage.set_rollbacks(info.counters.rollbacks);
  usage.set_prompt_tokens(info.counters.prompt_tokens);
  usage.set_completion_tokens(info.counters.completion_tokens);
  usage.set_cached_tokens(info.counters.cached_tokens);
  usage.set_reprefilled_tokens(info.counters.reprefilled_tokens);
  usage.set_evicted_tokens(info.counters.evicted_tokens);
  return out;
}

}  // namespace ringserve
