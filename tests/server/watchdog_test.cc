// A step that does not end: everybody is told, health says so, and nothing waits for it.
#include "server/watchdog.h"

#include <memory>
#include <optional>
#include <spawn.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>
#include <variant>

#include <absl/cleanup/cleanup.h>
#include <absl/synchronization/notification.h>

#include "tests/support/hang.h"
#include "tests/support/raw_stream.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

const std::string kNotServing = "\x08\x02";
const std::string kServing = "\x08\x01";

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

// Every step of its takes longer than it may.
TEST_CASE("a process whose engine hangs ends with exit code 1") {
  const TempDir folder;
  const std::string address = "unix:" + folder.path() + "/socket";
  const std::string model = std::string(RINGSERVE_SOURCE_DIR) + "/models/fairytale-5m";
  std::vector<std::string> words = {RINGSERVE_PROGRAM,
                                    "serve",
                                    "--model",
                                    model,
                                    "--listen",
                                    address,
                                    "--step-timeout",
                                    "0.0001",
                                    "--log-level",
                                    "error"};
  std::vector<char*> arguments;
  for (std::string& word : words) {
    arguments.push_back(word.data());
  }
  arguments.push_back(nullptr);
  pid_t pid = 0;
  REQUIRE(posix_spawn(&pid, RINGSERVE_PROGRAM, nullptr, nullptr, arguments.data(), environ) == 0);
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  int status = 0;
  // While it starts it answers UNAVAILABLE, or not at all.
  for (pid_t ended = 0; ended == 0; ended = waitpid(pid, &status, WNOHANG)) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(30)));
    const auto reader =
        v1::Inference::NewStub(channel)->Generate(&context, TextRequest("Once upon a time", 500));
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
    }
    CHECK_FALSE(reader->Finish().ok());
  }
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 1);
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
