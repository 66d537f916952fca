// The decoder of tokenizer.json: puts tokens together to a text. Written as a stream: each token is
// pushed by itself and what is decided comes out, so that the pieces of a stream are the text that
// decoding everything at once gives.
//
// The library's decoders map a list of tokens to a list of tokens. Fuse and ByteLevel make one
// token of the list: what stands after them works on a text that comes in pieces, and is refused if
// it would have to wait for the end of it. A pattern that gives up on a token (regex.h) leaves it
// as it is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engine/base/problems.h"
#include "engine/text/pattern.h"
#include "engine/text/utf8.h"

namespace ringserve {

class Decoder {
 public:
  struct Stage {
    enum class Kind {
      kReplace,
      kMetaspace,
      kWordPiece,
      kByteFallback,
      kStrip,
      kWordEnd,  // BPEDecoder
      kFuse,
      kByteLevel,
      kSpaces,  // no decoder: a space between tokens
    };

    Kind kind;
    std::optional<Pattern> pattern = {};  // kReplace
    std::string text = {};  // Replace: the content; WordPiece: the prefix; WordEnd: the suffix;
                            // Metaspace and Strip: the character
    bool flag = false;      // Metaspace: drop it from the first token; WordPiece: clean up
    size_t start = 0, stop = 0;  // Strip: so many at either end
  };

  // null puts spaces between tokens. What is wrong is added to `problems`, by its path; the result
  // is then of no use.
  static Decoder FromJson(const nlohmann::json& value, const std::string& path, Problems* problems);

  // True if a text is nothing but the bytes of its tokens.
  bool is_plain_bytes() const {
    return stages_.size() == 1 && stages_[0].kind == Stage::Kind::kByteLevel;
  }

  // The bytes that `token` adds to a text inside of which it stands; for a token of a part of a
  // character that part.
  std::string BytesInside(std::string_view token) const;

 private:
  friend class DecoderStream;
  void Add(const nlohmann::json& value, const std::string& path, int depth, Problems* problems);

  std::vector<Stage> stages_;
};

// One text. `decoder` must outlive it. One thread at a time.
class DecoderStream {
 public:
  explicit DecoderStream(const Decoder& decoder)
      : decoder_(decoder), states_(decoder.stages_.size()) {}

  // Both append what is now decided: whole characters.
  void Push(std::string_view token, std::string* out) { Run(0, token, out); }

  // The token as bytes. Requires decoder.is_plain_bytes().
  void PushBytes(std::string_view bytes, std::string* out) { states_[0].repair.Push(bytes, out); }

  // The end, once.
  void Finish(std::string* out);

 private:
  struct State {
    bool any = false;     // something has been pushed
    std::string held;     // ByteFallback: bytes; WordEnd: the last token; Replace: a possible match
    bool broken = false;  // ByteFallback: `held` was no beginning of UTF-8
    size_t num_stripped = 0;  // Strip: at the start
    size_t num_held = 0;      // Strip: perhaps at the end; ByteFallback: bytes of whole characters
    Utf8Repair repair;        // ByteLevel
  };

  bool IsText(size_t stage) const;  // what it gets is pieces of one token
  void Run(size_t stage, std::string_view token, std::string* out);
  void Replace(size_t stage, std::string_view token, std::string* out);
  void ReplaceInText(size_t stage, std::string_view piece, std::string* out);
  void PushByte(size_t stage, uint8_t byte, std::string* out);
  void EndBytes(size_t stage, std::string* out);
  void Strip(size_t stage, std::string_view token, std::string* out);
  void StripText(size_t stage, std::string_view piece, std::string* out);

  const Decoder& decoder_;
  std::vector<State> states_;
};

}  // namespace ringserve
