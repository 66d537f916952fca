// A server in this process, on a port of its own, with the real engine or a scripted one, and
// clients for it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/synchronization/notification.h>
#include <absl/time/clock.h>
#include <fmt/format.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "engine/base/check.h"
#include "ringserve/v1/inference.grpc.pb.h"
#include "server/grpc_server.h"
#include "server/served_model.h"
#include "server/stream_pump.h"
#include "tests/support/catch.h"
#include "tests/support/scripted_engine.h"

namespace ringserve {

inline EngineConfig SmallFairytaleConfig() {
  EngineConfig config;
  config.model = {.name = "fairytale-5m",
                  .path = std::string(RINGSERVE_SOURCE_DIR) + "/models/fairytale-5m"};
  config.rings = {.buffer_size = 256, .block_size = 32};
  config.attention = {.tile_size = 32};
  config.scheduler = {.prefill_size = 64, .max_batch = 2, .max_queue = 2};
  config.device = DevicePolicy::kCpu;
  config.num_threads = 1;
  return config;
}

class TestServer {
 public:
  static ServerOptions DefaultOptions() {
    ServerOptions options;
    options.listen = {"127.0.0.1:0"};
    return options;
  }

  explicit TestServer(const ServerOptions& options = DefaultOptions()) {
    auto server = GrpcServer::Start(options, models_, pump_);
    INFO(server.status().ToString());
    REQUIRE(server.ok());
    server_ = *std::move(server);
    channel_ = NewChannel();
  }

  ~TestServer() {
    if (scripted_ != nullptr) {
      scripted_->FailAll();
    }
    server_.reset();
  }

  TestServer(const TestServer&) = delete;
  TestServer& operator=(const TestServer&) = delete;

  // Serves the embedded model.
  void ServeReal(const EngineConfig& config = SmallFairytaleConfig()) {
    auto model = LoadServedModel(config, pump_, nullptr, nullptr);
    INFO(model.status().ToString());
    REQUIRE(model.ok());
    Publish(*std::move(model));
  }

  // Serves the embedded model's tokenizer over a scripted engine.
  ScriptedEngine& ServeScripted() {
    auto model = std::make_unique<ServedModel>();
    model->config = SmallFairytaleConfig();
    model->config.model.name = "scripted";
    auto tokenizer = Tokenizer::Load(model->config.model.path);
    REQUIRE(tokenizer.ok());
    model->tokenizer = *std::move(tokenizer);
    model->shape.vocab_size = 4096;
    model->shape.eos_token_ids = {0};
    auto engine = std::make_unique<ScriptedEngine>(pump_);
    ScriptedEngine& scripted = *engine;
    scripted_ = &scripted;
    model->engine = std::move(engine);
    Publish(std::move(model));
    return scripted;
  }

  // To be the only connection of its channel.
  std::shared_ptr<grpc::Channel> NewChannel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(address(), grpc::InsecureChannelCredentials(), arguments);
  }

  // Until the pump has delivered all that was said before.
  void AwaitPump() {
    class Barrier final : public EventTarget {
     public:
      void Push(TokenEvent&& /*event*/) override {}

      void Flush() override { passed.Notify(); }

      absl::Notification passed;
    };

    Barrier barrier;
    std::vector<TokenEvent> events;
    events.push_back({.request_id = pump_.Register(barrier), .event = FailedEvent{}});
    pump_.Publish(events);
    barrier.passed.WaitForNotification();
  }

  std::string address() const { return server_->sockets().front().address; }

  int port() const { return server_->sockets().front().port; }

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  GrpcServer& server() { return *server_; }

  ModelSet& models() { return models_; }

  StreamPump& pump() { return pump_; }

 private:
  void Publish(std::unique_ptr<ServedModel> model) {
    std::vector<std::unique_ptr<ServedModel>> models;
    models.push_back(std::move(model));
    models_.Publish(std::move(models));
    server_->SetServing(true);
  }

  StreamPump pump_;
  ModelSet models_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  ScriptedEngine* scripted_ = nullptr;
};

inline v1::GenerateRequest TextRequest(const std::string& text, int64_t max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  return request;
}

// A whole stream, and whether it kept the rules that all streams keep.
struct Stream {
  std::vector<v1::GenerateEvent> events;
  grpc::Status status;

  // Of completion `index`, as all below.
  std::string text(int32_t index = 0) const {
    std::string all;
    for (const v1::GenerateEvent& event : events) {
      all += event.index() == index ? event.delta().text() : "";
    }
    return all;
  }

  std::vector<int32_t> token_ids(int32_t index = 0) const {
    std::vector<int32_t> ids;
    for (const v1::GenerateEvent& event : events) {
      if (event.index() == index) {
        ids.insert(ids.end(), event.delta().token_ids().begin(), event.delta().token_ids().end());
      }
    }
    return ids;
  }

  // Default: it has not finished.
  v1::Finished finished(int32_t index = 0) const {
    for (const v1::GenerateEvent& event : events) {
      if (event.index() == index && event.has_finished()) {
        return event.finished();
      }
    }
    return {};
  }
};

// Any thread, so its checks are not Catch's.
inline Stream ReadAll(grpc::ClientReader<v1::GenerateEvent>& reader) {
  Stream out;
  v1::GenerateEvent event;

  struct Completion {
    bool is_accepted = false;
    bool has_finished = false;
    int64_t num_tokens = 0;
  };

  std::map<int32_t, Completion> completions;
  while (reader.Read(&event)) {
    RS_CHECK(event.sequence() == out.events.size());
    RS_CHECK(event.event_case() != v1::GenerateEvent::EVENT_NOT_SET);
    Completion& completion = completions[event.index()];
    RS_CHECK(completion.is_accepted != event.has_accepted());
    RS_CHECK(!completion.has_finished);
    completion.is_accepted = true;
    if (event.has_delta()) {
      RS_CHECK(event.delta().first_index() == completion.num_tokens);
      completion.num_tokens += event.delta().token_ids_size();
    }
    if (event.has_finished()) {
      completion.has_finished = true;
      RS_CHECK(event.finished().usage().completion_tokens() == completion.num_tokens);
    }
    out.events.push_back(event);
  }
  out.status = reader.Finish();
  if (out.status.ok()) {
    RS_CHECK(!completions.empty());
    for (const auto& [index, completion] : completions) {
      RS_CHECK(completion.has_finished);
    }
  }
  return out;
}

inline Stream Generate(const std::shared_ptr<grpc::Channel>& channel,
                       const v1::GenerateRequest& request) {
  const auto stub = v1::Inference::NewStub(channel);
  grpc::ClientContext context;
  // Nothing here takes long; a hang shows as DEADLINE_EXCEEDED.
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(60)));
  const auto reader = stub->Generate(&context, request);
  return ReadAll(*reader);
}

}  // namespace ringserve
