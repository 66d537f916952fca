#include "server/signals.h"

#include <csignal>
#include <pthread.h>
#include <unistd.h>

namespace ringserve {
namespace {

constexpr int kLeaveSignal = SIGUSR2;  // ours alone: ends the thread

sigset_t WaitedSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, kLeaveSignal);
  return signals;
}

}  // namespace

StopSignals::StopSignals() {
  const sigset_t signals = WaitedSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { Run(); });
}

StopSignals::~StopSignals() {
  pthread_kill(thread_.native_handle(), kLeaveSignal);
  thread_.join();
}

int StopSignals::Wait() {
  first_.WaitForNotification();
  return signal_;
}

void StopSignals::Run() {
  const sigset_t signals = WaitedSignals();
  for (;;) {
    int signal = 0;
    sigwait(&signals, &signal);
    if (signal == kLeaveSignal) {
      return;
    }
    if (first_.HasBeenNotified()) {
      _exit(1);
    }
    if (!armed_) {
      _exit(0);
    }
    Tell(signal);
  }
}

void StopSignals::Tell(int signal) {
  const absl::MutexLock lock(&mutex_);
  if (!first_.HasBeenNotified()) {
    signal_ = signal;
    first_.Notify();
  }
}

void StopSignals::Fail() {
  Tell(0);
}

}  // namespace ringserve
