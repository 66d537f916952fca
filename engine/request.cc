#include "engine/request.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string_view>

#include <fmt/format.h>

namespace ringserve {
namespace {

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(message);
}

absl::Status CheckInt(std::string_view field, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) {
    return absl::OkStatus();
  }
  return Invalid(fmt::format("{}: {} is not in [{}, {}]", field, value, min, max));
}

// [min, max]; NaN is in no range.
absl::Status CheckFloat(std::string_view field, float value, float min, float max) {
  if (value >= min && value <= max) {
    return absl::OkStatus();
  }
  return Invalid(fmt::format("{}: {} is not in [{}, {}]", field, value, min, max));
}

// (0, max].
absl::Status CheckPositive(std::string_view field, float value, float max) {
  if (value > 0 && value <= max) {
    return absl::OkStatus();
  }
  return Invalid(fmt::format("{}: {} is not in (0, {}]", field, value, max));
}

absl::Status CheckCount(std::string_view field, size_t count, size_t max) {
  if (count <= max) {
    return absl::OkStatus();
  }
  return Invalid(fmt::format("{}: {} entries are more than {}", field, count, max));
}

absl::Status CheckTokenId(std::string_view field, size_t index, int32_t id, int32_t vocab_size) {
  if (id >= 0 && id < vocab_size) {
    return absl::OkStatus();
  }
  return Invalid(
      fmt::format("{}[{}]: token id {} is not in [0, {})", field, index, id, vocab_size));
}

absl::Status CheckTokens(std::string_view field,
                         const std::vector<int32_t>& tokens,
                         const RequestLimits& limits) {
  if (tokens.empty()) {
    return Invalid(fmt::format("{}: it has no tokens, at least 1 is needed", field));
  }
  const auto length = static_cast<int64_t>(tokens.size());
  if (length > limits.max_prompt_tokens) {
    return Invalid(fmt::format("{}: {} tokens are more than {}, what the context holds",
                               field,
                               length,
                               limits.max_prompt_tokens));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    RETURN_IF_ERROR(CheckTokenId(field, i, tokens[i], limits.vocab_size));
  }
  return absl::OkStatus();
}

absl::Status CheckContinuation(size_t index,
                               const std::vector<int32_t>& continuation,
                               size_t prompt_length,
                               const RequestLimits& limits) {
  const std::string field = fmt::format("continuations[{}]", index);
  RETURN_IF_ERROR(CheckTokens(field, continuation, limits));
  // The last token is not read: nobody asks what comes after it.
  const auto length = static_cast<int64_t>(prompt_length + continuation.size()) - 1;
  if (length > limits.max_prompt_tokens) {
    return Invalid(
        fmt::format("{}: {} tokens behind a prompt of {} are more than the context's {} and one",
                    field,
                    continuation.size(),
                    prompt_length,
                    limits.max_prompt_tokens));
  }
  return absl::OkStatus();
}

absl::Status CheckContinuations(const GenerateRequest& request, const RequestLimits& limits) {
  if (request.continuation.empty()) {
    for (const Sibling& sibling : request.siblings) {
      if (!sibling.continuation.empty()) {
        return Invalid("siblings: some have a continuation and the request has none");
      }
    }
    return absl::OkStatus();
  }
  if (limits.has_encoder) {
    return absl::UnimplementedError(
        "continuations: a model that reads its prompt with an encoder scores none");
  }
  if (request.turn.has_value()) {
    return Invalid("session: a session's turn makes its completion, and is not given it");
  }
  if (request.output.prompt_logprobs) {
    return Invalid("output.echo: set beside continuations, which alone are scored");
  }
  RETURN_IF_ERROR(CheckContinuation(0, request.continuation, request.prompt.size(), limits));
  for (size_t i = 0; i < request.siblings.size(); ++i) {
    RETURN_IF_ERROR(
        CheckContinuation(i + 1, request.siblings[i].continuation, request.prompt.size(), limits));
  }
  return absl::OkStatus();
}

