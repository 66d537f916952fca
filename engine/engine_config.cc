#include "engine/engine_config.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <filesystem>
#include <limits>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/plan/speculation.h"

namespace ringserve {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;
constexpr int64_t kMaxTokens = int64_t{1} << 30;
constexpr int64_t kMaxBytes = int64_t{1} << 50;
constexpr int32_t kMaxThreads = 1024;
constexpr size_t kMaxNameLength = 128;
constexpr size_t kMaxPathLength = 4096;

// Values of an enum and how the file spells them, in the order of the enum.
constexpr std::string_view kOverflowNames[] = {"refuse", "slide"};
constexpr std::string_view kTileOrderNames[] = {"auto", "q_major", "k_major"};
constexpr std::string_view kDeviceNames[] = {"auto", "cpu", "cuda"};
constexpr std::string_view kSpeculationNames[] = {"off", "lookup", "draft"};
constexpr std::string_view kDTypeNames[] = {"auto", "bf16", "f16", "f32"};

template <typename Enum, size_t kCount>
void ReadEnum(JsonReader& reader,
              std::string_view key,
              const std::string_view (&names)[kCount],
              Enum& to,
              Problems& problems) {
  std::string name;
  if (problems.Take(reader.Enum(key, {std::begin(names), std::end(names)}), name)) {
    to = static_cast<Enum>(std::find(std::begin(names), std::end(names), name) - std::begin(names));
  }
}

template <typename Enum, size_t kCount>
std::string NameOf(Enum value, const std::string_view (&names)[kCount]) {
  return std::string(names[static_cast<size_t>(value)]);
}

bool IsNameLetter(char letter) {
  const auto byte = static_cast<unsigned char>(letter);
  return byte < 128 && (std::isalnum(byte) != 0 ||
                        std::string_view("._/-").find(letter) != std::string_view::npos);
}

bool IsPath(const std::string& path) {
  return !path.empty() && path.size() <= kMaxPathLength && path.find('\0') == std::string::npos;
}

// The keys of one object, all of them required. A missing object counts as one problem.
void ReadSection(JsonReader& root,
                 std::string_view key,
                 EngineConfig& config,
                 Problems& problems,
                 void (*read)(JsonReader&, EngineConfig&, Problems&)) {
  auto section = root.Object(key);
  if (!section.ok()) {
    problems.Add(section.status());
    return;
  }
  read(*section, config, problems);
  for (const std::string& unknown : section->UnknownKeys()) {
    problems.Add(section->Error(unknown, "unknown key"));
  }
}

void ReadModel(JsonReader& reader, EngineConfig& config, Problems& problems) {
  EngineConfig::Model& model = config.model;
  if (problems.Take(reader.String("name"), model.name)) {
    const bool sound = !model.name.empty() && model.name.size() <= kMaxNameLength &&
                       std::all_of(model.name.begin(), model.name.end(), IsNameLetter);
    if (!sound) {
      problems.Add(
          reader.Error("name", fmt::format("not 1 to {} of A-Z a-z 0-9 . _ / -", kMaxNameLength)));
    }
  }
  if (problems.Take(reader.String("path"), model.path)) {
    if (!IsPath(model.path)) {
      problems.Add(reader.Error("path", fmt::format("not 1 to {} bytes", kMaxPathLength)));
      model.path.clear();
    }
  }
  ReadEnum(reader, "dtype", kDTypeNames, model.dtype, problems);
}

// A power of two in [8, most].
bool ReadTileLike(JsonReader& reader, std::string_view key, int32_t& to, Problems& problems) {
  if (!problems.Take(reader.Int32(key, {8, 256}), to)) {
    return false;
  }
  if (!std::has_single_bit(static_cast<uint32_t>(to))) {
    problems.Add(reader.Error(key, fmt::format("{} is not a power of two", to)));
    to = 0;
    return false;
  }
  return true;
}

void ReadRings(JsonReader& reader, EngineConfig& config, Problems& problems) {
  EngineConfig::Rings& rings = config.rings;
  const bool has_block = ReadTileLike(reader, "block_size", rings.block_size, problems);
  const bool has_buffer =
      problems.Take(reader.Int64("buffer_size", {16, kMaxTokens}), rings.buffer_size);
  if (has_block && has_buffer) {
    if (rings.buffer_size % rings.block_size != 0) {
      problems.Add(reader.Error(
          "buffer_size",
          fmt::format(
              "{} is not a multiple of block_size {}", rings.buffer_size, rings.block_size)));
    } else if (rings.buffer_size < 2 * int64_t{rings.block_size}) {
      problems.Add(reader.Error(
          "buffer_size",
          fmt::format("{} is less than two blocks of {}", rings.buffer_size, rings.block_size)));
    }
  }
  ReadEnum(reader, "overflow", kOverflowNames, rings.overflow, problems);
  if (problems.Take(reader.Int32("sink_size", {0, has_block ? rings.block_size : 256}),
                    rings.sink_size) &&
      rings.sink_size > 0 && rings.overflow != OverflowPolicy::kSlide) {
    problems.Add(reader.Error(
        "sink_size",
        fmt::format("{} needs overflow \"slide\"; a context that never slides keeps its first "
                    "tokens anyway",
                    rings.sink_size)));
  }
  if (problems.Take(reader.Int64("backward_size", {0, kMaxTokens}), rings.backward_size) &&
      rings.backward_size != 0) {
    problems.Add(reader.Error(
        "backward_size",
        fmt::format("{} must be 0: this version has no backward ring yet", rings.backward_size)));
  }
}

void ReadAttention(JsonReader& reader, EngineConfig& config, Problems& problems) {
  EngineConfig::Attention& attention = config.attention;
  // Both powers of two: not more is to divide.
  if (ReadTileLike(reader, "tile_size", attention.tile_size, problems) &&
      config.rings.block_size > 0 && attention.tile_size > config.rings.block_size) {
    problems.Add(reader.Error("tile_size",
                              fmt::format("{} does not divide rings.block_size {}",
                                          attention.tile_size,
                                          config.rings.block_size)));
  }
  problems.Take(reader.Int32("head_tile_size", {0, 1024}), attention.head_tile_size);
  ReadEnum(reader, "tile_order", kTileOrderNames, attention.tile_order, problems);
}

void ReadScheduler(JsonReader& reader, EngineConfig& config, Problems& problems) {
  EngineConfig::Scheduler& scheduler = config.scheduler;
  problems.Take(reader.Int32("prefill_size", {1, 65536}), scheduler.prefill_size);
  problems.Take(reader.Int32("max_batch", {1, 4096}), scheduler.max_batch);
  problems.Take(reader.Int32("max_queue", {1, 1 << 20}), scheduler.max_queue);
  problems.Take(reader.Int32("max_token_gap_ms", {0, 3'600'000}), scheduler.max_token_gap_ms);
}

void ReadMemory(JsonReader& reader, EngineConfig& config, Problems& problems) {
  EngineConfig::Memory& memory = config.memory;
  problems.Take(reader.Int64("device_bytes", {0, kMaxBytes}), memory.device_bytes);
  problems.Take(reader.Int64("pinned_bytes", {0, kMaxBytes}), memory.pinned_bytes);
  if (!problems.Take(reader.String("disk_path"), memory.disk_path) ||
      !problems.Take(reader.Int64("disk_bytes", {0, kMaxBytes}), memory.disk_bytes)) {
    return;
  }
  if (memory.disk_path.size() > kMaxPathLength ||
      memory.disk_path.find('\0') != std::string::npos) {
    problems.Add(reader.Error("disk_path", fmt::format("not 0 to {} bytes", kMaxPathLength)));
  } else if (memory.disk_path.empty() != (memory.disk_bytes == 0)) {
    problems.Add(reader.Error(
        "disk_bytes",
        fmt::format("{} beside disk_path \"{}\"; give both, or \"\" and 0 for no disk tier",
                    memory.disk_bytes,
                    memory.disk_path)));
  }
}

void ReadPrefixGroups(const JsonReader& reader,
                      const nlohmann::json& json,
                      std::vector<std::vector<std::string>>& groups,
                      Problems& problems) {
  const auto complain = [&] {
    problems.Add(
        reader.Error("prefix_groups", "not a list of lists of names, each in one place only"));
  };
  if (!json.is_array()) {
    complain();
    return;
  }
  std::set<std::string> names;
  for (const nlohmann::json& members : json) {
    if (!members.is_array()) {
      complain();
      return;
    }
    groups.emplace_back();
    for (const nlohmann::json& member : members) {
      if (!member.is_string() || !names.insert(member.get<std::string>()).second) {
        complain();
        return;
      }
      groups.back().push_back(member.get<std::string>());
    }
  }
}

void ReadSessions(JsonReader& reader, EngineConfig& config, Problems& problems) {
  EngineConfig::Sessions& sessions = config.sessions;
  problems.Take(reader.Int64("max_sessions", {0, 1 << 24}), sessions.max_sessions);
  problems.Take(reader.Int64("idle_timeout_s", {0, 31'536'000}), sessions.idle_timeout_s);
  problems.Take(reader.Bool("share_prefixes"), sessions.share_prefixes);
  const nlohmann::json* groups = nullptr;
  if (problems.Take(reader.Any("prefix_groups"), groups)) {
    ReadPrefixGroups(reader, *groups, sessions.prefix_groups, problems);
  }
}

void ReadSpeculation(JsonReader& reader, EngineConfig& config, Problems& problems) {
  EngineConfig::Speculation& speculation = config.speculation;
  ReadEnum(reader, "method", kSpeculationNames, speculation.method, problems);
  problems.Take(reader.Int32("max_draft", {1, 64}), speculation.max_draft);
  problems.Take(reader.Int32("min_match", {1, kMaxMatch}), speculation.min_match);
  if (problems.Take(reader.String("draft_path"), speculation.draft_path)) {
    const bool is_needed = speculation.method == SpeculationMethod::kDraft;
    if (is_needed ? !IsPath(speculation.draft_path) : !speculation.draft_path.empty()) {
      problems.Add(reader.Error("draft_path",
                                is_needed ? fmt::format("not 1 to {} bytes", kMaxPathLength)
                                          : "is for method \"draft\" alone; say \"\""));
      speculation.draft_path.clear();
    }
  }
}

void ReadGeneration(JsonReader& reader, EngineConfig& config, Problems& problems) {
  config.generation = ReadGenerationDefaults(reader, problems);
}

EngineConfig ReadText(std::string_view text, const std::string& base_dir, Problems& problems) {
  EngineConfig config;
  nlohmann::json json;
  if (!problems.Take(ParseJson(text, "not strict JSON"), json)) {
    return config;
  }
  auto root = JsonReader::Create(json, "");
  if (!root.ok()) {
    problems.Add(root.status());
    return config;
  }
  ReadSection(*root, "model", config, problems, ReadModel);
  ReadSection(*root, "rings", config, problems, ReadRings);
  ReadSection(*root, "attention", config, problems, ReadAttention);
  ReadSection(*root, "scheduler", config, problems, ReadScheduler);
  ReadSection(*root, "memory", config, problems, ReadMemory);
  ReadSection(*root, "sessions", config, problems, ReadSessions);
  ReadSection(*root, "speculation", config, problems, ReadSpeculation);
  if (root->Has("generation")) {
    ReadSection(*root, "generation", config, problems, ReadGeneration);
  } else {
    root->Ignore("generation");
  }
  ReadEnum(*root, "device", kDeviceNames, config.device, problems);
  problems.Take(root->Int32("num_threads", {0, kMaxThreads}), config.num_threads);
  for (const std::string& unknown : root->UnknownKeys()) {
    problems.Add(root->Error(unknown, "unknown key"));
  }
  for (std::string* const path :
       {&config.model.path, &config.memory.disk_path, &config.speculation.draft_path}) {
    if (!path->empty()) {
      // An absolute path stays itself.
      *path = (std::filesystem::path(base_dir) / *path).lexically_normal();
    }
  }
  return config;
}

}  // namespace

