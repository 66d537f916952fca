// Text to token ids and back, exactly as Hugging Face's `tokenizers` does it for a model's
// tokenizer.json. Immutable after Load: any number of threads may use one tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/problems.h"
#include "engine/base/status.h"
#include "engine/text/decoder.h"

namespace ringserve {

struct EncodeOptions {
  bool add_special_tokens = true;  // what the post-processor adds
  bool parse_special_tokens =
      true;  // "<|endoftext|>" in the text becomes its id, as Hugging Face does
};

class Tokenizer {
 public:
  // Reads DIR/tokenizer.json, or DIR/tokenizer.model where that is not there. Anything in it that
  // this tokenizer cannot do exactly is an error that names it. NOT_FOUND if neither is there.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_dir);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Parse(std::string_view tokenizer_json);
  // The same, and adds all that is wrong to `problems`. Null if anything is.
  static std::unique_ptr<Tokenizer> Load(const std::string& model_dir, Problems* problems);
  // Of a folder that has none: no id stands for any text, Encode is FAILED_PRECONDITION.
  static std::unique_ptr<Tokenizer> None();
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // INVALID_ARGUMENT if `text` is not UTF-8 (naming the byte). Linear time on any input.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options) const;

  // Invalid UTF-8 that the tokens add up to becomes U+FFFD, as Hugging Face does. Ids out of range
  // are INVALID_ARGUMENT.
  absl::StatusOr<std::string> Decode(std::span<const int32_t> token_ids,
                                     bool skip_special_tokens) const;

  // Decodes a text token by token: the pieces are what Decode says of all. `tokenizer` must outlive
  // it. One thread at a time.
  class Stream {
   public:
    Stream(const Tokenizer& tokenizer, bool skip_special_tokens);
    // Both append what is now decided: whole characters. An id out of range adds nothing.
    void Push(int32_t token_id, std::string* out);
    void Finish(std::string* out);  // the end, once

   private:
    const Tokenizer& tokenizer_;
    bool skip_special_;
    DecoderStream stream_;
  };

  // The bytes that a token adds to a text inside of which it stands ("" for an id that is out of
  // range, and for special tokens if `skip_special`); what they add up to may be cut inside a
  // character. At the start of a text some tokenizers drop a space of them.
  std::string_view TokenBytes(int32_t token_id, bool skip_special) const;
  bool IsSpecial(int32_t token_id) const;
  int32_t vocab_size() const;  // one more than the largest id; 0: None()

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<const State> state);
  std::unique_ptr<const State> state_;
};

}  // namespace ringserve
