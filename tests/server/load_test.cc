// Many clients at once: more than there are places, and many that do not read.
#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <unistd.h>
#include <variant>
#include <vector>

#include <absl/cleanup/cleanup.h>
#include <absl/synchronization/blocking_counter.h>
#include <absl/synchronization/notification.h>

#include "tests/support/hang.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

// Waits for the end of a request that is put to the engine itself.
struct Waiter final : EventTarget {
  void Push(TokenEvent&& event) override {
    has_ended = has_ended || std::holds_alternative<FinishedEvent>(event.event) ||
                std::holds_alternative<FailedEvent>(event.event);
  }

  void Flush() override {
    if (has_ended) {
      done.Notify();
    }
  }

  bool has_ended = false;
  absl::Notification done;
};

// One stream, read as fast as it comes.
class Reader final : public grpc::ClientReadReactor<v1::GenerateEvent> {
 public:
  // `refused`, if there, counts those that end with RESOURCE_EXHAUSTED.
  Reader(v1::Inference::Stub& stub,
         v1::GenerateRequest request,
         absl::BlockingCounter& done,
         absl::BlockingCounter* refused = nullptr)
      : request_(std::move(request)), done_(done), refused_(refused) {
    context_.set_deadline(absl::ToChronoTime(started_ + absl::Seconds(120)));
    stub.async()->Generate(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (ok) {
      num_tokens_ += event_.delta().token_ids_size();
      StartRead(&event_);
    }
  }

  void OnDone(const grpc::Status& status) override {
    status_ = status;
    took_ = absl::Now() - started_;
    if (refused_ != nullptr && status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
      refused_->DecrementCount();
    }
    done_.DecrementCount();
  }

  const grpc::Status& status() const { return status_; }

  int64_t num_tokens() const { return num_tokens_; }

  // As the client saw it, from its start to its end.
  absl::Duration took() const { return took_; }

 private:
  const absl::Time started_ = absl::Now();
  absl::Duration took_;
  grpc::ClientContext context_;
  const v1::GenerateRequest request_;
  absl::BlockingCounter& done_;
  absl::BlockingCounter* const refused_;
  v1::GenerateEvent event_;
  int64_t num_tokens_ = 0;
  grpc::Status status_;
};

// The engine's thread stands still in a step.
TEST_CASE("a full queue refuses without waiting for the engine") {
  constexpr int kCalls = 1000;
  absl::Notification begun;
  absl::Notification over;
  TestServer server;
  const absl::Cleanup release = [&over] {
    if (!over.HasBeenNotified()) {
      over.Notify();
    }
  };
  EngineConfig config = SmallFairytaleConfig();
  config.scheduler.max_batch = 16;
  config.scheduler.max_queue = 256;
  server.ServeReal(config);
  EnginePort& engine = *server.models().models().front()->engine;
  Waiter hung;
  GenerateRequest hanging;
  hanging.request_id = server.pump().Register(hung);
  hanging.prompt = {1, 2, 3};
  hanging.stopping.max_tokens = 1;
  hanging.stopping.stop_condition = std::make_unique<Hang>(begun, over);
  REQUIRE(engine.Submit(std::move(hanging)).ok());
  begun.WaitForNotification();
  const int64_t steps = engine.load().steps;

  const auto stub = v1::Inference::NewStub(server.channel());
  constexpr int kPlaces = 256 + 16 - 1;
  absl::BlockingCounter done(kCalls);
  absl::BlockingCounter refused(kCalls - kPlaces);
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < kCalls; ++i) {
    readers.push_back(
        std::make_unique<Reader>(*stub, TextRequest("Once upon a time", 2), done, &refused));
  }
  refused.Wait();
  CHECK_FALSE(over.HasBeenNotified());
  CHECK(engine.load().steps == steps);
  over.Notify();
  done.Wait();
  int num_refused = 0;
  for (const auto& reader : readers) {
    if (!reader->status().ok()) {
      ++num_refused;
      CHECK(reader->status().error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
      CHECK_FALSE(reader->status().error_details().empty());  // RetryInfo
    }
  }
  CHECK(num_refused == kCalls - kPlaces);
  hung.done.WaitForNotification();
}

// Holds the pump's thread, and with it the table of live requests.
struct HeldTarget final : EventTarget {
  void Push(TokenEvent&& /*event*/) override {
    begun.Notify();
    over.WaitForNotification();
  }

