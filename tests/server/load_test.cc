// Many clients at once: more than there are places, and many that do not read.
#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

#include <absl/synchronization/blocking_counter.h>

#include "tests/support/test_server.h"

namespace ringserve {
namespace {

// One stream, read as fast as it comes.
class Reader final : public grpc::ClientReadReactor<v1::GenerateEvent> {
 public:
  Reader(v1::Inference::Stub& stub, v1::GenerateRequest request, absl::BlockingCounter& done)
      : request_(std::move(request)), done_(done) {
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
  v1::GenerateEvent event_;
  int64_t num_tokens_ = 0;
  grpc::Status status_;
};

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
