#include "server/event_printer.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace ringserve {
namespace {

using Json = nlohmann::ordered_json;

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + static_cast<double>(duration.nanos()) * 1e-9;
}

template <typename Tokens>
Json TokensJson(const Tokens& tokens) {
  Json out = Json::array();
  for (const v1::ScoredToken& token : tokens) {
    out.push_back(ScoredTokenJson(token));
  }
  return out;
}

Json DeltaJson(const v1::Delta& delta) {
  Json out = {{"text", delta.text()}, {"first_index", delta.first_index()}};
  out["token_ids"] = delta.token_ids();
  if (!delta.tokens().empty()) {
    out["tokens"] = TokensJson(delta.tokens());
  }
  return out;
}

const char* ReasonName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP_TOKEN:
      return "stop_token";
    case v1::FINISH_REASON_STOP_STRING:
      return "stop_string";
    case v1::FINISH_REASON_MAX_TOKENS:
      return "max_tokens";
    case v1::FINISH_REASON_CONTEXT_FULL:
      return "context_full";
    default:
      return "unspecified";
  }
}

Json FinishedJson(const v1::Finished& finished) {
  Json out = {{"reason", ReasonName(finished.reason())}};
  if (finished.has_stop_index()) {
    out["stop_index"] = finished.stop_index();
  }
  if (finished.has_constraint_met()) {
    out["constraint_met"] = finished.constraint_met();
  }
  const v1::Usage& usage = finished.usage();
  out["usage"] = {{"prompt_tokens", usage.prompt_tokens()},
                  {"cached_tokens", usage.cached_tokens()},
                  {"reprefilled_tokens", usage.reprefilled_tokens()},
                  {"evicted_tokens", usage.evicted_tokens()},
                  {"completion_tokens", usage.completion_tokens()},
                  {"drafted_tokens", usage.drafted_tokens()},
                  {"accepted_tokens", usage.accepted_tokens()}};
  out["timings"] = {{"queued", Seconds(finished.timings().queued())},
                    {"prefill", Seconds(finished.timings().prefill())},
                    {"decode", Seconds(finished.timings().decode())}};
  out["session_position"] = finished.session_position();
  out["replay_digest"] = fmt::format("{:016x}", finished.replay_digest());
  return out;
}

}  // namespace

Json ScoredTokenJson(const v1::ScoredToken& token) {
  Json out = {{"token_id", token.token_id()}, {"text", token.token_bytes()}};
  if (token.has_logprob()) {
    out["logprob"] = token.logprob();
    Json alternatives = Json::array();
    for (const v1::Alternative& a : token.alternatives()) {
      alternatives.push_back(
          {{"token_id", a.token_id()}, {"text", a.token_bytes()}, {"logprob", a.logprob()}});
    }
    out["alternatives"] = std::move(alternatives);
  }
  return out;
}

Json EventJson(const v1::GenerateEvent& event) {
  Json head = {{"event", "unknown"}, {"sequence", event.sequence()}, {"index", event.index()}};
  Json body;
  switch (event.event_case()) {
    case v1::GenerateEvent::kAccepted:
      head["event"] = "accepted";
      body = {{"request_id", event.accepted().request_id()},
              {"model", event.accepted().model()},
              {"prompt_tokens", event.accepted().prompt_tokens()},
              {"cached_tokens", event.accepted().cached_tokens()},
              {"queued", Seconds(event.accepted().queued())}};
      break;
    case v1::GenerateEvent::kProgress:
      head["event"] = "progress";
      body = {{"prefilled_tokens", event.progress().prefilled_tokens()},
              {"prompt_tokens", event.progress().prompt_tokens()}};
      break;
    case v1::GenerateEvent::kPrompt:
      head["event"] = "prompt";
      body = {{"first_index", event.prompt().first_index()},
              {"tokens", TokensJson(event.prompt().tokens())}};
      break;
    case v1::GenerateEvent::kDelta:
      head["event"] = "delta";
      body = DeltaJson(event.delta());
      break;
    case v1::GenerateEvent::kContextNotice:
      head["event"] = "context_notice";
      body = {{"evicted_tokens", event.context_notice().evicted_tokens()},
              {"first_position", event.context_notice().first_position()}};
      break;
    case v1::GenerateEvent::kFinished:
      head["event"] = "finished";
      body = FinishedJson(event.finished());
      break;
    case v1::GenerateEvent::EVENT_NOT_SET:
      break;  // of a newer server
  }
  head.update(body);
  return head;
}

bool EventPrinter::Write(const std::string& text) {
  if (text.empty()) {
    return true;
  }
  at_line_start_ = text.back() == '\n';
  return std::fwrite(text.data(), 1, text.size(), out_) == text.size() && std::fflush(out_) == 0;
}

bool EventPrinter::Print(const v1::GenerateEvent& event) {
  if (style_ == Style::kJson) {
    const auto lenient = nlohmann::ordered_json::error_handler_t::replace;
    return Write(EventJson(event).dump(-1, ' ', false, lenient) + "\n");
  }
  if (event.has_prompt()) {
    std::string text;
    for (const v1::ScoredToken& token : event.prompt().tokens()) {
      text += token.token_bytes();
    }
    return Write(text);
  }
  return !event.has_delta() || Write(event.delta().text());
}

void EventPrinter::Finish(bool is_terminal) {
  if (is_terminal && !at_line_start_) {
    Write("\n");
  }
}

}  // namespace ringserve
