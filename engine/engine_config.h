// One served model, as its JSON file describes it. Every key but `generation` is required;
// README.md's config reference and configs/*.json show them all.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/generation_defaults.h"
#include "engine/base/problems.h"
#include "engine/base/status.h"

namespace ringserve {

enum class OverflowPolicy { kRefuse, kSlide };
enum class TileOrderPolicy { kAuto, kQMajor, kKMajor };
enum class DevicePolicy { kAuto, kCpu, kCuda };
enum class SpeculationMethod { kOff, kLookup, kDraft };
enum class DTypePolicy { kAuto, kBf16, kF16, kF32 };

struct EngineConfig {
  struct Model {
    std::string name;  // 1 to 128 of [A-Za-z0-9._/-]
    std::string path;  // a Hugging Face folder; relative to the config file's folder
    DTypePolicy dtype =
        DTypePolicy::kAuto;  // of weights and KV; auto: the file's (f16 becomes f32 on a CPU)
  } model;

  struct Rings {
    int64_t buffer_size = 0;  // tokens of context per session, forward and feedback together; at
                              // least two blocks, whole ones
    int32_t block_size = 0;   // tokens; power of two in [8, 256]
    int32_t sink_size = 0;    // first tokens kept for ever; [0, block_size]; 0 unless it slides
    OverflowPolicy overflow = OverflowPolicy::kRefuse;
    int64_t backward_size = 0;  // tokens of the backward ring; 0: none, all that this version has
  } rings;

  struct Attention {
    int32_t tile_size = 0;       // queries and keys of a tile; power of two in [8, block_size]
    int32_t head_tile_size = 0;  // query heads of one KV head in a tile; 0: the whole group
    TileOrderPolicy tile_order = TileOrderPolicy::kAuto;
  } attention;

  struct Scheduler {
    int32_t prefill_size = 0;  // most prompt tokens in one step; [1, 65536]
    int32_t max_batch = 0;     // most sequences in one step; [1, 4096]
    int32_t max_queue = 0;     // most requests waiting; [1, 1048576]
    // Between two tokens of a running stream while prompts load: prompts are cut so that steps
    // stay below it, as far as 16 rows do. 0: no bound; [0, 3600000]
    int32_t max_token_gap_ms = 0;
  } scheduler;

  struct Memory {
    int64_t device_bytes = 0;  // of the device KV pool; 0: max_batch sessions of buffer_size
    int64_t pinned_bytes = 0;  // of the host KV pool; 0: none, else two blocks or more
    // Where idle sessions go when memory is short, and all when the server stops; "": nowhere.
    // Relative to the config file's folder.
    std::string disk_path = {};
    int64_t disk_bytes = 0;  // the most that their files may take; above 0 if there is a path
  } memory;

  struct Sessions {
    int64_t max_sessions = 0;     // that exist at once; [0, 16777216]
    int64_t idle_timeout_s = 0;   // of sessions that ask for none; 0: never; [0, 31536000]
    bool share_prefixes = false;  // texts of one scope that begin alike share blocks
    // Owners that form one scope together; each owner else is a scope of its own. No owner is in
    // two groups.
    std::vector<std::vector<std::string>> prefix_groups = {};
  } sessions;

  // Guessing tokens and verifying them in one step: another speed, the same answers.
  struct Speculation {
    // lookup: in the text itself; draft: by a smaller model.
    SpeculationMethod method = SpeculationMethod::kOff;
    int32_t max_draft = 8;  // most tokens guessed for one sequence in one step; [1, 64]
    // Of draft: a Hugging Face folder with the model's own tokenizer; relative as model.path. Else
    // empty.
    std::string draft_path = {};
    int32_t min_match = 3;  // of lookup: tokens that must agree with the text's end; [1, 8]
  } speculation;

  GenerationDefaults generation;  // in the place of the model's own; may be left out

  DevicePolicy device = DevicePolicy::kAuto;
  int32_t num_threads = 0;  // of the CPU backend; 0: one per core
};

// Parses and validates the JSON text. `base_dir` resolves model.path. Errors name the key's path.
absl::StatusOr<EngineConfig> ParseEngineConfig(std::string_view json, const std::string& base_dir);
// Errors name the file too.
absl::StatusOr<EngineConfig> LoadEngineConfig(const std::string& path);

// The same, noting everything that is wrong instead of the first thing. If something was noted,
// only what is not noted means anything.
EngineConfig ReadEngineConfig(const std::string& path, Problems& problems);

// What `--model DIR` uses: as much context as the model was trained for, up to 8192 tokens (2048
// with an encoder), for up to 32 sessions, with a KV pool of at most 4 GiB (more if one session
// needs more). A function of the folder's config.json.
absl::StatusOr<EngineConfig> DefaultEngineConfig(const std::string& model_dir);

// The effective config, with every key (`generation` if it states something), as JSON text.
std::string EngineConfigJson(const EngineConfig& config);

}  // namespace ringserve
