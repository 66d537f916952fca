// A step that does not end: everybody is told, health says so, and nothing waits for it.
#include "server/watchdog.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include <absl/cleanup/cleanup.h>
#include <absl/synchronization/notification.h>

#include "tests/support/raw_stream.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

const std::string kNotServing = "\x08\x02";
const std::string kServing = "\x08\x01";

// Holds the engine's thread within a step.
class Hang final : public StopCondition {
 public:
  Hang(absl::Notification& begun, absl::Notification& over) : begun_(begun), over_(over) {}

  std::optional<int32_t> OnToken(int32_t /*token_id*/) override {
    if (!begun_.HasBeenNotified()) {
      begun_.Notify();
    }
    over_.WaitForNotification();
    return std::nullopt;
  }

 private:
  absl::Notification& begun_;
  absl::Notification& over_;
};

// Who asked for the request that hangs.
class Waiter final : public EventTarget {
 public:
  void Push(TokenEvent&& event) override {
    if (auto* failed = std::get_if<FailedEvent>(&event.event)) {
      status_ = std::move(failed->status);
    }
  }

  void Flush() override {
    if (!status_.ok()) {
      done_.Notify();
    }
  }

  absl::Status Await() {
    done_.WaitForNotification();
    return status_;
  }

 private:
  absl::Status status_;
  absl::Notification done_;
};

TEST_CASE("when a step hangs every live call is told and health says so") {
  absl::Notification begun;
  absl::Notification over;
  Waiter waiter;
  TestServer server;
  const absl::Cleanup release = [&over] {
    if (!over.HasBeenNotified()) {
      over.Notify();  // whatever has failed, the engine must end
    }
  };
  server.ServeReal();
  EnginePort& engine = *server.models().models().front()->engine;
  RawStream watch(server.channel(), "/grpc.health.v1.Health/Watch", "");
  CHECK(watch.Read() == kServing);
  const auto stub = v1::Inference::NewStub(server.channel());
  grpc::ClientContext context;
  v1::GenerateRequest endless = TextRequest("Once upon a time", 200);
  endless.mutable_stopping()->set_ignore_eos(true);
  const auto reader = stub->Generate(&context, endless);
  v1::GenerateEvent event;
  REQUIRE(reader->Read(&event));
  REQUIRE(engine.load().healthy);

  GenerateRequest hanging;
  hanging.request_id = server.pump().Register(waiter);
  hanging.prompt = {1, 2, 3};
  hanging.priority = 1;
  hanging.stopping.stop_condition = std::make_unique<Hang>(begun, over);
  REQUIRE(engine.Submit(std::move(hanging)).ok());
  begun.WaitForNotification();
  absl::Notification bitten;
  std::optional<Watchdog> watchdog;
  watchdog.emplace(server.models().models(), absl::Milliseconds(40), [&](const ServedModel& model) {
    RS_CHECK(model.engine.get() == &engine);
    server.server().SetServing(false);
    bitten.Notify();
  });
  bitten.WaitForNotification();
  CHECK(watchdog->has_bitten());
  CHECK(engine.step_age() > absl::Milliseconds(40));
  CHECK_FALSE(engine.load().healthy);

  const std::string expected = "the device hangs: a step has gone on for more than 40ms";
  const absl::Status status = waiter.Await();
  CHECK(status.code() == absl::StatusCode::kInternal);
  CHECK(std::string(status.message()) == expected);
  while (reader->Read(&event)) {
  }
  const grpc::Status ended = reader->Finish();
  CHECK(ended.error_code() == grpc::StatusCode::INTERNAL);
  CHECK(ended.error_message() == expected);
  CHECK(watch.Read() == kNotServing);
  const Stream late = Generate(server.channel(), TextRequest("Once upon a time", 2));
  CHECK(late.status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(late.status.error_message() == expected);
  CHECK_FALSE(late.status.error_details().empty());  // RetryInfo

  // The engine, should it go on after all, is heard no more, and can end.
  watchdog.reset();
  over.Notify();
}

TEST_CASE("an engine that steps, or has nothing to do, is left alone") {
  TestServer server;
  server.ServeReal();
  const Watchdog watchdog(
      server.models().models(), absl::Seconds(60), [](const ServedModel&) { std::abort(); });
  CHECK(Generate(server.channel(), TextRequest("Once upon a time", 20)).status.ok());
  CHECK(server.models().models().front()->engine->step_age() < absl::Seconds(60));
  CHECK_FALSE(watchdog.has_bitten());
}

}  // namespace
}  // namespace ringserve
