#include "server/generate_options.h"

#include <charconv>
#include <cmath>
#include <iostream>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "server/chat_file.h"

namespace ringserve {
namespace {

constexpr int64_t kMaxPromptFileBytes = 1 << 30;
constexpr int64_t kMaxSchemaFileBytes = 1 << 20;

absl::StatusOr<std::string> ReadText(const std::string& path) {
  if (path == "-") {
    return std::string(std::istreambuf_iterator<char>(std::cin), {});
  }
  return ReadFile(path, kMaxPromptFileBytes);
}

absl::Status ReadTokenIds(const std::string& path, v1::TokenIds& out) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, path));
  if (!json.is_array()) {
    return absl::InvalidArgumentError(fmt::format("{}: not a JSON array of token ids", path));
  }
  for (size_t i = 0; i < json.size(); ++i) {
    const bool in_range =
        json[i].is_number_integer() && json[i] >= INT32_MIN && json[i] <= INT32_MAX;
    if (!in_range) {
      return absl::InvalidArgumentError(
          fmt::format("{}: [{}]: {} is no token id", path, i, json[i].dump()));
    }
    out.add_ids(json[i].get<int32_t>());
  }
  return absl::OkStatus();
}

// "ID:BIAS"; BIAS may be -inf.
absl::Status ParseLogitBias(const std::string& text, v1::LogitBias& out) {
  const size_t colon = text.find(':');
  int32_t token_id = 0;
  float bias = 0;
  const char* const end = text.data() + text.size();
  const auto id = std::from_chars(text.data(), end, token_id);
  if (colon == std::string::npos || id.ec != std::errc() || id.ptr != text.data() + colon ||
      std::from_chars(id.ptr + 1, end, bias).ptr != end || colon + 1 == text.size()) {
    return absl::InvalidArgumentError(
        fmt::format("--logit-bias: \"{}\" is not ID:BIAS, as 42:-1.5 is", text));
  }
  out.set_token_id(token_id);
  out.set_bias(bias);
  return absl::OkStatus();
}

absl::Status BuildPrompt(const GenerateOptions& options, v1::GenerateRequest& out) {
  const int num_sources = static_cast<int>(options.prompt.has_value()) +
                          static_cast<int>(!options.prompt_file.empty()) +
                          static_cast<int>(!options.prompt_ids_file.empty()) +
                          static_cast<int>(!options.chat_file.empty());
  if (num_sources > 1) {
    return absl::InvalidArgumentError(
        "--prompt, --prompt-file, --prompt-ids and --chat exclude each other");
  }
  if (!options.prompt_ids_file.empty()) {
    if (options.no_special_tokens || options.plain_text) {
      return absl::InvalidArgumentError(
          "--no-special-tokens and --plain-text are about text; --prompt-ids has none");
    }
    return ReadTokenIds(options.prompt_ids_file, *out.mutable_token_ids());
  }
  if (!options.chat_file.empty()) {
    if (options.no_special_tokens || options.plain_text) {
      return absl::InvalidArgumentError(
          "--no-special-tokens and --plain-text are about text; --chat has none");
    }
    ASSIGN_OR_RETURN(const std::string text, ReadText(options.chat_file));
    ASSIGN_OR_RETURN(*out.mutable_chat(), ParseChatFile(text, options.chat_file));
    return absl::OkStatus();
  }
  if (options.prompt.has_value()) {
    out.set_text(*options.prompt);
  } else {
    ASSIGN_OR_RETURN(*out.mutable_text(),
                     ReadText(options.prompt_file.empty() ? "-" : options.prompt_file));
  }
  if (options.no_special_tokens) {
    out.mutable_tokenize()->set_add_special_tokens(false);
  }
  if (options.plain_text) {
    out.mutable_tokenize()->set_parse_special_tokens(false);
  }
  return absl::OkStatus();
}

