// The command line of one completion, and the request that it stands for. `generate` has it; what
// else generates shares it.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "ringserve/v1/inference.pb.h"

namespace ringserve {

struct GenerateOptions {
  std::string model_name;

  // At most one; none: the prompt is read from stdin.
  std::optional<std::string> prompt;
  std::string prompt_file;
  std::string prompt_ids_file;
  std::string chat_file;
  bool no_special_tokens = false;
  bool plain_text = false;

  // Not set: not sent, so that the server's default holds.
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  std::vector<std::string> logit_bias;  // "ID:BIAS"
  std::optional<uint64_t> seed;

  std::optional<int64_t> max_tokens;
  std::optional<int64_t> min_tokens;
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;
  std::vector<std::string> stop_strings;

  std::optional<int32_t> num_completions;
  // At most one kind.
  std::string json_schema_file;
  std::optional<std::string> regex;
  std::vector<std::string> choices;
  bool json_object = false;

  std::optional<int32_t> logprobs;
  bool echo = false;
  bool include_special_tokens = false;

  std::optional<int32_t> priority;
  bool no_speculation = false;
  std::optional<double> queue_timeout_seconds;
};

// `options` must outlive the parse.
void AddPromptOptions(CLI::App& command, GenerateOptions& options);
void AddSamplingOptions(CLI::App& command, GenerateOptions& options);
void AddStoppingOptions(CLI::App& command, GenerateOptions& options);
void AddConstraintOptions(CLI::App& command, GenerateOptions& options);
void AddOutputOptions(CLI::App& command, GenerateOptions& options);

// Reads the prompt, from stdin if no option names one. Ranges are the server's to check.
absl::StatusOr<v1::GenerateRequest> BuildRequest(const GenerateOptions& options);

}  // namespace ringserve
