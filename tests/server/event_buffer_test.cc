// What a stream says, merged or not, against what the engine said.
#include "server/event_buffer.h"

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/catch.h"

namespace ringserve {
namespace {

const Tokenizer& Fairytale() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      *Tokenizer::Load(std::string(RINGSERVE_SOURCE_DIR) + "/models/fairytale-5m");
  return *tokenizer;
}

StreamOptions Options() {
  StreamOptions options;
  options.model.push_back('m');
  return options;
}

StreamOptions WithLogprobs(bool logprobs) {
  StreamOptions options = Options();
  options.logprobs = logprobs;
  return options;
}

TokenEvent Token(int64_t index, int32_t token_id) {
  SampledTokenEvent event;
  event.index = index;
  event.token.token = {.token_id = token_id, .logprob = -1.0F};
  event.token.alternatives = {{.token_id = token_id, .logprob = -1.0F}};
  return {.request_id = 1, .event = std::move(event)};
}

struct Heard {
  std::string text;
  std::vector<int32_t> token_ids;
  int64_t num_scored = 0;
  int64_t num_events = 0;
};

void Drain(EventBuffer& buffer, Heard& heard) {
  while (const v1::GenerateEvent* event = buffer.Take()) {
    CHECK(event->sequence() == static_cast<uint64_t>(heard.num_events++));
    if (!event->has_delta()) {
      continue;
    }
    CHECK(event->delta().first_index() == static_cast<int64_t>(heard.token_ids.size()));
    heard.text += event->delta().text();
    heard.num_scored += event->delta().tokens_size();
    for (const int32_t id : event->delta().token_ids()) {
      heard.token_ids.push_back(id);
    }
  }
  CHECK(buffer.empty());
  CHECK(buffer.pending_bytes() == 0);
}

TEST_CASE("however a reader lags it hears the same") {
  const std::string text = "Once upon a time, na\xc3\xafve \xe2\x82\xac\xf0\x9f\xa6\x8a there was";
  const std::vector<int32_t> ids = *Fairytale().Encode(text, {});
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    EventBuffer buffer(Fairytale(), WithLogprobs(round % 2 == 0));
    Heard heard;
    for (size_t i = 0; i < ids.size(); ++i) {
      buffer.Push(Token(static_cast<int64_t>(i), ids[i]));
      if (random() % 4 == 0) {
        Drain(buffer, heard);
      }
    }
    buffer.Push({.request_id = 1, .event = FinishedEvent{}});
    Drain(buffer, heard);
    CHECK(heard.text == text);
    CHECK(heard.token_ids == ids);
    CHECK(heard.num_scored == (round % 2 == 0 ? static_cast<int64_t>(ids.size()) : 0));
    REQUIRE(buffer.final_status().has_value());
    CHECK(buffer.final_status()->ok());
  }
}

TEST_CASE("a reader that never comes meets few messages, none over the clients' limit") {
  EventBuffer buffer(Fairytale(), WithLogprobs(true));
  for (int i = 0; i < 100'000; ++i) {
    buffer.Push(Token(i, 300));
  }
  CHECK(buffer.pending_bytes() > 100'000);
  int num_events = 0;
  int64_t num_tokens = 0;
  while (const v1::GenerateEvent* event = buffer.Take()) {
    ++num_events;
    num_tokens += event->delta().token_ids_size();
    CHECK(event->ByteSizeLong() < 1 << 20);
  }
  CHECK(num_tokens == 100'000);
  CHECK(num_events < 100);
}

TEST_CASE("progress is merged, and nothing else overtakes") {
  EventBuffer buffer(Fairytale(), Options());
  for (int64_t read = 1; read <= 5; ++read) {
    buffer.Push(
        {.request_id = 1, .event = ProgressEvent{.prefilled_tokens = read, .prompt_tokens = 9}});
  }
  buffer.Push(Token(0, 300));
  buffer.Push(
      {.request_id = 1, .event = ContextNoticeEvent{.evicted_tokens = 32, .first_position = 32}});
  buffer.Push(Token(1, 301));
  std::vector<v1::GenerateEvent> events;
  while (const v1::GenerateEvent* event = buffer.Take()) {
    events.push_back(*event);
  }
  REQUIRE(events.size() == 4);
  CHECK(events[0].progress().prefilled_tokens() == 5);
  CHECK(events[1].delta().token_ids(0) == 300);
  CHECK(events[2].context_notice().first_position() == 32);
  CHECK(events[3].delta().first_index() == 1);
}

TEST_CASE("an end token is told and is not part of the text") {
  StreamOptions options = Options();
  options.end_token_ids = {0, 300};
  EventBuffer buffer(Fairytale(), options);
  buffer.Push(Token(0, 301));
  buffer.Push(Token(1, 300));
  FinishedEvent finished;
  finished.reason = FinishReason::kStopToken;
  buffer.Push({.request_id = 1, .event = finished});
  Heard heard;
  Drain(buffer, heard);
  CHECK(heard.token_ids == std::vector<int32_t>{301, 300});
  CHECK(heard.text == std::string(Fairytale().TokenBytes(301, true)));
}

TEST_CASE("an echo of one token comes without a logprob") {
  StreamOptions options = Options();
  options.echo = true;
  options.first_prompt_token = 333;
  EventBuffer buffer(Fairytale(), options);
  buffer.Push(Token(0, 301));
  const v1::GenerateEvent* event = buffer.Take();
  REQUIRE(event != nullptr);
  REQUIRE(event->prompt().tokens_size() == 1);
  CHECK(event->prompt().tokens(0).token_id() == 333);
  CHECK_FALSE(event->prompt().tokens(0).has_logprob());
  REQUIRE(buffer.Take() != nullptr);
}

TEST_CASE("a failure is the status and nothing else") {
  EventBuffer buffer(Fairytale(), Options());
  buffer.Push(
      {.request_id = 1, .event = FailedEvent{.status = absl::InternalError("x"), .usage = {}}});
  CHECK(buffer.empty());
  CHECK(buffer.final_status()->code() == absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace ringserve