absl::Status BuildConstraint(const GenerateOptions& options, v1::GenerateRequest& out) {
  const int num_kinds = static_cast<int>(!options.json_schema_file.empty()) +
                        static_cast<int>(options.regex.has_value()) +
                        static_cast<int>(!options.choices.empty()) +
                        static_cast<int>(options.json_object);
  if (num_kinds > 1) {
    return absl::InvalidArgumentError(
        "--json-schema, --json-object, --regex and --choice exclude each other");
  }
  if (!options.json_schema_file.empty()) {
    ASSIGN_OR_RETURN(*out.mutable_constraint()->mutable_json_schema(),
                     ReadFile(options.json_schema_file, kMaxSchemaFileBytes));
  } else if (options.regex.has_value()) {
    out.mutable_constraint()->set_regex(*options.regex);
  } else if (options.json_object) {
    out.mutable_constraint()->mutable_json_object();
  }
  for (const std::string& choice : options.choices) {
    out.mutable_constraint()->mutable_choices()->add_texts(choice);
  }
  return absl::OkStatus();
}

absl::Status BuildSampling(const GenerateOptions& options, v1::SamplingOptions& out) {
  for (const std::string& bias : options.logit_bias) {
    RETURN_IF_ERROR(ParseLogitBias(bias, *out.add_logit_bias()));
  }
  if (options.repetition_penalty.has_value()) {
    out.set_repetition_penalty(*options.repetition_penalty);
  }
  if (options.temperature.has_value()) {
    out.set_temperature(*options.temperature);
  }
  if (options.top_k.has_value()) {
    out.set_top_k(*options.top_k);
  }
  if (options.top_p.has_value()) {
    out.set_top_p(*options.top_p);
  }
  if (options.min_p.has_value()) {
    out.set_min_p(*options.min_p);
  }
  out.set_presence_penalty(options.presence_penalty.value_or(0));
  out.set_frequency_penalty(options.frequency_penalty.value_or(0));
  out.set_seed(options.seed.value_or(0));
  return absl::OkStatus();
}

}  // namespace

void AddPromptOptions(CLI::App& command, GenerateOptions& options) {
  const std::string group = "Prompt";
  command.add_option("--prompt,-p", options.prompt, "Text to continue; else stdin")->group(group);
  command.add_option("--prompt-file", options.prompt_file, "File of the text; - is stdin")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--prompt-ids", options.prompt_ids_file, "File of token ids, a JSON array")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--chat",
                  options.chat_file,
                  "File of a conversation: a JSON array of messages, or an object with "
                  "\"messages\", \"tools\", ...; - is stdin")
      ->type_name("FILE")
      ->group(group);
  command
      .add_flag("--no-special-tokens",
                options.no_special_tokens,
                "Do not add what the tokenizer adds around a text")
      ->group(group);
  command
      .add_flag(
          "--plain-text", options.plain_text, "Special tokens spelled out in the text are text")
      ->group(group);
}

void AddSamplingOptions(CLI::App& command, GenerateOptions& options) {
  const std::string group = "Sampling (defaults are the model's)";
  command.add_option("--temperature,-t", options.temperature, "0 is greedy; [0, 100]")
      ->group(group);
  command.add_option("--top-k", options.top_k, "Keep the K most likely; 0 keeps all")->group(group);
  command.add_option("--top-p", options.top_p, "Keep that much probability; (0, 1]")->group(group);
  command
      .add_option("--min-p",
                  options.min_p,
                  "Drop what is less likely than that times the likeliest; [0, 1]")
      ->group(group);
  command
      .add_option(
          "--repetition-penalty", options.repetition_penalty, "Over prompt and completion; (0, 10]")
      ->group(group);
  command
      .add_option("--presence-penalty",
                  options.presence_penalty,
                  "Once for a token of the completion; [-2, 2], default 0")
      ->group(group);
  command
      .add_option("--frequency-penalty",
                  options.frequency_penalty,
                  "Per occurrence in the completion; [-2, 2], default 0")
      ->group(group);
  command
      .add_option("--logit-bias", options.logit_bias, "Added to a token's logit; may be repeated")
      ->type_name("ID:BIAS")
      ->expected(1)
      ->take_all()
      ->group(group);
  command.add_option("--seed", options.seed, "Equal seeds, equal answers; default 0")->group(group);
}

void AddStoppingOptions(CLI::App& command, GenerateOptions& options) {
  const std::string group = "Stopping";
  command.add_option("--max-tokens,-n", options.max_tokens, "Most tokens made")->group(group);
  command.add_option("--min-tokens", options.min_tokens, "No end before that many; default 0")
      ->group(group);
  command.add_flag("--ignore-eos", options.ignore_eos, "The model cannot end the text")
      ->group(group);
  command.add_option("--stop", options.stop_strings, "Text that ends it; may be repeated")
      ->type_name("TEXT")
      ->expected(1)
      ->take_all()
      ->group(group);
  command.add_option("--stop-token", options.stop_token_ids, "Token that ends it; may be repeated")
      ->type_name("ID")
      ->expected(1)
      ->take_all()
      ->group(group);
}

