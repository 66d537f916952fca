// Lets a peer compare: reads JSON lines from standard input and answers each with one, for the
// tokenizer of the model folder in argv[1]. See tests/e2e/tokenizer_peers.py.
//   {"text": "...", "add_special_tokens": true, "parse_special_tokens": true} -> {"ids": [...]}
//   {"ids": [...], "skip_special_tokens": true} -> {"text": "...", "stream": "..."}
//   {"encode_file": PATH, "repeat": N} -> {"seconds": S, "tokens": T}, for the whole of a file
// An error is {"error": "..."}.
#include <chrono>
#include <cstdio>
#include <iostream>
#include <string>

#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/text/stream_decoder.h"
#include "engine/text/tokenizer.h"

namespace ringserve {
namespace {

using nlohmann::json;

json ErrorOf(const absl::Status& status) {
  return {{"error", std::string(status.message())}};
}

json Encode(const Tokenizer& tokenizer, const json& in) {
  const auto ids =
      tokenizer.Encode(in["text"].get<std::string>(),
                       {.add_special_tokens = in.value("add_special_tokens", true),
                        .parse_special_tokens = in.value("parse_special_tokens", true)});
  return ids.ok() ? json{{"ids", *ids}} : ErrorOf(ids.status());
}

json Decode(const Tokenizer& tokenizer, const json& in) {
  const auto ids = in["ids"].get<std::vector<int32_t>>();
  const bool skip = in.value("skip_special_tokens", true);
  const auto text = tokenizer.Decode(ids, skip);
  if (!text.ok()) {
    return ErrorOf(text.status());
  }
  StreamDecoder decoder(tokenizer, {}, skip);
  std::string streamed;
  for (const int32_t id : ids) {
    streamed += decoder.Push(id);
  }
  streamed += decoder.Finish();
  return {{"text", *text}, {"stream", streamed}};
}

json Time(const Tokenizer& tokenizer, const json& in) {
  const auto text = ReadFile(in["encode_file"].get<std::string>(), int64_t{1} << 30);
  if (!text.ok()) {
    return ErrorOf(text.status());
  }
  size_t num_tokens = 0;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < in["repeat"].get<int>(); ++i) {
    const auto ids = tokenizer.Encode(*text, {});
    if (!ids.ok()) {
      return ErrorOf(ids.status());
    }
    num_tokens += ids->size();
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return {{"seconds", seconds.count()}, {"tokens", num_tokens}};
}

int Main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: tokenizer_dump MODEL_DIR\n");
    return 2;
  }
  const auto tokenizer = Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    const json in = json::parse(line);
    const json out = in.contains("text")  ? Encode(**tokenizer, in)
                     : in.contains("ids") ? Decode(**tokenizer, in)
                                          : Time(**tokenizer, in);
    std::cout << out.dump() << '\n' << std::flush;
  }
  return 0;
}

}  // namespace
}  // namespace ringserve

// NOLINTNEXTLINE(bugprone-exception-escape): a malformed request may end this test helper.
int main(int argc, char** argv) {
  return ringserve::Main(argc, argv);
}