absl::StatusOr<EngineConfig> ParseEngineConfig(std::string_view json, const std::string& base_dir) {
  Problems problems;
  EngineConfig config = ReadText(json, base_dir, problems);
  RETURN_IF_ERROR(problems.ToStatus());
  return config;
}

EngineConfig ReadEngineConfig(const std::string& path, Problems& problems) {
  std::string text;
  if (!problems.Take(ReadFile(path, kMaxConfigBytes), text)) {
    return {};
  }
  Problems inside;
  EngineConfig config = ReadText(text, std::filesystem::path(path).parent_path().string(), inside);
  problems.Add(path + ": ", inside);
  return config;
}

absl::StatusOr<EngineConfig> LoadEngineConfig(const std::string& path) {
  Problems problems;
  EngineConfig config = ReadEngineConfig(path, problems);
  RETURN_IF_ERROR(problems.ToStatus());
  return config;
}

std::string EngineConfigJson(const EngineConfig& config) {
  nlohmann::ordered_json json = {
      {"model",
       {{"name", config.model.name},
        {"path", config.model.path},
        {"dtype", NameOf(config.model.dtype, kDTypeNames)}}},
      {"rings",
       {{"buffer_size", config.rings.buffer_size},
        {"block_size", config.rings.block_size},
        {"sink_size", config.rings.sink_size},
        {"overflow", NameOf(config.rings.overflow, kOverflowNames)},
        {"backward_size", config.rings.backward_size}}},
      {"attention",
       {{"tile_size", config.attention.tile_size},
        {"head_tile_size", config.attention.head_tile_size},
        {"tile_order", NameOf(config.attention.tile_order, kTileOrderNames)}}},
      {"scheduler",
       {{"prefill_size", config.scheduler.prefill_size},
        {"max_batch", config.scheduler.max_batch},
        {"max_queue", config.scheduler.max_queue},
        {"max_token_gap_ms", config.scheduler.max_token_gap_ms}}},
      {"memory",
       {{"device_bytes", config.memory.device_bytes},
        {"pinned_bytes", config.memory.pinned_bytes},
        {"disk_path", config.memory.disk_path},
        {"disk_bytes", config.memory.disk_bytes}}},
      {"sessions",
       {{"max_sessions", config.sessions.max_sessions},
        {"idle_timeout_s", config.sessions.idle_timeout_s},
        {"share_prefixes", config.sessions.share_prefixes},
        {"prefix_groups", config.sessions.prefix_groups}}},
      {"speculation",
       {{"method", NameOf(config.speculation.method, kSpeculationNames)},
        {"max_draft", config.speculation.max_draft},
        {"min_match", config.speculation.min_match},
        {"draft_path", config.speculation.draft_path}}},
      {"device", NameOf(config.device, kDeviceNames)},
      {"num_threads", config.num_threads}};
  if (!config.generation.states_nothing()) {
    json["generation"] = GenerationDefaultsJson(config.generation);
  }
  // A path need not be UTF-8.
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace ringserve