void AddConstraintOptions(CLI::App& command, GenerateOptions& options) {
  const std::string group = "Constraint";
  command
      .add_option(
          "--json-schema", options.json_schema_file, "File of a JSON Schema that the text meets")
      ->type_name("FILE")
      ->group(group);
  command.add_flag("--json-object", options.json_object, "The text is a JSON object")->group(group);
  command.add_option("--regex", options.regex, "Regular expression that matches the whole text")
      ->group(group);
  command.add_option("--choice", options.choices, "The text is one of these; may be repeated")
      ->type_name("TEXT")
      ->expected(1)
      ->take_all()
      ->group(group);
}

void AddOutputOptions(CLI::App& command, GenerateOptions& options) {
  const std::string group = "Output";
  command
      .add_option("--completions",
                  options.num_completions,
                  "Of the one prompt, with seeds one apart; needs --json; [1, 64], default 1")
      ->type_name("N")
      ->group(group);
  command
      .add_option("--logprobs",
                  options.logprobs,
                  "Tell each token's logprob, and the K likeliest alternatives; needs --json")
      ->type_name("K")
      ->group(group);
  command.add_flag("--echo", options.echo, "Tell the prompt first; with --json its logprobs too")
      ->group(group);
  command
      .add_flag("--include-special-tokens",
                options.include_special_tokens,
                "Special tokens are part of the text")
      ->group(group);
  command.add_option("--priority", options.priority, "Higher runs first; [-100, 100], default 0")
      ->group(group);
  command
      .add_flag("--no-speculation",
                options.no_speculation,
                "Guess no tokens ahead; the answer is the same either way")
      ->group(group);
  command
      .add_option("--queue-timeout",
                  options.queue_timeout_seconds,
                  "Seconds to wait for a place in the batch; [0.001, 86400], default no limit")
      ->group(group);
}

absl::StatusOr<v1::GenerateRequest> BuildRequest(const GenerateOptions& options) {
  v1::GenerateRequest out;
  out.set_model(options.model_name);
  RETURN_IF_ERROR(BuildSampling(options, *out.mutable_sampling()));
  v1::StoppingOptions& stopping = *out.mutable_stopping();
  if (options.max_tokens.has_value()) {
    stopping.set_max_tokens(*options.max_tokens);
  }
  stopping.set_min_tokens(options.min_tokens.value_or(0));
  stopping.set_ignore_eos(options.ignore_eos);
  stopping.mutable_stop_token_ids()->Assign(options.stop_token_ids.begin(),
                                            options.stop_token_ids.end());
  for (const std::string& text : options.stop_strings) {
    stopping.add_stop_strings(text);
  }
  if (options.num_completions.has_value()) {
    out.set_n(*options.num_completions);
  }
  RETURN_IF_ERROR(BuildConstraint(options, out));
  if (options.logprobs.has_value()) {
    out.mutable_output()->set_logprobs(*options.logprobs);
  }
  out.mutable_output()->set_echo(options.echo);
  out.mutable_output()->set_include_special_tokens(options.include_special_tokens);
  out.set_priority(options.priority.value_or(0));
  if (options.no_speculation) {
    out.set_speculate(false);
  }
  if (options.queue_timeout_seconds.has_value()) {
    const double seconds = *options.queue_timeout_seconds;
    if (!(seconds >= 0.001 && seconds <= 86400)) {
      return absl::InvalidArgumentError(
          fmt::format("--queue-timeout: {} is not in [0.001, 86400]", seconds));
    }
    const double whole = std::floor(seconds);
    out.mutable_queue_timeout()->set_seconds(static_cast<int64_t>(whole));
    out.mutable_queue_timeout()->set_nanos(static_cast<int32_t>((seconds - whole) * 1e9));
  }
  RETURN_IF_ERROR(BuildPrompt(options, out));  // last: it may wait for stdin
  return out;
}

}  // namespace ringserve
