// Any file may be a tokenizer.json. What is accepted must encode and decode without harm.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/check.h"
#include "engine/text/stream_decoder.h"
#include "engine/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tokenizer = ringserve::Tokenizer::Parse({reinterpret_cast<const char*>(data), size});
  if (!tokenizer.ok()) {
    RS_CHECK(!tokenizer.status().message().empty());
    return 0;
  }
  for (const std::string_view text : {"Once upon a time, don't  say 1234\r\n\n",
                                      "<|x|> e\xcc\x81 \xe2\x82\xac\xf0\x9f\x99\x82 ab"}) {
    for (const bool parse_special : {true, false}) {
      // A pattern may give up on a text, but only in this way.
      const auto ids = (*tokenizer)->Encode(text, {.parse_special_tokens = parse_special});
      if (!ids.ok()) {
        RS_CHECK(ids.status().code() == absl::StatusCode::kResourceExhausted);
        continue;
      }
      const auto decoded = (*tokenizer)->Decode(*ids, false);
      RS_CHECK(decoded.ok());
      ringserve::StreamDecoder stream(**tokenizer, {}, false);
      std::string streamed;
      for (const int32_t id : *ids) {
        streamed += stream.Push(id);
      }
      RS_CHECK(streamed + stream.Finish() == *decoded);
    }
  }
  return 0;
}
