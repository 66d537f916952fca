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

// Takes the events of the one request.
class Taker final : public EventTarget {
 public:
  Taker(ServedModel& model, StreamOptions options, const OnEvent& on_event)
      : engine_(*model.engine),
        buffer_(*model.tokenizer, std::move(options)),
        on_event_(on_event) {}

  void set_request_id(uint64_t request_id) {
    request_id_ = request_id;
    buffer_.set_request_id(std::to_string(request_id));
  }

  void Push(TokenEvent&& event) override { buffer_.Push(std::move(event)); }

  void Flush() override {
    while (const v1::GenerateEvent* event = buffer_.Take()) {
      if (wanted_ && !on_event_(*event)) {
        wanted_ = false;
        engine_.Cancel(request_id_);
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
  EnginePort& engine_;
  EventBuffer buffer_;
  const OnEvent& on_event_;
  uint64_t request_id_ = 0;
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
  const uint64_t request_id = pump.Register(taker);
  taker.set_request_id(request_id);
  converted.request.request_id = request_id;
  converted.request.deadline = deadline;
  if (absl::Status status = model->engine->Submit(std::move(converted.request)); !status.ok()) {
    pump.Unregister(request_id);
    return status;
  }
  return taker.Wait();
}

}  // namespace ringserve