absl::Status CheckEmbedding(const GenerateRequest& request, const RequestLimits& limits) {
  if (!request.embedding.has_value()) {
    for (const Sibling& sibling : request.siblings) {
      if (!sibling.prompt.empty()) {
        return Invalid("siblings: one has a prompt of its own");
      }
    }
    return absl::OkStatus();
  }
  if (limits.has_encoder) {
    return absl::UnimplementedError(
        "inputs: a model that reads its prompt with an encoder makes no embeddings");
  }
  if (request.turn.has_value()) {
    return Invalid("session: a session's turn makes a completion, and no embedding");
  }
  if (!request.continuation.empty()) {
    return Invalid("continuations: set beside an embedding");
  }
  for (size_t i = 0; i < request.siblings.size(); ++i) {
    RETURN_IF_ERROR(
        CheckTokens(fmt::format("inputs[{}]", i + 1), request.siblings[i].prompt, limits));
  }
  return absl::OkStatus();
}

absl::Status CheckLogitBias(const SamplingParams& sampling, int32_t vocab_size) {
  RETURN_IF_ERROR(CheckCount("sampling.logit_bias", sampling.logit_bias.size(), kMaxLogitBiases));
  std::vector<int32_t> ids;
  for (size_t i = 0; i < sampling.logit_bias.size(); ++i) {
    const auto& [token_id, bias] = sampling.logit_bias[i];
    RETURN_IF_ERROR(CheckTokenId("sampling.logit_bias", i, token_id, vocab_size));
    const bool forbids = bias == -std::numeric_limits<float>::infinity();
    if (!forbids && !(bias >= -100.0F && bias <= 100.0F)) {
      return Invalid(fmt::format(
          "sampling.logit_bias[{}]: bias {} is not in [-100, 100] and not -inf", i, bias));
    }
    ids.push_back(token_id);
  }
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice != ids.end()) {
    return Invalid(fmt::format("sampling.logit_bias: token id {} is named twice", *twice));
  }
  return absl::OkStatus();
}

absl::Status CheckSampling(const SamplingParams& sampling, int32_t vocab_size) {
  RETURN_IF_ERROR(CheckLogitBias(sampling, vocab_size));
  RETURN_IF_ERROR(CheckPositive("sampling.repetition_penalty", sampling.repetition_penalty, 10));
  RETURN_IF_ERROR(CheckFloat("sampling.presence_penalty", sampling.presence_penalty, -2, 2));
  RETURN_IF_ERROR(CheckFloat("sampling.frequency_penalty", sampling.frequency_penalty, -2, 2));
  RETURN_IF_ERROR(CheckFloat("sampling.temperature", sampling.temperature, 0, 100));
  RETURN_IF_ERROR(CheckInt("sampling.top_k", sampling.top_k, 0, vocab_size));
  RETURN_IF_ERROR(CheckPositive("sampling.top_p", sampling.top_p, 1));
  return CheckFloat("sampling.min_p", sampling.min_p, 0, 1);
}

absl::Status CheckStopping(const StoppingParams& stopping, int32_t vocab_size) {
  RETURN_IF_ERROR(
      CheckInt("stopping.max_tokens", stopping.max_tokens, 1, std::numeric_limits<int32_t>::max()));
  RETURN_IF_ERROR(CheckInt("stopping.min_tokens", stopping.min_tokens, 0, stopping.max_tokens));
  RETURN_IF_ERROR(
      CheckCount("stopping.stop_token_ids", stopping.stop_token_ids.size(), kMaxStopTokenIds));
  for (size_t i = 0; i < stopping.stop_token_ids.size(); ++i) {
    RETURN_IF_ERROR(
        CheckTokenId("stopping.stop_token_ids", i, stopping.stop_token_ids[i], vocab_size));
  }
  return absl::OkStatus();
}

