// The config of a bare model folder.
#include <algorithm>
#include <cctype>
#include <filesystem>

#include <fmt/format.h>

#include "engine/engine_config.h"
#include "engine/memory_plan.h"
#include "engine/model/model_config.h"

namespace ringserve {
namespace {

constexpr int32_t kBlockSize = 64;
constexpr int32_t kMinBlockSize = 8;
constexpr int64_t kMaxBufferSize = 8192;
constexpr int64_t kMaxEncoderBufferSize = 2048;  // an encoder's rows are in memory all at once
constexpr int32_t kMaxSessions = 32;             // that run at once
constexpr int64_t kMaxIdleSessions = 1024;
constexpr int64_t kIdleTimeoutS = 3600;
constexpr int64_t kMaxPoolBytes = int64_t{4} << 30;
constexpr size_t kMaxNameLength = 128;

// The folder's own name, with what a model name may not hold as '-'.
std::string NameOfFolder(const std::string& model_dir) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(model_dir, error);
  const std::filesystem::path path = (absolute / "").lexically_normal().parent_path();
  std::string name = path.filename().string().substr(0, kMaxNameLength);
  for (char& letter : name) {
    const auto byte = static_cast<unsigned char>(letter);
    if (byte >= 128 || (std::isalnum(byte) == 0 && letter != '.' && letter != '_')) {
      letter = '-';
    }
  }
  return name.empty() ? "model" : name;
}

}  // namespace

absl::StatusOr<EngineConfig> DefaultEngineConfig(const std::string& model_dir) {
  ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(model_dir));
  EngineConfig config;
  config.model = {.name = NameOfFolder(model_dir), .path = model_dir};
  EngineConfig::Rings& rings = config.rings;
  const int64_t context =
      std::min(model.max_positions, model.has_encoder() ? kMaxEncoderBufferSize : kMaxBufferSize);
  rings.block_size = kBlockSize;
  while (rings.block_size > kMinBlockSize && context < 2 * int64_t{rings.block_size}) {
    rings.block_size /= 2;
  }
  rings.buffer_size = context / rings.block_size * rings.block_size;
  if (rings.buffer_size < 2 * int64_t{rings.block_size}) {
    return absl::InvalidArgumentError(
        fmt::format("{}: max_position_embeddings: {} tokens are less than two blocks of {}",
                    model_dir,
                    model.max_positions,
                    kMinBlockSize));
  }
  config.attention.tile_size = rings.block_size;
  config.scheduler = {.prefill_size = 512, .max_batch = kMaxSessions, .max_queue = 1024};
  config.sessions = {.max_sessions = kMaxIdleSessions,
                     .idle_timeout_s = kIdleTimeoutS,
                     .share_prefixes = false,
                     .prefix_groups = {}};
  const DType dtype = RunDType(config.model.dtype, model, {});
  const BlockCounts blocks = BlocksPerSession(config, model);
  const int64_t session_bytes = blocks.global * MakeKvLayout(rings, model, dtype).block_bytes() +
                                blocks.local * MakeLocalKvLayout(rings, model, dtype).block_bytes();
  config.memory.device_bytes = std::clamp(
      kMaxSessions * session_bytes, session_bytes, std::max(session_bytes, kMaxPoolBytes));
  return config;
}

}  // namespace ringserve
