// One served model, as its JSON file describes it. Every key is required; README.md's config
// reference and configs/*.json show them all.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/status.h"

namespace ringserve {

enum class OverflowPolicy { kRefuse, kSlide };
enum class TileOrderPolicy { kAuto, kQMajor, kKMajor };
enum class DevicePolicy { kAuto, kCpu, kCuda };
enum class DTypePolicy { kAuto, kBf16, kF32 };

struct EngineConfig {
  struct Model {
    std::string name;  // 1 to 128 of [A-Za-z0-9._/-]
    std::string path;  // a Hugging Face folder; relative to the config file's folder
    DTypePolicy dtype =
        DTypePolicy::kAuto;  // of weights and KV; auto: the file's (f16 becomes f32)
  } model;

  struct Rings {
    int64_t buffer_size = 0;  // tokens of context per session, forward and feedback together
    int32_t block_size = 0;   // tokens; power of two in [8, 256]
    int32_t sink_size = 0;    // first tokens kept for ever when the context slides; [0, block_size]
    OverflowPolicy overflow = OverflowPolicy::kRefuse;
    int64_t backward_size = 0;  // tokens of the backward ring; 0: none
  } rings;

  struct Attention {
    int32_t tile_size = 0;       // queries and keys of a tile; power of two, at most block_size
    int32_t head_tile_size = 0;  // query heads of one KV head in a tile; 0: the whole group
    TileOrderPolicy tile_order = TileOrderPolicy::kAuto;
  } attention;

  struct Scheduler {
    int32_t prefill_size = 0;      // most prompt tokens in one step
    int32_t max_batch = 0;         // most sequences in one step
    int32_t max_queue = 0;         // most requests waiting
    int32_t max_token_gap_ms = 0;  // 0: no bound
  } scheduler;

  struct Memory {
    int64_t device_bytes = 0;  // of the device KV pool; 0: max_batch sessions of buffer_size
    int64_t pinned_bytes = 0;  // of the host KV pool
  } memory;

  DevicePolicy device = DevicePolicy::kAuto;
  int32_t num_threads = 0;  // of the CPU backend; 0: one per core
};

// Parses and validates the JSON text. `base_dir` resolves model.path. Errors name the key's path.
absl::StatusOr<EngineConfig> ParseEngineConfig(std::string_view json, const std::string& base_dir);
absl::StatusOr<EngineConfig> LoadEngineConfig(const std::string& path);

// What `--model DIR` uses: sizes from the folder's config.json, everything else as in README.md.
absl::StatusOr<EngineConfig> DefaultEngineConfig(const std::string& model_dir);

// The effective config, with every key, as JSON text.
std::string EngineConfigJson(const EngineConfig& config);

}  // namespace ringserve
