#include "server/convert_reading.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "server/convert.h"
#include "server/convert_prompt.h"

namespace ringserve {
namespace {

constexpr int kMaxParts = static_cast<int>(kMaxSiblings) + 1;
// An answer stays under the 4 MiB that clients take by default.
constexpr int64_t kMaxScores = 100'000;
constexpr int64_t kMaxValues = 1'000'000;

template <typename... Args>
absl::Status Invalid(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError(fmt::format(format, std::forward<Args>(args)...));
}

absl::Status CheckCount(const char* field, int count) {
  if (count < 1 || count > kMaxParts) {
    return Invalid("{}: {} entries are not in [1, {}]", field, count, kMaxParts);
  }
  return absl::OkStatus();
}

// What both kinds of request have.
template <typename Request>
absl::Status ConvertCommon(const Request& in, GenerateRequest& out) {
  out.priority = in.priority();
  if (in.has_queue_timeout()) {
    ASSIGN_OR_RETURN(out.queue_timeout,
                     ConvertDuration(in.queue_timeout(),
                                     "queue_timeout",
                                     absl::Milliseconds(1),
                                     absl::Hours(24),
                                     "[1 ms, 24 h]"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> TakeIds(const v1::TokenIds& in, const std::string& field) {
  if (in.ids().empty()) {
    return Invalid("{}.token_ids.ids: empty; at least one token is needed", field);
  }
  return std::vector<int32_t>(in.ids().begin(), in.ids().end());
}

// The tokens that the text adds to those of the prompt.
absl::StatusOr<std::vector<int32_t>> Continue(const ConvertedPrompt& prompt,
                                              bool has_text,
                                              const std::string& text,
                                              const std::string& field,
                                              const ServedModel& model) {
  EncodeOptions options = prompt.encode;
  if (!has_text) {
    options.add_special_tokens = false;
  }
  ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                   EncodeText((has_text ? prompt.text : "") + text, options, field, model));
  if (has_text) {
    const std::vector<int32_t>& before = prompt.token_ids;
    if (ids.size() < before.size() || !std::equal(before.begin(), before.end(), ids.begin())) {
      return Invalid(
          "{}: together with it the prompt is cut into other tokens than alone; begin the "
          "continuation where a token begins, or give token_ids",
          field);
    }
    ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(before.size()));
  }
  if (ids.empty()) {
    return Invalid("{}: it adds no token to the prompt", field);
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> ConvertContinuation(const v1::Continuation& in,
                                                         const ConvertedPrompt& prompt,
                                                         bool has_text,
                                                         const std::string& field,
                                                         const ServedModel& model) {
  switch (in.kind_case()) {
    case v1::Continuation::kText:
      return Continue(prompt, has_text, in.text(), field + ".text", model);
    case v1::Continuation::kTokenIds:
      return TakeIds(in.token_ids(), field);
    case v1::Continuation::KIND_NOT_SET:
      break;
  }
  return Invalid("{}: not set; set text or token_ids", field);
}

absl::StatusOr<std::vector<int32_t>> ConvertInput(const v1::EmbedInput& in,
                                                  const EncodeOptions& options,
                                                  const std::string& field,
                                                  const ServedModel& model) {
  switch (in.kind_case()) {
    case v1::EmbedInput::kText: {
      ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                       EncodeText(in.text(), options, field + ".text", model));
      if (ids.empty()) {
        return Invalid("{}.text: empty, and this model's tokenizer adds nothing to it", field);
      }
      return ids;
    }
    case v1::EmbedInput::kTokenIds:
      return TakeIds(in.token_ids(), field);
    case v1::EmbedInput::KIND_NOT_SET:
      break;
  }
  return Invalid("{}: not set; set text or token_ids", field);
}

absl::StatusOr<Pooling> ConvertPooling(v1::Pooling in) {
  switch (in) {
    case v1::POOLING_UNSPECIFIED:
    case v1::POOLING_LAST_TOKEN:
      return Pooling::kLastToken;
    case v1::POOLING_MEAN:
      return Pooling::kMean;
    default:
      return Invalid("pooling: {} is not in [0, 2]", static_cast<int>(in));
  }
}

void Add(const Usage& usage, Usage& sum) {
  sum.prompt_tokens += usage.prompt_tokens;
  sum.cached_tokens += usage.cached_tokens;
  sum.reprefilled_tokens += usage.reprefilled_tokens;
  sum.evicted_tokens += usage.evicted_tokens;
  sum.completion_tokens += usage.completion_tokens;
}

}  // namespace

absl::StatusOr<GenerateRequest> ConvertScore(const v1::ScoreRequest& in, const ServedModel& model) {
  if (in.has_session()) {
    return absl::UnimplementedError(
        "session: a session's text cannot be scored on; give it as the prompt");
  }
  if (model.shape.has_encoder()) {
    return absl::UnimplementedError(fmt::format(
        "model \"{}\" reads its prompt with an encoder, and Score is for decoders", model.name()));
  }
  const int32_t most = std::min(kMaxLogprobs, model.shape.vocab_size);
  if (in.alternatives() < 0 || in.alternatives() > most) {
    return Invalid("alternatives: {} is not in [0, {}]", in.alternatives(), most);
  }
  RETURN_IF_ERROR(CheckCount("continuations", in.continuations_size()));
  GenerateRequest out;
  RETURN_IF_ERROR(ConvertCommon(in, out));
  out.output.num_logprobs = std::max(in.alternatives(), 1);  // who is the most likely
  ASSIGN_OR_RETURN(ConvertedPrompt prompt, ConvertPrompt(in, model));
  const bool has_text = in.prompt_case() != v1::ScoreRequest::kTokenIds;
  int64_t num_tokens = 0;
  for (int i = 0; i < in.continuations_size(); ++i) {
    const std::string field = fmt::format("continuations[{}]", i);
    ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                     ConvertContinuation(in.continuations(i), prompt, has_text, field, model));
    num_tokens += static_cast<int64_t>(ids.size());
    if (i == 0) {
      out.continuation = std::move(ids);
    } else {
      out.siblings.emplace_back().continuation = std::move(ids);
    }
  }
  if (num_tokens * (1 + in.alternatives()) > kMaxScores) {
    return Invalid("continuations: {} tokens with {} alternatives each are more than {} scores",
                   num_tokens,
                   in.alternatives(),
                   kMaxScores);
  }
  out.prompt = std::move(prompt.token_ids);
  return out;
}

absl::StatusOr<GenerateRequest> ConvertEmbed(const v1::EmbedRequest& in, const ServedModel& model) {
  if (model.shape.has_encoder()) {
    return absl::UnimplementedError(fmt::format(
        "model \"{}\" reads its prompt with an encoder, and Embed is for decoders", model.name()));
  }
  RETURN_IF_ERROR(CheckCount("inputs", in.inputs_size()));
  if (int64_t{in.inputs_size()} * model.shape.hidden_dim > kMaxValues) {
    return Invalid("inputs: {} vectors of {} values are more than {} values",
                   in.inputs_size(),
                   model.shape.hidden_dim,
                   kMaxValues);
  }
  const bool has_text = std::any_of(
      in.inputs().begin(), in.inputs().end(), [](const auto& input) { return input.has_text(); });
  if (in.has_tokenize() && !has_text) {
    return Invalid("tokenize: set, and there is no text to tokenize");
  }
  GenerateRequest out;
  RETURN_IF_ERROR(ConvertCommon(in, out));
  EmbeddingParams& embedding = out.embedding.emplace();
  ASSIGN_OR_RETURN(embedding.pooling, ConvertPooling(in.pooling()));
  embedding.normalize = in.normalize();
  const EncodeOptions options = ToEncodeOptions(in.tokenize());
  for (int i = 0; i < in.inputs_size(); ++i) {
    ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                     ConvertInput(in.inputs(i), options, fmt::format("inputs[{}]", i), model));
    if (i == 0) {
      out.prompt = std::move(ids);
    } else {
      out.siblings.emplace_back().prompt = std::move(ids);
    }
  }
  return out;
}

v1::ScoreResponse ScoreToProto(const Reading& reading,
                               const ServedModel& model,
                               int32_t num_alternatives) {
  v1::ScoreResponse out;
  out.set_model(model.name());
  Usage usage;
  for (const Reading::Part& part : reading.parts()) {
    v1::ScoredContinuation& continuation = *out.add_continuations();
    bool is_greedy = true;
    double logprob = 0;
    for (const ScoredToken& token : part.tokens) {
      v1::ScoredContinuationToken& told = *continuation.add_tokens();
      told.set_is_greedy(token.alternatives.front().token_id == token.token.token_id);
      is_greedy = is_greedy && told.is_greedy();
      logprob += static_cast<double>(token.token.logprob);
      ScoredTokenToProto(token, *model.tokenizer, num_alternatives, *told.mutable_token());
    }
    continuation.set_is_greedy(is_greedy);
    continuation.set_logprob(logprob);
    continuation.set_replay_digest(part.finished.replay_digest);
    Add(part.finished.usage, usage);
  }
  *out.mutable_usage() = ToProto(usage);
  return out;
}

v1::EmbedResponse EmbedToProto(const Reading& reading, const ServedModel& model) {
  v1::EmbedResponse out;
  out.set_model(model.name());
  out.set_dimension(model.shape.hidden_dim);
  Usage usage;
  for (const Reading::Part& part : reading.parts()) {
    v1::Embedding& embedding = *out.add_embeddings();
    embedding.mutable_values()->Assign(part.embedding.begin(), part.embedding.end());
    embedding.set_prompt_tokens(part.finished.usage.prompt_tokens);
    Add(part.finished.usage, usage);
  }
  *out.mutable_usage() = ToProto(usage);
  return out;
}

}  // namespace ringserve
