// Requests that score continuations and that embed inputs.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/request.h"

namespace ringserve {

// The sibling of each further continuation, or input, has the next id.
inline GenerateRequest ScoreRequest(uint64_t first_id,
                                    const std::vector<int32_t>& prompt,
                                    const std::vector<std::vector<int32_t>>& continuations) {
  GenerateRequest request;
  request.request_id = first_id;
  request.prompt = prompt;
  request.output.num_logprobs = 1;
  request.continuation = continuations.front();
  for (size_t i = 1; i < continuations.size(); ++i) {
    Sibling& sibling = request.siblings.emplace_back();
    sibling.request_id = first_id + i;
    sibling.continuation = continuations[i];
  }
  return request;
}

inline GenerateRequest EmbedRequest(uint64_t first_id,
                                    const std::vector<std::vector<int32_t>>& inputs,
                                    const EmbeddingParams& params) {
  GenerateRequest request;
  request.request_id = first_id;
  request.prompt = inputs.front();
  request.embedding = params;
  for (size_t i = 1; i < inputs.size(); ++i) {
    Sibling& sibling = request.siblings.emplace_back();
    sibling.request_id = first_id + i;
    sibling.prompt = inputs[i];
  }
  return request;
}

}  // namespace ringserve
