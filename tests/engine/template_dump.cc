// Renders what tests/e2e/template_peers.py asks: one JSON object per line, {"template", "context",
// "now"?: unix seconds}; answers one per line, {"text"} or {"error"}.
#include <iostream>
#include <string>

#include <nlohmann/json.hpp>

#include "engine/chat/jinja_template.h"

namespace {

nlohmann::json Answer(const nlohmann::ordered_json& question) {
  const auto parsed = ringserve::jinja::Template::Parse(question["template"].get<std::string>());
  if (!parsed.ok()) {
    return {{"error", std::string(parsed.status().message())}};
  }
  ringserve::jinja::RenderOptions options;
  options.now = absl::FromUnixSeconds(question.value("now", int64_t{0}));
  options.zone = absl::UTCTimeZone();
  const auto text = parsed->Render(question["context"], options);
  if (!text.ok()) {
    return {{"error", std::string(text.status().message())}};
  }
  return {{"text", *text}};
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << Answer(nlohmann::ordered_json::parse(line)).dump() << "\n";
  }
  return 0;
}
