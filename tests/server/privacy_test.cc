// What one caller says shows nowhere else: not in what others are answered, not in logs, loads or
// usage, not in anybody's errors.
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include "ringserve/v1/control.grpc.pb.h"
#include "ringserve/v1/sessions.grpc.pb.h"
#include "tests/support/test_server.h"

namespace ringserve {
namespace {

constexpr char kIdentityHeader[] = "x-caller";
constexpr char kCanary[] = "zyqvexil";

// All that is logged while it lives, at every level.
class LogCapture {
 public:
  LogCapture() : before_(spdlog::default_logger()) {
    auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(text_);
    auto logger = std::make_shared<spdlog::logger>("capture", std::move(sink));
    logger->set_level(spdlog::level::trace);
    spdlog::set_default_logger(std::move(logger));
  }

  ~LogCapture() { spdlog::set_default_logger(before_); }

  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  std::string text() const { return text_.str(); }

 private:
  std::shared_ptr<spdlog::logger> before_;
  std::ostringstream text_;
};

class Caller {
 public:
  Caller(TestServer& server, std::string name)
      : name_(std::move(name)),
        inference_(v1::Inference::NewStub(server.channel())),
        sessions_(v1::Sessions::NewStub(server.channel())),
        control_(v1::Control::NewStub(server.channel())) {}

  // Everything that the caller hears.
  std::string Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    context.AddMetadata(kIdentityHeader, name_);
    const auto reader = inference_->Generate(&context, request);
    std::string heard;
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
      heard += event.SerializeAsString();
      text_ += event.delta().text();
      for (const v1::ScoredToken& token : event.prompt().tokens()) {
        echo_ += token.token_bytes();
      }
    }
    const grpc::Status status = reader->Finish();
    return heard + status.error_message() + status.error_details();
  }

  std::string MakeSession() {
    grpc::ClientContext context;
    context.AddMetadata(kIdentityHeader, name_);
    v1::Session out;
    REQUIRE(sessions_->Create(&context, {}, &out).ok());
    return out.id();
  }

  // What the caller can find out without generating.
  std::string LookAround(const std::string& session) {
    std::string heard;
    const auto ask = [&](auto& stub, auto method, const auto& request, auto out) {
      grpc::ClientContext context;
      context.AddMetadata(kIdentityHeader, name_);
      const grpc::Status status = (stub.*method)(&context, request, &out);
      heard += out.ShortDebugString() + status.error_message() + status.error_details();
    };
    ask(*control_, &v1::Control::Stub::GetLoad, v1::GetLoadRequest(), v1::GetLoadResponse());
    ask(*control_, &v1::Control::Stub::GetUsage, v1::GetUsageRequest(), v1::GetUsageResponse());
    ask(*sessions_,
        &v1::Sessions::Stub::List,
        v1::ListSessionsRequest(),
        v1::ListSessionsResponse());
    v1::GetSessionRequest get;
    get.set_id(session);
    ask(*sessions_, &v1::Sessions::Stub::Get, get, v1::Session());
    return heard;
  }

  // The text of all that was generated.
  const std::string& text() const { return text_; }

  // Of all prompts that were told.
  const std::string& echo() const { return echo_; }

 private:
  const std::string name_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
  std::unique_ptr<v1::Control::Stub> control_;
  std::string text_;
  std::string echo_;
};

v1::GenerateRequest TurnOf(const std::string& session, const std::string& text) {
  v1::GenerateRequest request = TextRequest(text, 8);
  request.mutable_session()->set_id(session);
  return request;
}

TEST_CASE("a canary shows nowhere but in its own conversation") {
  const LogCapture log;
  ServerOptions options = TestServer::DefaultOptions();
  options.identity_header = kIdentityHeader;
  TestServer server(options);
  EngineConfig config = SmallFairytaleConfig();
  config.sessions.max_sessions = 4;
  config.sessions.share_prefixes = true;
  config.speculation.method = SpeculationMethod::kLookup;
  config.memory.device_bytes = 64 << 20;
  server.ServeReal(config);
  Caller ann(server, "ann");
  Caller bob(server, "bob");
  const std::string canary = std::string("Once upon a time ") + kCanary + " and " + kCanary + " ";
  const std::string session = ann.MakeSession();

  v1::GenerateRequest echoed = TextRequest(canary, 8);
  echoed.mutable_output()->set_echo(true);
  ann.Generate(echoed);
  CHECK(ann.echo().find(kCanary) != std::string::npos);  // as it must, to her
  ann.Generate(TurnOf(session, canary + canary + canary));

  // Errors, her own and others', do not quote what was said.
  std::vector<std::string> errors;
  v1::GenerateRequest bad = TextRequest(canary + "\xff", 8);
  errors.push_back(ann.Generate(bad));
  bad = TextRequest(canary, 8);
  bad.mutable_sampling()->set_temperature(-1);
  bad.mutable_stopping()->add_stop_strings(kCanary);
  errors.push_back(ann.Generate(bad));
  bad = TextRequest("", 8);
  for (int i = 0; i < 300; ++i) {
    bad.mutable_text()->append(canary);  // too long
  }
  errors.push_back(ann.Generate(bad));
  bad = TurnOf(session, canary);
  bad.mutable_session()->set_expected_position(1);
  errors.push_back(ann.Generate(bad));
  for (const std::string& error : errors) {
    CAPTURE(error);
    CHECK_FALSE(error.empty());
    CHECK(error.find(kCanary) == std::string::npos);
  }

  // Bob begins as she did, guesses her session, and asks for whatever there is.
  for (uint64_t seed = 0; seed < 8; ++seed) {
    v1::GenerateRequest request = TextRequest("Once upon a time ", 40);
    request.mutable_sampling()->set_seed(seed);
    request.mutable_output()->set_logprobs(5);
    request.mutable_output()->set_echo(seed % 2 == 0);
    const std::string heard = bob.Generate(request);
    CHECK(heard.find(kCanary) == std::string::npos);
  }
  const std::string stolen = bob.Generate(TurnOf(session, "And then "));
  CHECK(stolen.find("there is no session") != std::string::npos);
  CHECK(stolen.find(kCanary) == std::string::npos);
  CHECK((bob.text() + bob.echo()).find(kCanary) == std::string::npos);
  CHECK(bob.LookAround(session).find(kCanary) == std::string::npos);
  CHECK(ann.LookAround(session).find(kCanary) == std::string::npos);
  CHECK(log.text().find(kCanary) == std::string::npos);
}

}  // namespace
}  // namespace ringserve
