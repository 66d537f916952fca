#include "server/load_watch.h"

#include <memory>
#include <utility>

#include <absl/time/clock.h>
#include <fmt/format.h>
#include <grpcpp/alarm.h>

#include "server/status.h"
#include "server/wire.h"

namespace ringserve {

// At any time a write is in flight, or the alarm is set, or the call is finished. Owned by itself.
class LoadWatch final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  LoadWatch(LoadWatchers& watchers,
            const absl::StatusOr<absl::Duration>& interval,
            LoadWatchers::TellLoad tell)
      : watchers_(watchers),
        interval_(interval.ok() ? *interval : absl::ZeroDuration()),
        tell_(std::move(tell)) {
    absl::Status status = interval.status();
    if (status.ok()) {
      status = watchers_.Add(*this);
    }
    if (status.ok()) {
      WriteLoad();
    } else {
      Finish(ToGrpcStatus(status));
    }
  }

  void End(const absl::Status& status) {
    {
      absl::MutexLock lock(&mutex_);
      if (!end_.ok()) {
        return;
      }
      end_ = status;
      if (!waiting_) {
        return;  // OnWriteDone sees it
      }
    }
    alarm_->Cancel();  // OnAlarm sees it
  }

  void OnWriteDone(bool ok) override {
    absl::Status end;
    {
      absl::MutexLock lock(&mutex_);
      if (!ok && end_.ok()) {
        end_ = absl::CancelledError("nobody reads");
      }
      end = end_;
      if (end.ok()) {
        waiting_ = true;
        // Anew, for the last one may still be in its callback; not by assignment, which leaks in
        // gRPC 1.51.
        alarm_ = std::make_unique<grpc::Alarm>();
        alarm_->Set(absl::ToChronoTime(absl::Now() + interval_), [this](bool) { OnAlarm(); });
      }
    }
    if (!end.ok()) {
      Finish(ToGrpcStatus(end));
    }
  }

  void OnCancel() override { End(absl::CancelledError("cancelled")); }

  void OnDone() override {
    watchers_.Remove(*this);
    delete this;
  }

 private:
  void OnAlarm() {
    absl::Status end;
    {
      absl::MutexLock lock(&mutex_);
      waiting_ = false;
      end = end_;
    }
    if (end.ok()) {
      WriteLoad();
    } else {
      Finish(ToGrpcStatus(end));
    }
  }

  void WriteLoad() {
    const absl::StatusOr<v1::GetLoadResponse> load = tell_();
    if (!load.ok()) {
      Finish(ToGrpcStatus(load.status()));
      return;
    }
    message_ = SerializeMessage(*load);
    StartWrite(&message_);
  }

  LoadWatchers& watchers_;
  const absl::Duration interval_;
  const LoadWatchers::TellLoad tell_;
  absl::Mutex mutex_;
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);  // OK while it goes on
  std::unique_ptr<grpc::Alarm> alarm_;        // not null while waiting_
  grpc::ByteBuffer message_;
};

grpc::ServerWriteReactor<grpc::ByteBuffer>* LoadWatchers::Start(
    const absl::StatusOr<absl::Duration>& interval, TellLoad tell) {
  return new LoadWatch(*this, interval, std::move(tell));
}

void LoadWatchers::EndAll() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  for (LoadWatch* watch : watches_) {
    watch->End(absl::UnavailableError("the server is draining"));
  }
}

absl::Status LoadWatchers::Add(LoadWatch& watch) {
  absl::MutexLock lock(&mutex_);
  if (closed_) {
    return absl::UnavailableError("the server is draining");
  }
  if (watches_.size() >= kMaxWatchers) {
    return absl::ResourceExhaustedError(
        fmt::format("{} calls watch the load, the most that may", watches_.size()));
  }
  watches_.insert(&watch);
  return absl::OkStatus();
}

void LoadWatchers::Remove(LoadWatch& watch) {
  absl::MutexLock lock(&mutex_);
  watches_.erase(&watch);
}

}  // namespace ringserve
