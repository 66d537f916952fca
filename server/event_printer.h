// A completion's events on a terminal or as JSON lines.
#pragma once

#include <cstdio>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "ringserve/v1/inference.pb.h"

namespace ringserve {

// One object per event: "event" names its kind, the other keys are the message's. Bytes that are no
// UTF-8 come out as U+FFFD, durations in seconds, the digest in hexadecimal.
nlohmann::ordered_json EventJson(const v1::GenerateEvent& event);
nlohmann::ordered_json ScoredTokenJson(const v1::ScoredToken& token);

// Writes each event at once.
class EventPrinter {
 public:
  enum class Style { kText, kJson };

  // `out` must outlive the printer.
  EventPrinter(Style style, std::FILE* out) : style_(style), out_(out) {}

  // False if `out` takes no more.
  bool Print(const v1::GenerateEvent& event);
  // Ends a line that a terminal would run into its prompt.
  void Finish(bool is_terminal);

 private:
  bool Write(const std::string& text);

  const Style style_;
  std::FILE* const out_;
  bool at_line_start_ = true;
};

}  // namespace ringserve
