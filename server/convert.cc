#include "server/convert.h"

#include <algorithm>
#include <cctype>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "engine/base/check.h"
#include "server/convert_constraint.h"
#include "server/convert_prompt.h"

namespace ringserve {
namespace {

constexpr int kMaxStopStrings = 64;
constexpr size_t kMaxStopStringBytes = 1024;
constexpr int64_t kMaxMaxTokens = std::numeric_limits<int32_t>::max();

template <typename... Args>
absl::Status Invalid(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError(fmt::format(format, std::forward<Args>(args)...));
}

SamplingParams ConvertSampling(const v1::SamplingOptions& in, const GenerationDefaults& defaults) {
  SamplingParams out;
  for (const v1::LogitBias& bias : in.logit_bias()) {
    out.logit_bias.emplace_back(bias.token_id(), bias.bias());
  }
  out.repetition_penalty = in.has_repetition_penalty()
                               ? in.repetition_penalty()
                               : defaults.repetition_penalty.value_or(out.repetition_penalty);
  out.presence_penalty = in.presence_penalty();
  out.frequency_penalty = in.frequency_penalty();
  out.temperature =
      in.has_temperature() ? in.temperature() : defaults.temperature.value_or(out.temperature);
  out.top_k = in.has_top_k() ? in.top_k() : defaults.top_k.value_or(out.top_k);
  out.top_p = in.has_top_p() ? in.top_p() : defaults.top_p.value_or(out.top_p);
  out.min_p = in.has_min_p() ? in.min_p() : defaults.min_p.value_or(out.min_p);
  out.seed = in.seed();
  return out;
}

absl::Status ConvertStopping(const v1::StoppingOptions& in,
                             const ServedModel& model,
                             ConvertedRequest& out) {
  StoppingParams& stopping = out.request.stopping;
  const int64_t max_tokens =
      in.has_max_tokens() ? in.max_tokens() : model.defaults.max_tokens.value_or(kDefaultMaxTokens);
  if (max_tokens < 1 || max_tokens > kMaxMaxTokens) {
    return Invalid("stopping.max_tokens: {} is not in [1, {}]", max_tokens, kMaxMaxTokens);
  }
  if (in.min_tokens() < 0 || in.min_tokens() > max_tokens) {
    return Invalid(
        "stopping.min_tokens: {} is not in [0, max_tokens = {}]", in.min_tokens(), max_tokens);
  }
  if (in.stop_strings_size() > kMaxStopStrings) {
    return Invalid("stopping.stop_strings: {} strings are more than {}",
                   in.stop_strings_size(),
                   kMaxStopStrings);
  }
  if (in.stop_strings_size() > 0) {
    RETURN_IF_ERROR(model.CheckTokenizer("stopping.stop_strings"));
  }
  for (int i = 0; i < in.stop_strings_size(); ++i) {
    const size_t bytes = in.stop_strings(i).size();
    if (bytes < 1 || bytes > kMaxStopStringBytes) {
      return Invalid(
          "stopping.stop_strings[{}]: {} bytes, not in [1, {}]", i, bytes, kMaxStopStringBytes);
    }
  }
  stopping.max_tokens = static_cast<int32_t>(max_tokens);
  stopping.min_tokens = static_cast<int32_t>(in.min_tokens());
  stopping.ignore_eos = in.ignore_eos();
  stopping.stop_token_ids.assign(in.stop_token_ids().begin(), in.stop_token_ids().end());
  out.stream.stop_strings.assign(in.stop_strings().begin(), in.stop_strings().end());
  out.stream.end_token_ids = stopping.stop_token_ids;
  if (!stopping.ignore_eos) {
    out.stream.end_token_ids.insert(out.stream.end_token_ids.end(),
                                    model.shape.eos_token_ids.begin(),
                                    model.shape.eos_token_ids.end());
  }
  std::sort(out.stream.end_token_ids.begin(), out.stream.end_token_ids.end());
  return absl::OkStatus();
}

absl::Status ConvertOutput(const v1::OutputOptions& in,
                           const ServedModel& model,
                           ConvertedRequest& out) {
  if (in.has_logprobs()) {
    const int32_t most = std::min(kMaxLogprobs, model.shape.vocab_size);
    if (in.logprobs() < 0 || in.logprobs() > most) {
      return Invalid("output.logprobs: {} is not in [0, {}]", in.logprobs(), most);
    }
    out.request.output.num_logprobs = in.logprobs();
  }
  out.request.output.prompt_logprobs = in.echo();
  out.stream.logprobs = in.has_logprobs();
  out.stream.echo = in.echo();
  out.stream.include_special_tokens = in.include_special_tokens();
  return absl::OkStatus();
}

absl::Status ConvertSessionTurn(const v1::SessionTurn& in, ConvertedRequest& out) {
  if (in.id().empty()) {
    return Invalid("session.id: not set");
  }
  SessionTurn& turn = out.request.turn.emplace();
  turn.session_id = in.id();
  if (in.has_expected_position()) {
    if (in.expected_position() < 0) {
      return Invalid("session.expected_position: {} is below 0", in.expected_position());
    }
    turn.expected_position = in.expected_position();
  }
  switch (in.on_cancel()) {
    case v1::ON_CANCEL_UNSPECIFIED:
    case v1::ON_CANCEL_ROLLBACK:
      turn.on_interrupt = OnInterrupt::kRollback;
      return absl::OkStatus();
    case v1::ON_CANCEL_KEEP_DELIVERED:
      turn.on_interrupt = OnInterrupt::kKeepDelivered;
      out.keeps_delivered = true;
      return absl::OkStatus();
    case v1::ON_CANCEL_KEEP_ALL:
      turn.on_interrupt = OnInterrupt::kKeepAll;
      return absl::OkStatus();
    default:
      return Invalid("session.on_cancel: {} is not in [0, 3]", static_cast<int>(in.on_cancel()));
  }
}

absl::StatusOr<int32_t> NumCompletions(const v1::GenerateRequest& in) {
  constexpr int32_t kMaxCompletions = 64;
  const int32_t n = in.has_n() ? in.n() : 1;
  if (n < 1 || n > kMaxCompletions) {
    return Invalid("n: {} is not in [1, {}]", n, kMaxCompletions);
  }
  if (n > 1 && in.has_session()) {
    return Invalid("n: {}, but a session's turn has one completion; fork the session", n);
  }
  return n;
}

// `constraint` may be null.
void AddSiblings(const ServedModel& model, const Constraint* constraint, ConvertedRequest& out) {
  for (int32_t index = 1; index < out.stream.num_completions; ++index) {
    Sibling& sibling = out.request.siblings.emplace_back();
    sibling.seed = out.request.sampling.seed + static_cast<uint64_t>(index);
    sibling.stop_condition = MakeStopCondition(
        *model.tokenizer, out.stream.stop_strings, !out.stream.include_special_tokens);
    sibling.constraint = constraint != nullptr ? constraint->Begin() : nullptr;
  }
}

}  // namespace

absl::StatusOr<ConvertedRequest> ConvertRequest(const v1::GenerateRequest& in,
                                                const ServedModel& model) {
  RETURN_IF_ERROR(RefuseUnknownFields(in));
  if (!in.request_id().empty()) {
    RETURN_IF_ERROR(CheckRequestId(in.request_id()));
  }
  ConvertedRequest out;
  ASSIGN_OR_RETURN(out.stream.num_completions, NumCompletions(in));
  if (in.has_session()) {
    RETURN_IF_ERROR(ConvertSessionTurn(in.session(), out));
  }
  out.stream.model = model.name();
  out.request.sampling = ConvertSampling(in.sampling(), model.defaults);
  RETURN_IF_ERROR(ConvertStopping(in.stopping(), model, out));
  RETURN_IF_ERROR(ConvertOutput(in.output(), model, out));
  out.request.priority = in.priority();
  out.request.speculate = !in.has_speculate() || in.speculate();
  if (in.has_queue_timeout()) {
    ASSIGN_OR_RETURN(out.request.queue_timeout,
                     ConvertDuration(in.queue_timeout(),
                                     "queue_timeout",
                                     absl::Milliseconds(1),
                                     absl::Hours(24),
                                     "[1 ms, 24 h]"));
  }
  std::shared_ptr<const Constraint> constraint;
  if (in.has_constraint()) {
    ASSIGN_OR_RETURN(constraint, ConvertConstraint(in.constraint(), model));
    out.request.constraint = constraint->Begin();
    if (out.stream.end_token_ids.empty() && !in.stopping().ignore_eos()) {
      return Invalid(
          "constraint: this model has no end-of-text token; name one in stopping.stop_token_ids");
    }
  }
  ASSIGN_OR_RETURN(ConvertedPrompt prompt, ConvertPrompt(in, model));
  out.request.prompt = std::move(prompt.token_ids);
  out.stream.first_prompt_token = out.request.prompt.front();
  out.request.stopping.stop_condition = MakeStopCondition(
      *model.tokenizer, out.stream.stop_strings, !out.stream.include_special_tokens);
  AddSiblings(model, constraint.get(), out);
  return out;
}

void NameCompletions(GenerateRequest& request, uint64_t first_id) {
  request.request_id = first_id;
  for (Sibling& sibling : request.siblings) {
    sibling.request_id = ++first_id;
  }
}

absl::StatusOr<absl::Duration> ConvertDuration(const google::protobuf::Duration& in,
                                               const std::string& field,
                                               absl::Duration min,
                                               absl::Duration max,
                                               std::string_view range) {
  constexpr int64_t kYearSeconds = 366LL * 24 * 60 * 60;
  const bool whole = in.seconds() >= 0 && in.seconds() <= kYearSeconds && in.nanos() >= 0 &&
                     in.nanos() < 1'000'000'000;
  const absl::Duration out = absl::Seconds(in.seconds()) + absl::Nanoseconds(in.nanos());
  if (!whole || out < min || out > max) {
    return Invalid("{}: {} s and {} ns is not in {}", field, in.seconds(), in.nanos(), range);
  }
  return out;
}

absl::Status CheckRequestId(const std::string& request_id) {
  constexpr size_t kMaxRequestIdBytes = 64;
  const bool clean = std::all_of(request_id.begin(), request_id.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '_' || c == ':' || c == '-';
  });
  if (request_id.empty() || request_id.size() > kMaxRequestIdBytes || !clean) {
    return Invalid("request_id: not 1 to {} of A-Z a-z 0-9 . _ : -", kMaxRequestIdBytes);
  }
  return absl::OkStatus();
}