absl::Status CheckSiblings(const GenerateRequest& request) {
  RETURN_IF_ERROR(CheckCount("siblings", request.siblings.size(), kMaxSiblings));
  if (!request.siblings.empty() && request.turn.has_value()) {
    return Invalid("siblings: a session's turn has one completion");
  }
  std::vector<uint64_t> ids = {request.request_id};
  for (const Sibling& sibling : request.siblings) {
    ids.push_back(sibling.request_id);
  }
  std::sort(ids.begin(), ids.end());
  if (std::adjacent_find(ids.begin(), ids.end()) != ids.end()) {
    return Invalid("siblings: a request_id is named twice");
  }
  return absl::OkStatus();
}

// What an encoder's prompt cannot have.
absl::Status CheckEncoded(const GenerateRequest& request) {
  if (request.turn.has_value()) {
    return Invalid("session: the model reads a prompt whole with its encoder and has no sessions");
  }
  if (request.output.prompt_logprobs) {
    return Invalid(
        "output.echo: the model reads the prompt with its encoder, which predicts none "
        "of its tokens");
  }
  return absl::OkStatus();
}

// A constraint says itself when a text may end, and an end must be there to be sampled.
absl::Status CheckConstraint(const GenerateRequest& request) {
  for (const Sibling& sibling : request.siblings) {
    if ((sibling.constraint != nullptr) != (request.constraint != nullptr)) {
      return Invalid("siblings: some have a constraint and some do not");
    }
  }
  if (request.constraint == nullptr) {
    return absl::OkStatus();
  }
  if (request.stopping.ignore_eos) {
    return Invalid("stopping.ignore_eos: set beside a constraint, whose text it keeps from ending");
  }
  if (request.stopping.min_tokens > 0) {
    return Invalid(fmt::format(
        "stopping.min_tokens: {} beside a constraint, which says itself when its text may end",
        request.stopping.min_tokens));
  }
  return absl::OkStatus();
}

absl::Status CheckTurn(const SessionTurn& turn) {
  if (turn.session_id.empty()) {
    return Invalid("session.id: it is empty");
  }
  if (turn.expected_position.has_value()) {
    return CheckInt("session.expected_position",
                    *turn.expected_position,
                    0,
                    std::numeric_limits<int64_t>::max());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckOwner(const std::string& owner) {
  if (owner.size() > kMaxOwnerLength) {
    return Invalid(fmt::format("owner: {} bytes are more than {}", owner.size(), kMaxOwnerLength));
  }
  return absl::OkStatus();
}

absl::Status CheckGenerateRequest(const GenerateRequest& request, const RequestLimits& limits) {
  RETURN_IF_ERROR(
      CheckTokens(request.embedding.has_value() ? "inputs[0]" : "prompt", request.prompt, limits));
  RETURN_IF_ERROR(CheckSampling(request.sampling, limits.vocab_size));
  RETURN_IF_ERROR(CheckStopping(request.stopping, limits.vocab_size));
  RETURN_IF_ERROR(CheckInt("output.logprobs",
                           request.output.num_logprobs,
                           -1,
                           std::min(kMaxLogprobs, limits.vocab_size)));
  RETURN_IF_ERROR(CheckInt("priority", request.priority, -100, 100));
  RETURN_IF_ERROR(CheckOwner(request.owner));
  RETURN_IF_ERROR(CheckSiblings(request));
  if (limits.has_encoder) {
    RETURN_IF_ERROR(CheckEncoded(request));
  }
  RETURN_IF_ERROR(CheckContinuations(request, limits));
  RETURN_IF_ERROR(CheckEmbedding(request, limits));
  RETURN_IF_ERROR(CheckConstraint(request));
  if (request.turn.has_value()) {
    RETURN_IF_ERROR(CheckTurn(*request.turn));
  }
  if (request.queue_timeout <= absl::ZeroDuration()) {
    return Invalid(fmt::format("queue_timeout: {} is not above 0",
                               absl::FormatDuration(request.queue_timeout)));
  }
  return absl::OkStatus();
}

}  // namespace ringserve
