// Any template, on a conversation that has every kind of value: it renders to UTF-8 within its
// limits, or says why not.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "engine/base/check.h"
#include "engine/chat/jinja_template.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

using Json = nlohmann::ordered_json;

Json Context() {
  return Json::parse(R"({
    "messages": [
      {"role": "system", "content": "Be brief."},
      {"role": "user", "content": "  Hi <b> & 'you' \u00e9\u4e16 "},
      {"role": "assistant", "content": "Hello\nthere",
       "tool_calls": [{"id": "1", "type": "function",
                       "function": {"name": "f", "arguments": {"a": [1, 2.5, null, true]}}}]},
      {"role": "tool", "content": [{"type": "text", "text": "fog"}], "tool_call_id": "1"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {}}}}],
    "documents": null, "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>",
    "n": 5, "f": 2.5, "s": "Hello, W\u00f6rld", "l": [3, 1, 2], "d": {"b": 1, "a": {"x": "y"}}})");
}

void UseTemplate(std::string_view source) {
  static const Json context = Context();
  const auto parsed = jinja::Template::Parse(source);
  if (!parsed.ok()) {
    RS_CHECK(parsed.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  jinja::RenderOptions options;
  options.limits = {.steps = 20'000,
                    .live_bytes = int64_t{1} << 20,
                    .output_bytes = int64_t{1} << 18,
                    .depth = 100};
  options.now = absl::FromUnixSeconds(1'753'975'805);
  options.zone = absl::UTCTimeZone();
  const auto text = parsed->Render(context, options);
  if (!text.ok()) {
    RS_CHECK(text.status().code() == absl::StatusCode::kInvalidArgument ||
             text.status().code() == absl::StatusCode::kResourceExhausted);
    return;
  }
  RS_CHECK(static_cast<int64_t>(text->size()) <= options.limits.output_bytes);
  RS_CHECK(ValidUtf8Prefix(*text) == text->size());
}

}  // namespace
}  // namespace ringserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ringserve::UseTemplate(std::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
