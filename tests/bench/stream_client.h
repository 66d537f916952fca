// A client in a process of its own, so that its work is not counted as the server's: many streams
// of completions over one connection, and how far apart their tokens come.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "engine/base/status.h"

namespace ringserve {

// What reading the streams came to. Plain bytes: it crosses a pipe.
struct StreamsReport {
  int64_t num_tokens = 0;
  double seconds = 0;  // from the first token of any stream to the last
  double gap_p50_ms = 0;
  double gap_p99_ms = 0;
  double gap_max_ms = 0;
  int32_t num_refused = 0;  // RESOURCE_EXHAUSTED
  int32_t num_failed = 0;   // in another way
};

// `num_streams` at once, on one connection, read by one thread until all have ended.
StreamsReport ReadStreams(const std::string& target, int32_t num_streams, int32_t num_tokens);

// Both ends of a conversation with a child process. Messages are plain structs.
class ChildProcess {
 public:
  class Link {
   public:
    Link(int in, int out) : in_(in), out_(out) {}

    // False if the other end is gone.
    template <typename T>
    bool Write(const T& value) const {
      return WriteBytes(&value, sizeof(value));
    }

    template <typename T>
    bool Read(T& value) const {
      return ReadBytes(&value, sizeof(value));
    }

    // The address to call, from parent to child.
    bool WriteTarget(const std::string& target) const;
    bool ReadTarget(std::string& target) const;

   private:
    bool WriteBytes(const void* bytes, size_t size) const;
    bool ReadBytes(void* bytes, size_t size) const;

    int in_;
    int out_;
  };

  // Forks: this process must have one thread. The child runs `body` and leaves without destructors
  // of what it shares with its parent; the parent runs `parent`, then waits for the child.
  static absl::Status Run(const std::function<void(const Link&)>& body,
                          const std::function<absl::Status(const Link&)>& parent);
};

}  // namespace ringserve