  void Flush() override { flushed.Notify(); }

  absl::Notification begun;
  absl::Notification over;
  absl::Notification flushed;
};

// Nothing but the refusal itself stands between a call and its refusal: neither the engine, nor the
// pump, nor the work on the request.
TEST_CASE("a full queue refuses while the engine and the pump are held") {
  constexpr int kCalls = 200;
  absl::Notification begun;
  absl::Notification over;
  HeldTarget held;
  std::vector<std::unique_ptr<Waiter>> waiters;
  TestServer server;
  const absl::Cleanup release = [&] {
    for (absl::Notification* const end : {&over, &held.over}) {
      if (!end->HasBeenNotified()) {
        end->Notify();
      }
    }
    for (const auto& waiter : waiters) {
      waiter->done.WaitForNotification();
    }
    held.flushed.WaitForNotification();
  };
  EngineConfig config = SmallFairytaleConfig();
  config.scheduler.max_batch = 2;
  config.scheduler.max_queue = 3;
  server.ServeReal(config);
  EnginePort& engine = *server.models().models().front()->engine;
  const uint64_t held_id = server.pump().Register(held);
  const auto submit = [&](std::unique_ptr<StopCondition> stop) {
    GenerateRequest request;
    request.request_id = server.pump().Register(*waiters.emplace_back(std::make_unique<Waiter>()));
    request.prompt = {1, 2, 3};
    request.stopping.max_tokens = 1;
    request.stopping.stop_condition = std::move(stop);
    REQUIRE(engine.Submit(std::move(request)).ok());
  };
  submit(std::make_unique<Hang>(begun, over));
  begun.WaitForNotification();
  for (int i = 0; i < 4; ++i) {
    submit(nullptr);
  }
  std::vector<TokenEvent> events = {{.request_id = held_id, .event = FinishedEvent{}}};
  server.pump().Publish(events);
  held.begun.WaitForNotification();

  const auto stub = v1::Inference::NewStub(server.channel());
  absl::BlockingCounter done(kCalls);
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < kCalls; ++i) {
    v1::GenerateRequest request = TextRequest("Once upon a time", 2);
    if (i % 2 == 0) {
      request.mutable_sampling()->set_temperature(-1);  // nobody has looked
    }
    readers.push_back(std::make_unique<Reader>(*stub, std::move(request), done));
  }
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(120)));
  v1::EmbedRequest embed;
  embed.add_inputs()->set_text("a fox");
  v1::EmbedResponse embedding;
  CHECK(stub->Embed(&context, embed, &embedding).error_code() ==
        grpc::StatusCode::RESOURCE_EXHAUSTED);
  done.Wait();
  CHECK_FALSE(over.HasBeenNotified());
  CHECK_FALSE(held.over.HasBeenNotified());
  for (const auto& reader : readers) {
    CHECK(reader->status().error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
    CHECK_FALSE(reader->status().error_details().empty());  // RetryInfo
  }
}

