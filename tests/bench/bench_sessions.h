// What sessions promise, measured through a whole engine on the CPU, on small random models: what a
// turn costs whose session lay in host memory, what a fork of a long text costs, how far apart the
// tokens of running streams come while a long prompt loads, and how soon a cancelled request is
// gone. Every line stands beside what it is to be compared with, of the same run.
#pragma once

#include <cstdint>
#include <string>

#include "engine/base/status.h"

namespace ringserve {

struct SessionsBenchOptions {
  int32_t num_threads = 0;        // 0: one per core
  int32_t rounds = 5;             // medians are over so many
  int64_t resume_tokens = 4096;   // of the session that comes back
  std::string disk_folder = ".";  // where files are made, and removed
  int64_t long_tokens = 100'000;  // of the prompt that loads and the session that forks
  int32_t max_token_gap_ms = 50;  // the bound
  int32_t num_cancels = 10'000;
};

// Time per GiB that comes back from host memory, beside copying such blocks with all threads, and
// beside reading the tokens again.
absl::Status BenchResume(const SessionsBenchOptions& options);

// Bytes of a session that goes to a file, beside writing and syncing a plain one of that size, and
// that comes back, beside reading one that the system has forgotten as well.
absl::Status BenchDisk(const SessionsBenchOptions& options);

// 16 running streams while a prompt of long_tokens arrives, in chunks of any size and in chunks
// that keep the bound; then forks of the session that read it.
absl::Status BenchGap(const SessionsBenchOptions& options);

// Cancels at random moments of random requests: steps until the request is gone.
absl::Status BenchCancels(const SessionsBenchOptions& options);

}  // namespace ringserve
