#include "engine/text/stream_decoder.h"

namespace ringserve {
namespace {

// Decodes along and drops the text, so that both always say the same.
class StopStringCondition final : public StopCondition {
 public:
  StopStringCondition(const Tokenizer& tokenizer,
                      const std::vector<std::string>& stop_strings,
                      bool skip_special_tokens)
      : decoder_(tokenizer, stop_strings, skip_special_tokens) {}

  std::optional<int32_t> OnToken(int32_t token_id) override {
    decoder_.Push(token_id);
    return decoder_.stop_index();
  }

 private:
  StreamDecoder decoder_;
};

}  // namespace

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer,
                             const std::vector<std::string>& stop_strings,
                             bool skip_special_tokens)
    : stream_(tokenizer, skip_special_tokens), matcher_(stop_strings) {}

std::string StreamDecoder::Push(int32_t token_id) {
  std::string text;
  if (stop_index_) {
    return text;
  }
  std::string whole;
  stream_.Push(token_id, &whole);
  stop_index_ = matcher_.Push(whole, &text);
  return text;
}

std::string StreamDecoder::Finish() {
  std::string text;
  if (!stop_index_) {
    matcher_.Finish(&text);
    stream_.Finish(&text);
  }
  return text;
}

std::optional<int32_t> StreamDecoder::stop_index() const {
  return stop_index_;
}

std::unique_ptr<StopCondition> MakeStopCondition(const Tokenizer& tokenizer,
                                                 const std::vector<std::string>& stop_strings,
                                                 bool skip_special_tokens) {
  if (stop_strings.empty()) {
    return nullptr;
  }
  return std::make_unique<StopStringCondition>(tokenizer, stop_strings, skip_special_tokens);
}

}  // namespace ringserve
