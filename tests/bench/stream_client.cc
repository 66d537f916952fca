#include "tests/bench/stream_client.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <memory>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include "ringserve/v1/inference.grpc.pb.h"

namespace ringserve {
namespace {

using Clock = std::chrono::steady_clock;

struct ClientStream {
  grpc::ClientContext context;
  v1::GenerateEvent event;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateEvent>> reader;
  grpc::Status status;
  Clock::time_point last_token;
  bool has_token = false;
  bool is_finishing = false;
};

double Quantile(std::vector<double>& values, double q) {
  if (values.empty()) {
    return 0;
  }
  const auto at = static_cast<size_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(at), values.end());
  return values[at];
}

}  // namespace

StreamsReport ReadStreams(const std::string& target, int32_t num_streams, int32_t num_tokens) {
  const auto stub =
      v1::Inference::NewStub(grpc::CreateChannel(target, grpc::InsecureChannelCredentials()));
  grpc::CompletionQueue queue;
  std::vector<ClientStream> streams(static_cast<size_t>(num_streams));
  for (size_t i = 0; i < streams.size(); ++i) {
    v1::GenerateRequest request;
    request.set_text(fmt::format("Once upon a time there were {} brothers who", i + 2));
    request.mutable_stopping()->set_max_tokens(num_tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    request.mutable_sampling()->set_seed(i);
    streams[i].reader = stub->AsyncGenerate(&streams[i].context, request, &queue, &streams[i]);
  }
  StreamsReport report;
  std::vector<double> gaps;
  gaps.reserve(static_cast<size_t>(num_streams) * static_cast<size_t>(num_tokens));
  Clock::time_point first;
  Clock::time_point last;
  int32_t open = num_streams;
  void* tag = nullptr;
  bool ok = false;
  while (open > 0 && queue.Next(&tag, &ok)) {
    auto& stream = *static_cast<ClientStream*>(tag);
    if (stream.is_finishing) {
      if (stream.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
        ++report.num_refused;
      } else if (!stream.status.ok()) {
        ++report.num_failed;
      }
      --open;
      continue;
    }
    if (!ok) {
      stream.is_finishing = true;
      stream.reader->Finish(&stream.status, &stream);
      continue;
    }
    if (stream.event.has_delta()) {
      const auto now = Clock::now();
      if (report.num_tokens == 0) {
        first = now;
      }
      last = now;
      report.num_tokens += stream.event.delta().token_ids_size();
      if (stream.has_token) {
        gaps.push_back(std::chrono::duration<double, std::milli>(now - stream.last_token).count());
      }
      stream.last_token = now;
      stream.has_token = true;
    }
    stream.event.Clear();
    stream.reader->Read(&stream.event, &stream);
  }
  report.seconds = std::chrono::duration<double>(last - first).count();
  report.gap_p50_ms = Quantile(gaps, 0.5);
  report.gap_p99_ms = Quantile(gaps, 0.99);
  report.gap_max_ms = Quantile(gaps, 1.0);
  return report;
}

bool ChildProcess::Link::WriteBytes(const void* bytes, size_t size) const {
  return write(out_, bytes, size) == static_cast<ssize_t>(size);
}

bool ChildProcess::Link::ReadBytes(void* bytes, size_t size) const {
  return read(in_, bytes, size) == static_cast<ssize_t>(size);
}

bool ChildProcess::Link::WriteTarget(const std::string& target) const {
  std::array<char, 128> text{};
  std::snprintf(text.data(), text.size(), "%s", target.c_str());
  return Write(text);
}

bool ChildProcess::Link::ReadTarget(std::string& target) const {
  std::array<char, 128> text{};
  const bool read = Read(text);
  target = text.data();
  return read;
}

absl::Status ChildProcess::Run(const std::function<void(const Link&)>& body,
                               const std::function<absl::Status(const Link&)>& parent) {
  int down[2];
  int up[2];
  if (pipe(down) != 0 || pipe(up) != 0) {
    return absl::InternalError("pipe failed");
  }
  std::fflush(stdout);
  const pid_t child = fork();
  if (child < 0) {
    return absl::InternalError("fork failed");
  }
  if (child == 0) {
    close(down[1]);
    close(up[0]);
    body(Link(down[0], up[1]));
    _exit(0);
  }
  close(down[0]);
  close(up[1]);
  absl::Status status = parent(Link(up[0], down[1]));
  close(down[1]);
  waitpid(child, nullptr, 0);
  close(up[0]);
  return status;
}

}  // namespace ringserve