absl::Status RefuseUnknownFields(const google::protobuf::Message& message) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  const auto& unknown = reflection.GetUnknownFields(message);
  if (!unknown.empty()) {
    return Invalid("{}: this server knows no field with number {}",
                   message.GetTypeName(),
                   unknown.field(0).number());
  }
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const auto* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) {
      continue;
    }
    if (!field->is_repeated()) {
      RETURN_IF_ERROR(RefuseUnknownFields(reflection.GetMessage(message, field)));
      continue;
    }
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      RETURN_IF_ERROR(RefuseUnknownFields(reflection.GetRepeatedMessage(message, field, i)));
    }
  }
  return absl::OkStatus();
}

EncodeOptions ToEncodeOptions(const v1::TokenizeOptions& options) {
  EncodeOptions out;
  if (options.has_add_special_tokens()) {
    out.add_special_tokens = options.add_special_tokens();
  }
  if (options.has_parse_special_tokens()) {
    out.parse_special_tokens = options.parse_special_tokens();
  }
  return out;
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration out;
  absl::Duration rest;
  out.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &rest));
  out.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  return out;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStopToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case FinishReason::kStopString:
      return v1::FINISH_REASON_STOP_STRING;
    case FinishReason::kMaxTokens:
      return v1::FINISH_REASON_MAX_TOKENS;
    case FinishReason::kContextFull:
      return v1::FINISH_REASON_CONTEXT_FULL;
    case FinishReason::kRead:
      break;  // no completion's
  }
  RS_CHECK(false);
}

