#include "engine/request.h"

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/support/catch.h"

namespace ringserve {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr RequestLimits kLimits = {
    .vocab_size = 100, .max_prompt_tokens = 8, .max_context_tokens = 8};

GenerateRequest Plain() {
  GenerateRequest request;
  request.prompt = {1, 2, 3};
  return request;
}

struct Case {
  std::function<void(GenerateRequest&)> change;
  std::string message;
};

// Each breaks one rule and names it.
const std::vector<Case>& BadCases() {
  static const std::vector<Case> cases = {
      {[](auto& r) { r.prompt.clear(); }, "prompt: it has no tokens, at least 1 is needed"},
      {[](auto& r) { r.prompt.assign(9, 1); },
       "prompt: 9 tokens are more than 8, what the context holds"},
      {[](auto& r) { r.prompt[1] = -1; }, "prompt[1]: token id -1 is not in [0, 100)"},
      {[](auto& r) { r.prompt[2] = 100; }, "prompt[2]: token id 100 is not in [0, 100)"},
      {[](auto& r) { r.sampling.temperature = kNan; },
       "sampling.temperature: nan is not in [0, 100]"},
      {[](auto& r) { r.sampling.temperature = -0.5F; },
       "sampling.temperature: -0.5 is not in [0, 100]"},
      {[](auto& r) { r.sampling.temperature = 100.5F; },
       "sampling.temperature: 100.5 is not in [0, 100]"},
      {[](auto& r) { r.sampling.temperature = kInf; },
       "sampling.temperature: inf is not in [0, 100]"},
      {[](auto& r) { r.sampling.top_k = -1; }, "sampling.top_k: -1 is not in [0, 100]"},
      {[](auto& r) { r.sampling.top_k = 101; }, "sampling.top_k: 101 is not in [0, 100]"},
      {[](auto& r) { r.sampling.top_p = 0; }, "sampling.top_p: 0 is not in (0, 1]"},
      {[](auto& r) { r.sampling.top_p = 1.5F; }, "sampling.top_p: 1.5 is not in (0, 1]"},
      {[](auto& r) { r.sampling.top_p = kNan; }, "sampling.top_p: nan is not in (0, 1]"},
      {[](auto& r) { r.sampling.min_p = -0.25F; }, "sampling.min_p: -0.25 is not in [0, 1]"},
      {[](auto& r) { r.sampling.min_p = 1.25F; }, "sampling.min_p: 1.25 is not in [0, 1]"},
      {[](auto& r) { r.sampling.min_p = kNan; }, "sampling.min_p: nan is not in [0, 1]"},
      {[](auto& r) { r.sampling.repetition_penalty = 0; },
       "sampling.repetition_penalty: 0 is not in (0, 10]"},
      {[](auto& r) { r.sampling.repetition_penalty = -1; },
       "sampling.repetition_penalty: -1 is not in (0, 10]"},
      {[](auto& r) { r.sampling.repetition_penalty = 10.5F; },
       "sampling.repetition_penalty: 10.5 is not in (0, 10]"},
      {[](auto& r) { r.sampling.repetition_penalty = kNan; },
       "sampling.repetition_penalty: nan is not in (0, 10]"},
      {[](auto& r) { r.sampling.presence_penalty = 2.5F; },
       "sampling.presence_penalty: 2.5 is not in [-2, 2]"},
      {[](auto& r) { r.sampling.presence_penalty = kNan; },
       "sampling.presence_penalty: nan is not in [-2, 2]"},
      {[](auto& r) { r.sampling.frequency_penalty = -2.5F; },
       "sampling.frequency_penalty: -2.5 is not in [-2, 2]"},
      {[](auto& r) { r.sampling.frequency_penalty = -kInf; },
       "sampling.frequency_penalty: -inf is not in [-2, 2]"},
      {[](auto& r) {
         r.sampling.logit_bias = {{5, 1.0F}, {100, 1.0F}};
       },
       "sampling.logit_bias[1]: token id 100 is not in [0, 100)"},
      {[](auto& r) {
         r.sampling.logit_bias = {{-5, 1.0F}};
       },
       "sampling.logit_bias[0]: token id -5 is not in [0, 100)"},
      {[](auto& r) {
         r.sampling.logit_bias = {{5, 100.5F}};
       },
       "sampling.logit_bias[0]: bias 100.5 is not in [-100, 100] and not -inf"},
      {[](auto& r) {
         r.sampling.logit_bias = {{5, kInf}};
       },
       "sampling.logit_bias[0]: bias inf is not in [-100, 100] and not -inf"},
      {[](auto& r) {
         r.sampling.logit_bias = {{5, kNan}};
       },
       "sampling.logit_bias[0]: bias nan is not in [-100, 100] and not -inf"},
      {[](auto& r) {
         r.sampling.logit_bias = {{5, 1.0F}, {6, 1.0F}, {5, 1.0F}};
       },
       "sampling.logit_bias: token id 5 is named twice"},
      {[](auto& r) {
         r.sampling.logit_bias.assign(1025, {5, 1.0F});
       },
       "sampling.logit_bias: 1025 entries are more than 1024"},
      {[](auto& r) { r.stopping.max_tokens = 0; },
       "stopping.max_tokens: 0 is not in [1, 2147483647]"},
      {[](auto& r) { r.stopping.max_tokens = std::numeric_limits<int32_t>::min(); },
       "stopping.max_tokens: -2147483648 is not in [1, 2147483647]"},
      {[](auto& r) { r.stopping.min_tokens = -1; }, "stopping.min_tokens: -1 is not in [0, 16]"},
      {[](auto& r) { r.stopping.min_tokens = 17; }, "stopping.min_tokens: 17 is not in [0, 16]"},
      {[](auto& r) {
         r.stopping.stop_token_ids = {0, 100};
       },
       "stopping.stop_token_ids[1]: token id 100 is not in [0, 100)"},
      {[](auto& r) { r.stopping.stop_token_ids = {-1}; },
       "stopping.stop_token_ids[0]: token id -1 is not in [0, 100)"},
      {[](auto& r) { r.stopping.stop_token_ids.assign(1025, 1); },
       "stopping.stop_token_ids: 1025 entries are more than 1024"},
      {[](auto& r) { r.output.num_logprobs = -2; }, "output.logprobs: -2 is not in [-1, 20]"},
      {[](auto& r) { r.output.num_logprobs = 21; }, "output.logprobs: 21 is not in [-1, 20]"},
      {[](auto& r) { r.priority = 101; }, "priority: 101 is not in [-100, 100]"},
      {[](auto& r) { r.priority = -101; }, "priority: -101 is not in [-100, 100]"},
      {[](auto& r) { r.queue_timeout = absl::ZeroDuration(); }, "queue_timeout: 0 is not above 0"},
      {[](auto& r) { r.queue_timeout = -absl::Seconds(1); }, "queue_timeout: -1s is not above 0"},
  };
  return cases;
}

TEST_CASE("a request that breaks a rule is told which") {
  for (const Case& test : BadCases()) {
    GenerateRequest request = Plain();
    test.change(request);
    const absl::Status status = CheckGenerateRequest(request, kLimits);
    CAPTURE(test.message);
    REQUIRE(absl::IsInvalidArgument(status));
    REQUIRE(std::string(status.message()) == test.message);
  }
}

TEST_CASE("the ends of every range are inside") {
  const std::vector<std::function<void(GenerateRequest&)>> good = {
      [](auto&) {},
      [](auto& r) { r.prompt.assign(8, 99); },
      [](auto& r) { r.prompt = {0}; },
      [](auto& r) { r.sampling.temperature = 0; },
      [](auto& r) { r.sampling.temperature = 100; },
      [](auto& r) { r.sampling.top_k = 100; },
      [](auto& r) { r.sampling.top_p = std::numeric_limits<float>::denorm_min(); },
      [](auto& r) { r.sampling.min_p = 1; },
      [](auto& r) { r.sampling.repetition_penalty = 10; },
      [](auto& r) { r.sampling.presence_penalty = -2; },
      [](auto& r) { r.sampling.frequency_penalty = 2; },
      [](auto& r) {
        r.sampling.logit_bias = {{0, -kInf}, {99, 100.0F}, {1, -100.0F}};
      },
      [](auto& r) { r.stopping.max_tokens = std::numeric_limits<int32_t>::max(); },
      [](auto& r) { r.stopping.min_tokens = 16; },
      [](auto& r) { r.stopping.stop_token_ids.assign(1024, 99); },
      [](auto& r) { r.output.num_logprobs = 20; },
      [](auto& r) { r.priority = -100; },
      [](auto& r) { r.queue_timeout = absl::Nanoseconds(1); },
  };
  for (const auto& change : good) {
    GenerateRequest request = Plain();
    change(request);
    const absl::Status status = CheckGenerateRequest(request, kLimits);
    CAPTURE(status.ToString());
    REQUIRE(status.ok());
  }
  GenerateRequest request = Plain();
  request.output.num_logprobs = 4;
  REQUIRE(CheckGenerateRequest(request, {.vocab_size = 4, .max_prompt_tokens = 8}).ok());
  request.output.num_logprobs = 5;
  REQUIRE(!CheckGenerateRequest(request, {.vocab_size = 4, .max_prompt_tokens = 8}).ok());
}

}  // namespace
}  // namespace ringserve
