#include "engine/check_model.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>

#include <fmt/format.h>

#include "engine/backend/make_backend.h"
#include "engine/chat/chat_template.h"
#include "engine/draft_plan.h"
#include "engine/memory_plan.h"
#include "engine/model/safetensors.h"
#include "engine/model/tensor_names.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"

namespace ringserve {
namespace {

void CheckWeights(const std::string& dir,
                  const ModelConfig& model,
                  bool model_is_sound,
                  Problems& problems) {
  const auto checkpoint = Checkpoint::Open(dir);
  if (!checkpoint.ok()) {
    problems.Add(checkpoint.status());
    return;
  }
  if (!model_is_sound) {
    return;  // what its tensors should be is not known
  }
  for (const std::string& problem : WeightProblems(model, **checkpoint)) {
    problems.Add(problem);
  }
}

void CheckTokenizer(const std::string& dir,
                    bool model_is_sound,
                    CheckReport& report,
                    Problems& problems) {
  const std::filesystem::path path = std::filesystem::path(dir) / "tokenizer.json";
  std::error_code error;
  if (!std::filesystem::exists(path, error) &&
      !std::filesystem::exists(std::filesystem::path(dir) / "tokenizer.model", error)) {
    report.notes.push_back(fmt::format(
        "{}: neither tokenizer.json nor tokenizer.model: only token ids go in and out", dir));
    return;
  }
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::Load(dir, &problems);
  const int32_t vocab_size = report.model.vocab_size;
  if (tokenizer != nullptr && model_is_sound && tokenizer->vocab_size() > vocab_size) {
    problems.Add(fmt::format("{}: token id {} is not in the model's vocabulary of {}",
                             path.string(),
                             tokenizer->vocab_size() - 1,
                             vocab_size));
  }
}

void CheckChatTemplate(const std::string& dir, CheckReport& report, Problems& problems) {
  std::optional<ChatTemplate> chat_template;
  if (problems.Take(ChatTemplate::Load(dir), chat_template)) {
    report.has_chat_template = chat_template.has_value();
  }
}

// True if the folder is there to be looked into.
bool CheckFolder(const std::string& dir, std::string_view named_by, Problems& problems) {
  std::error_code error;
  if (std::filesystem::is_directory(dir, error)) {
    return true;
  }
  problems.Add(fmt::format("{}{}: not a folder", named_by, dir));
  return false;
}

// True if config.json is sound.
bool CheckFolderFiles(const std::string& dir, CheckReport& report, Problems& problems) {
  Problems of_model;
  report.model = ReadModelConfig(dir, of_model);
  const bool sound = of_model.empty();
  problems.Add("", of_model);
  CheckWeights(dir, report.model, sound, problems);
  CheckTokenizer(dir, sound, report, problems);
  CheckChatTemplate(dir, report, problems);
  if (sound && report.model.eos_token_ids.empty()) {
    report.notes.push_back(
        fmt::format("{}: no eos_token_id: only max_tokens and stop strings end a text", dir));
  }
  return sound;
}

// What this build and machine can make of a sound config and a sound model.
void CheckPlan(const EngineConfig& config, const ModelConfig& model, Problems& problems) {
  CheckFit(config, model, problems);
  const bool fits = problems.empty();
  std::unique_ptr<Backend> backend;
  if (!problems.Take(MakeBackend(config.device, config.num_threads), backend)) {
    return;
  }
  const DType dtype = RunDType(config.model.dtype, model, backend->info());
  problems.Add(backend->CheckModel(model, dtype));
  MemoryPlan plan;
  if (fits && problems.Take(PlanMemory(config, model, dtype, *backend), plan)) {
    ModelConfig draft;
    if (config.speculation.method == SpeculationMethod::kDraft &&
        problems.Take(LoadDraftConfig(config, model, *backend), draft)) {
      problems.Add(PlanDraft(config, model, draft, *backend, plan));
    }
    problems.Add(backend->CheckMemory(
        {.device_bytes = plan.device_bytes(), .pinned_bytes = plan.pinned_bytes()}));
  }
}

// What holds for requests that do not say.
std::string Defaults(const CheckReport& report) {
  GenerationDefaults defaults = report.model.generation;
  defaults.Replace(report.config.generation);
  const float temperature = defaults.temperature.value_or(1.0F);
  std::string text =
      temperature == 0.0F ? "greedy" : fmt::format("sampled, temperature {}", temperature);
  const auto add = [&text](std::string_view name, const auto& value) {
    if (value.has_value()) {
      text += fmt::format(", {} {}", name, *value);
    }
  };
  add("top_k", defaults.top_k);
  add("top_p", defaults.top_p);
  add("min_p", defaults.min_p);
  add("repetition_penalty", defaults.repetition_penalty);
  add("max_tokens", defaults.max_tokens);
  return text;
}

double Millions(const ModelConfig& model) {
  double elements = 0;
  const auto add = [&](const TensorSpec& spec) {
    elements +=
        static_cast<double>(spec.rows) * static_cast<double>(std::max<int64_t>(spec.cols, 1));
  };
  const ModelTensors tensors = TensorsOfModel(model);
  add(tensors.embedding);
  for (const TensorParts* parts : {&tensors.positions,
                                   &tensors.position_bias,
                                   &tensors.encoder_position_bias,
                                   &tensors.encoder_norm.weight,
                                   &tensors.final_norm.weight}) {
    std::for_each(parts->begin(), parts->end(), add);
  }
  if (!model.tied_embeddings) {
    add(tensors.lm_head);
  }
  for (int32_t layer = 0; layer < model.num_all_layers(); ++layer) {
    const LayerTensors of_layer = TensorsOfLayer(model, layer);
    for (const TensorSpec* spec : of_layer.all()) {
      add(*spec);
    }
  }
  return elements / 1e6;
}

}  // namespace

CheckReport CheckConfigFile(const std::string& path) {
  CheckReport report;
  Problems problems;
  report.config = ReadEngineConfig(path, problems);
  const bool config_is_sound = problems.empty();
  const std::string& dir = report.config.model.path;
  if (!dir.empty() && CheckFolder(dir, path + ": model.path: ", problems) &&
      CheckFolderFiles(dir, report, problems) && config_is_sound) {
    Problems of_plan;
    CheckPlan(report.config, report.model, of_plan);
    problems.Add(path + ": ", of_plan);
  }
  report.problems = problems.list();
  return report;
}

CheckReport CheckModelFolder(const std::string& model_dir) {
  CheckReport report;
  Problems problems;
  if (CheckFolder(model_dir, "", problems) && CheckFolderFiles(model_dir, report, problems) &&
      problems.Take(DefaultEngineConfig(model_dir), report.config)) {
    Problems of_plan;
    CheckPlan(report.config, report.model, of_plan);
    problems.Add(model_dir + ": ", of_plan);
  }
  report.problems = problems.list();
  return report;
}

std::string FormatCheckReport(const CheckReport& report) {
  std::string text;
  for (const std::string& note : report.notes) {
    text += fmt::format("note: {}\n", note);
  }
  for (const std::string& problem : report.problems) {
    text += problem + "\n";
  }
  if (!report.problems.empty()) {
    return text + fmt::format("{} problem{}\n",
                              report.problems.size(),
                              report.problems.size() == 1 ? "" : "s");
  }
  const ModelConfig& model = report.model;
  // Distances between an encoder's tokens have no end.
  const std::string most = model.has_encoder() ? "" : fmt::format(" of {}", model.max_positions);
  return text + fmt::format(
                    "{}: {}, {:.1f} million parameters in {}, context {}{} tokens, {}: sound\n"
                    "answers by default: {}\n",
                    report.config.model.name,
                    model.architecture,
                    Millions(model),
                    DTypeName(model.file_dtype),
                    report.config.rings.buffer_size,
                    most,
                    report.has_chat_template ? "chat template" : "no chat template",
                    Defaults(report));
}

}  // namespace ringserve
