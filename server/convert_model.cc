// The part of convert.h that tells of models: their shapes, load and memory.
#include "engine/engine_config.h"
#include "engine/memory_plan.h"
#include "server/convert.h"

namespace ringserve {
namespace {

v1::GenerationDefaults ToProto(const GenerationDefaults& defaults) {
  const SamplingParams neutral;
  v1::GenerationDefaults out;
  out.set_temperature(defaults.temperature.value_or(neutral.temperature));
  out.set_top_k(defaults.top_k.value_or(neutral.top_k));
  out.set_top_p(defaults.top_p.value_or(neutral.top_p));
  out.set_min_p(defaults.min_p.value_or(neutral.min_p));
  out.set_repetition_penalty(defaults.repetition_penalty.value_or(neutral.repetition_penalty));
  out.set_max_tokens(defaults.max_tokens.value_or(kDefaultMaxTokens));
  return out;
}

}  // namespace

v1::Model ToProto(const ServedModel& model, ModelSet::State state) {
  v1::Model out;
  const ModelConfig& shape = model.shape;
  const EngineConfig::Rings& rings = model.config.rings;
  out.set_name(model.name());
  out.set_state(state == ModelSet::State::kDraining ? v1::MODEL_STATE_DRAINING
                                                    : v1::MODEL_STATE_READY);
  out.set_architecture(shape.architecture);
  out.set_vocab_size(shape.vocab_size);
  out.set_num_layers(shape.num_layers);
  out.set_hidden_dim(shape.hidden_dim);
  out.set_ffn_dim(shape.ffn_dim);
  out.set_num_heads(shape.num_heads);
  out.set_num_kv_heads(shape.num_kv_heads);
  out.set_head_dim(shape.head_dim);
  out.set_max_positions(shape.max_positions);
  out.mutable_bos_token_ids()->Assign(shape.bos_token_ids.begin(), shape.bos_token_ids.end());
  out.mutable_eos_token_ids()->Assign(shape.eos_token_ids.begin(), shape.eos_token_ids.end());
  out.set_buffer_size(rings.buffer_size);
  out.set_block_size(rings.block_size);
  out.set_sink_size(rings.sink_size);
  out.set_overflow(rings.overflow == OverflowPolicy::kSlide ? v1::OVERFLOW_SLIDE
                                                            : v1::OVERFLOW_REFUSE);
  out.set_max_prompt_tokens(model.engine->limits().max_prompt_tokens);
  out.set_device(model.device);
  *out.mutable_defaults() = ToProto(model.defaults);
  out.set_has_tokenizer(model.has_tokenizer());
  out.set_has_chat_template(model.chat_template.has_value());
  out.set_config_json(EngineConfigJson(model.config));
  return out;
}

v1::ModelLoad ToProto(const EngineLoad& load, std::string_view model) {
  v1::ModelLoad out;
  out.set_model(std::string(model));
  out.set_running(load.running);
  out.set_queued(load.queued);
  out.set_sessions(load.sessions);
  out.set_host_blocks(load.host_blocks);
  out.set_host_blocks_free(load.host_blocks_free);
  out.set_spilled_blocks(load.spilled_blocks);
  out.set_restored_blocks(load.restored_blocks);
  out.set_waiting_calls(load.waiting_calls);
  out.set_disk_sessions(load.disk.num_sessions);
  out.set_disk_bytes(load.disk.bytes);
  out.set_disk_spills(load.disk.num_spilled);
  out.set_disk_restores(load.disk.num_restored);
  out.set_disk_losses(load.disk.num_lost);
  out.set_disk_full(load.disk.is_full);
  out.set_max_batch(load.max_batch);
  out.set_max_queue(load.max_queue);
  out.set_device_blocks(load.device_blocks);
  out.set_device_blocks_free(load.device_blocks_free);
  out.set_steps(load.steps);
  out.set_prompt_tokens(load.prompt_tokens);
  out.set_completion_tokens(load.completion_tokens);
  out.set_reprefilled_tokens(load.reprefilled_tokens);
  out.set_evicted_tokens(load.evicted_tokens);
  out.set_drafted_tokens(load.drafted_tokens);
  out.set_accepted_tokens(load.accepted_tokens);
  out.set_tiles_dense(load.tiles_dense);
  out.set_tiles_triangle(load.tiles_triangle);
  out.set_tiles_skipped(load.tiles_skipped);
  out.set_block_loads(load.block_loads);
  *out.mutable_step_time() = ToProto(load.step_time);
  *out.mutable_kernel_time() = ToProto(load.kernel_time);
  return out;
}

v1::GetUsageResponse ToProto(const CallerUsage& usage) {
  v1::GetUsageResponse out;
  out.set_finished_requests(usage.finished_requests);
  out.set_failed_requests(usage.failed_requests);
  out.set_prompt_tokens(usage.usage.prompt_tokens);
  out.set_cached_tokens(usage.usage.cached_tokens);
  out.set_reprefilled_tokens(usage.usage.reprefilled_tokens);
  out.set_evicted_tokens(usage.usage.evicted_tokens);
  out.set_completion_tokens(usage.usage.completion_tokens);
  out.set_drafted_tokens(usage.usage.drafted_tokens);
  out.set_accepted_tokens(usage.usage.accepted_tokens);
  out.set_rollbacks(usage.rollbacks);
  out.set_device_byte_seconds(usage.held.device_byte_seconds);
  out.set_host_byte_seconds(usage.held.host_byte_seconds);
  return out;
}

v1::GetMemoryPlanResponse MemoryPlanToProto(const ServedModel& model) {
  const MemoryPlan& plan = model.plan;
  v1::GetMemoryPlanResponse out;
  out.set_model(model.name());
  out.set_weight_bytes(plan.weight_bytes);
  out.set_workspace_bytes(plan.workspace_bytes);
  out.set_block_bytes(plan.kv.block_bytes());
  out.set_device_blocks(plan.device_blocks);
  out.set_pinned_blocks(plan.pinned_blocks);
  out.set_device_kv_bytes(plan.device_kv_bytes());
  out.set_pinned_kv_bytes(plan.pinned_kv_bytes());
  out.set_device_bytes(plan.device_bytes());
  out.set_blocks_per_session(plan.blocks_per_session);
  out.set_max_sessions(plan.max_sessions);
  out.set_table(FormatMemoryPlan(plan));
  out.set_local_block_bytes(plan.local_kv.block_bytes());
  out.set_local_device_blocks(plan.local_blocks.num_device);
  out.set_local_pinned_blocks(plan.local_blocks.num_host);
  out.set_local_blocks_per_session(plan.local_blocks_per_session);
  return out;
}

}  // namespace ringserve
