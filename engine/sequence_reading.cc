// A sequence whose tokens are given: what is wanted of their rows, and what comes of it.
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "engine/base/check.h"
#include "engine/sequence.h"

namespace ringserve {

bool Sequence::IsScored(int64_t position) const {
  const int64_t index = ScoredIndex(position);
  return request_.continuation.empty() ? request_.output.prompt_logprobs && index >= 1
                                       : index >= usage_.prompt_tokens;
}

int64_t Sequence::ScoredIndex(int64_t position) const {
  return position + 1 - start_ - (pending_.has_value() ? 1 : 0);
}

SampleRow Sequence::RowToScore(int64_t position) const {
  const int64_t index = ScoredIndex(position);
  SampleRow row;
  row.position = position + 1;
  row.forced_token = index < usage_.prompt_tokens
                         ? request_.prompt[static_cast<size_t>(index)]
                         : request_.continuation[static_cast<size_t>(index - usage_.prompt_tokens)];
  row.num_logprobs = std::max(request_.output.num_logprobs, 0);
  return row;
}

void Sequence::TakeGiven(const ScoredToken& token, absl::Time now) {
  RS_DCHECK(token.token.token_id ==
            request_.continuation[static_cast<size_t>(usage_.completion_tokens)]);
  if (usage_.completion_tokens == 0) {
    first_token_time_ = now;
  }
  ++usage_.completion_tokens;
  digest_.Add(token.token.token_id, token.token.logprob);
}

bool Sequence::IsPooled(int64_t position) const {
  return is_embedding() && (request_.embedding->pooling == Pooling::kMean ||
                            position + 1 == static_cast<int64_t>(rows_.size()));
}

// In the order of the rows, so that the sums do not depend on how the prompt was cut.
void Sequence::TakeHidden(std::span<const float> rows, size_t hidden_dim) {
  pooled_.resize(hidden_dim, 0.0);
  for (size_t i = 0; i < rows.size(); ++i) {
    pooled_[i % hidden_dim] += static_cast<double>(rows[i]);
  }
  num_pooled_ += static_cast<int64_t>(rows.size() / hidden_dim);
}

std::vector<float> Sequence::Embedding() const {
  RS_CHECK(num_pooled_ > 0);
  double divisor = static_cast<double>(num_pooled_);
  if (request_.embedding->normalize) {
    double squares = 0;
    for (const double sum : pooled_) {
      squares += sum * sum;
    }
    divisor = squares > 0 ? std::sqrt(squares) : 1.0;
  }
  std::vector<float> values;
  for (const double sum : pooled_) {
    values.push_back(static_cast<float>(sum / divisor));
    if (!std::isfinite(values.back())) {
      return {};
    }
  }
  return values;
}

}  // namespace ringserve