TEST_CASE("of a flood of calls each ends well or is told to come back") {
  TestServer server;
  EngineConfig config = SmallFairytaleConfig();
  config.scheduler.max_batch = 16;
  config.scheduler.max_queue = 256;
  server.ServeReal(config);
  constexpr int kCalls = 1000;
  const auto stub = v1::Inference::NewStub(server.channel());
  absl::BlockingCounter done(kCalls);
  std::vector<std::unique_ptr<Reader>> readers;
  for (int i = 0; i < kCalls; ++i) {
    readers.push_back(std::make_unique<Reader>(*stub, TextRequest("Once upon a time", 2), done));
  }
  done.Wait();
  std::map<grpc::StatusCode, int> counts;
  absl::Duration slowest_refusal;
  for (const auto& reader : readers) {
    ++counts[reader->status().error_code()];
    if (reader->status().ok()) {
      CHECK(reader->num_tokens() == 2);
    } else {
      CHECK_FALSE(reader->status().error_details().empty());  // RetryInfo
      slowest_refusal = std::max(slowest_refusal, reader->took());
    }
  }
  CHECK(counts[grpc::StatusCode::OK] + counts[grpc::StatusCode::RESOURCE_EXHAUSTED] == kCalls);
  CHECK(counts[grpc::StatusCode::OK] >= 256);
  // Of a thousand calls that begin at once on the cores that serve them.
  WARN("the slowest refusal took " << absl::FormatDuration(slowest_refusal));
  // And the server is as before.
  CHECK(Generate(server.channel(), TextRequest("Once upon a time", 2)).status.ok());
}

int64_t ResidentBytes() {
  std::ifstream in("/proc/self/statm");
  int64_t all = 0;
  int64_t resident = 0;
  in >> all >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST_CASE("a hundred clients that stop reading are paused, and cost little") {
  TestServer server;
  ScriptedEngine& engine = server.ServeScripted();
  constexpr size_t kClients = 100;
  // Without the probe that would widen the windows, and so the clients' own memory, on a fast link.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  const auto stub = v1::Inference::NewStub(
      grpc::CreateCustomChannel(server.address(), grpc::InsecureChannelCredentials(), arguments));
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>>> streams;
  std::vector<uint64_t> ids;
  for (size_t i = 0; i < kClients; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    streams.push_back(stub->Generate(contexts.back().get(), TextRequest("a", 1'000'000)));
    ids.push_back(engine.AwaitRequest(i));
    engine.Say(ids.back(), AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
  }
  server.AwaitPump();
  const int64_t before = ResidentBytes();
  std::vector<uint64_t> running = ids;
  for (int64_t step = 0; !running.empty(); ++step) {
    REQUIRE(step < 200'000);
    std::vector<uint64_t> still;
    for (const uint64_t id : running) {
      if (!engine.is_paused(id)) {
        engine.SayToken(id, step, static_cast<int32_t>(300 + step % 3000));
        still.push_back(id);
      }
    }
    running.swap(still);
    if (step % 64 == 0) {
      server.AwaitPump();
    }
  }
  server.AwaitPump();
  const int64_t grown = ResidentBytes() - before;
  INFO("grew by " << grown << " bytes, the clients' windows included");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(grown < 32 << 20);
#endif
  // Who reads is served meanwhile.
  const auto other_stub = v1::Inference::NewStub(server.NewChannel());
  grpc::ClientContext other_context;
  const auto other = other_stub->Generate(&other_context, TextRequest("b", 1));
  const uint64_t other_id = engine.AwaitRequest(kClients);
  engine.Say(other_id, AcceptedEvent{.prompt_tokens = 1, .cached_tokens = 0, .queued = {}});
  engine.SayToken(other_id, 0, 400);
  FinishedEvent finished;
  finished.usage.completion_tokens = 1;
  engine.Say(other_id, finished);
  CHECK(ReadAll(*other).token_ids() == std::vector<int32_t>{400});
  // Who goes away is cancelled.
  for (const auto& context : contexts) {
    context->TryCancel();
  }
  for (const uint64_t id : ids) {
    engine.AwaitCancel(id);
    engine.SayFailed(id, absl::CancelledError("cancelled"));
  }
  for (const auto& stream : streams) {
    CHECK(stream->Finish().error_code() == grpc::StatusCode::CANCELLED);
  }
}

}  // namespace
}  // namespace ringserve