v1::Usage ToProto(const Usage& usage) {
  v1::Usage out;
  out.set_prompt_tokens(usage.prompt_tokens);
  out.set_cached_tokens(usage.cached_tokens);
  out.set_reprefilled_tokens(usage.reprefilled_tokens);
  out.set_evicted_tokens(usage.evicted_tokens);
  out.set_completion_tokens(usage.completion_tokens);
  out.set_drafted_tokens(usage.drafted_tokens);
  out.set_accepted_tokens(usage.accepted_tokens);
  return out;
}

void ScoredTokenToProto(const ScoredToken& token,
                        const Tokenizer& tokenizer,
                        int32_t num_alternatives,
                        v1::ScoredToken& out) {
  const auto bytes = [&tokenizer](int32_t token_id) {
    return std::string(tokenizer.TokenBytes(token_id, /*skip_special=*/true));
  };
  out.set_token_id(token.token.token_id);
  out.set_token_bytes(bytes(token.token.token_id));
  out.set_logprob(token.token.logprob);
  for (const TokenLogprob& alternative : token.alternatives) {
    if (out.alternatives_size() == num_alternatives) {
      break;
    }
    v1::Alternative& a = *out.add_alternatives();
    a.set_token_id(alternative.token_id);
    a.set_token_bytes(bytes(alternative.token_id));
    a.set_logprob(alternative.logprob);
  }
}

v1::Timings ToProto(const Timings& timings) {
  v1::Timings out;
  *out.mutable_queued() = ToProto(timings.queued);
  *out.mutable_prefill() = ToProto(timings.prefill);
  *out.mutable_decode() = ToProto(timings.decode);
  return out;
}

}  // namespace ringserve
