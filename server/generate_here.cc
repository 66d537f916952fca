#include <memory>
#include <string>
#include <utility>

#include <absl/synchronization/notification.h>
#include <fmt/format.h>

#include "server/convert.h"
#include "server/event_buffer.h"
#include "server/generation.h"
#include "server/served_model.h"
#include "server/stream_pump.h"

namespace ringserve {
namespace {

// Takes the events of one request.
class Taker final : public EventTarget {
 public:
  Taker(ServedModel& model, StreamOptions options, const OnEvent& on_event)
      : engine_(*model.engine),
        num_completions_(options.num_completions),
        buffer_(*model.tokenizer, std::move(options)),
        on_event_(on_event) {}

  void set_first_id(uint64_t first_id) {
    first_id_ = first_id;
    buffer_.set_request_id(std::to_string(first_id));
  }

  int32_t num_completions() const { return num_completions_; }

  void Push(TokenEvent&& event) override {
    const auto index = static_cast<int32_t>(event.request_id - first_id_);
    const bool had_failed = buffer_.has_failed();
    buffer_.Push(std::move(event), index);
    if (buffer_.has_failed() && !had_failed) {
      Cancel();
    }
  }

  void Flush() override {
    while (const v1::GenerateEvent* event = buffer_.Take()) {
      if (wanted_ && !on_event_(*event)) {
        wanted_ = false;
        Cancel();
      }
    }
    if (buffer_.final_status().has_value()) {
      done_.Notify();
    }
  }

  absl::Status Wait() {
    done_.WaitForNotification();
    return *buffer_.final_status();
  }

 private:
  void Cancel() {
    for (int32_t i = 0; i < num_completions_; ++i) {
      engine_.Cancel(first_id_ + static_cast<uint64_t>(i));
    }
  }

  EnginePort& engine_;
  const int32_t num_completions_;
  EventBuffer buffer_;
  const OnEvent& on_event_;
  uint64_t first_id_ = 0;
  bool wanted_ = true;
  absl::Notification done_;
};

}  // namespace

absl::Status GenerateHere(const EngineConfig& config,
                          const v1::GenerateRequest& request,
                          absl::Time deadline,
                          void (*progress)(double, void*),
                          const OnEvent& on_event) {
  StreamPump pump;
  ASSIGN_OR_RETURN(const auto model, LoadServedModel(config, pump, progress, nullptr));
  if (!request.model().empty() && request.model() != model->name()) {
    return absl::NotFoundError(
        fmt::format("model: \"{}\" is not \"{}\"", request.model(), model->name()));
  }
  ASSIGN_OR_RETURN(ConvertedRequest converted, ConvertRequest(request, *model));
  Taker taker(*model, std::move(converted.stream), on_event);
  const uint64_t first_id = pump.Register(taker, taker.num_completions());
  taker.set_first_id(first_id);
  NameCompletions(converted.request, first_id);
  converted.request.deadline = deadline;
  if (absl::Status status = model->engine->Submit(std::move(converted.request)); !status.ok()) {
    pump.Unregister(first_id, taker.num_completions());
    return status;
  }
  return taker.Wait();
}

}  // namespace ringserve
