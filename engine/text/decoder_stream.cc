#include <algorithm>
#include <utility>

#include "engine/text/byte_level.h"
#include "engine/text/byte_token.h"
#include "engine/text/decoder.h"
#include "engine/text/decoder_text.h"

namespace ringserve {
namespace {

using Kind = Decoder::Stage::Kind;

constexpr std::string_view kReplacementCharacter = "\xef\xbf\xbd";

}  // namespace

bool DecoderStream::IsText(size_t stage) const {
  for (size_t i = 0; i < stage; ++i) {
    const Kind kind = decoder_.stages_[i].kind;
    if (kind == Kind::kFuse || kind == Kind::kByteLevel) {
      return true;
    }
  }
  return false;
}

void DecoderStream::Run(size_t stage, std::string_view token, std::string* out) {
  if (stage == states_.size()) {
    out->append(token);
    return;
  }
  const Decoder::Stage& is = decoder_.stages_[stage];
  State& state = states_[stage];
  const bool first = !state.any || IsText(stage);
  switch (is.kind) {
    case Kind::kReplace:
      Replace(stage, token, out);
      break;
    case Kind::kMetaspace:
      Run(stage + 1, ReplaceAll(token, is.text, first && is.flag ? "" : " "), out);
      break;
    case Kind::kWordPiece:
      Run(stage + 1, WordPieceText(token, is.text, first, is.flag), out);
      break;
    case Kind::kByteFallback:
      if (const std::optional<uint8_t> byte = ByteOfToken(token, /*any_case=*/true)) {
        PushByte(stage, *byte, out);
      } else {
        EndBytes(stage, out);
        Run(stage + 1, token, out);
      }
      break;
    case Kind::kStrip:
      Strip(stage, token, out);
      break;
    case Kind::kWordEnd:  // of the last token the suffix goes, of all others it becomes a space
      if (IsText(stage)) {
        ReplaceInText(stage, token, out);
      } else if (state.any) {
        Run(stage + 1,
            ReplaceAll(std::exchange(state.held, std::string(token)), is.text, " "),
            out);
      } else {
        state.held = token;
      }
      break;
    case Kind::kFuse:
      Run(stage + 1, token, out);
      break;
    case Kind::kByteLevel: {
      std::string whole;
      const std::optional<std::string> bytes = BytesOfToken(token);
      state.repair.Push(bytes ? *bytes : token, &whole);
      Run(stage + 1, whole, out);
      break;
    }
    case Kind::kSpaces:
      if (state.any) {
        out->push_back(' ');
      }
      Run(stage + 1, token, out);
      break;
  }
  state.any = true;
}

void DecoderStream::Replace(size_t stage, std::string_view token, std::string* out) {
  const Decoder::Stage& is = decoder_.stages_[stage];
  if (IsText(stage)) {
    ReplaceInText(stage, token, out);
    return;
  }
  RegexScratch scratch;
  std::vector<Regex::Match> matches;
  if (!is.pattern->FindAll(token, &scratch, &matches).ok()) {
    matches.clear();  // decoder.h: the token stays as it is
  }
  std::string replaced;
  size_t done = 0;
  for (const Regex::Match& match : matches) {
    replaced.append(token.substr(done, match.begin - done)).append(is.text);
    done = match.end;
  }
  Run(stage + 1, replaced.append(token.substr(done)), out);
}

void DecoderStream::ReplaceInText(size_t stage, std::string_view piece, std::string* out) {
  const Decoder::Stage& is = decoder_.stages_[stage];
  const bool is_word_end = is.kind == Kind::kWordEnd;
  const std::string_view wanted = is_word_end ? std::string_view(is.text) : is.pattern->literal();
  std::string& held = states_[stage].held;
  held.append(piece);
  std::string decided;
  size_t done = 0;
  for (size_t at = held.find(wanted); at != std::string::npos; at = held.find(wanted, done)) {
    decided.append(held, done, at - done).append(is_word_end ? "" : is.text);
    done = at + wanted.size();
  }
  size_t kept = std::min(wanted.size() - 1, held.size() - done);  // the start of a match, perhaps
  while (kept > 0 && held.compare(held.size() - kept, kept, wanted.substr(0, kept)) != 0) {
    --kept;
  }
  decided.append(held, done, held.size() - kept - done);
  held.erase(0, held.size() - kept);
  Run(stage + 1, decided, out);
}

// A run of byte tokens is text if all of it is; else each byte becomes U+FFFD.
void DecoderStream::PushByte(size_t stage, uint8_t byte, std::string* out) {
  State& state = states_[stage];
  state.held.push_back(static_cast<char>(byte));
  const std::string_view last = std::string_view(state.held).substr(state.num_held);
  if (ValidUtf8Prefix(last) == last.size()) {
    state.num_held = state.held.size();
  } else if (!state.broken) {
    state.broken = !MayBecomeUtf8(last);
  }
  if (state.broken) {
    for (size_t i = 0; i < state.held.size(); ++i) {
      Run(stage + 1, kReplacementCharacter, out);
    }
    state.held.clear();
    state.num_held = 0;
  }
}

void DecoderStream::EndBytes(size_t stage, std::string* out) {
  State& state = states_[stage];
  state.broken = false;
  state.num_held = 0;
  const std::string bytes = std::exchange(state.held, std::string());
  if (bytes.empty()) {
    return;
  }
  if (ValidUtf8Prefix(bytes) == bytes.size()) {
    Run(stage + 1, bytes, out);
    return;
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    Run(stage + 1, kReplacementCharacter, out);
  }
}

void DecoderStream::Strip(size_t stage, std::string_view token, std::string* out) {
  const Decoder::Stage& is = decoder_.stages_[stage];
  if (IsText(stage)) {
    StripText(stage, token, out);
    return;
  }
  for (size_t i = 0; i < is.start && token.rfind(is.text, 0) == 0; ++i) {
    token.remove_prefix(is.text.size());
  }
  for (size_t i = 0; i < is.stop && token.size() >= is.text.size() &&
                     token.substr(token.size() - is.text.size()) == is.text;
       ++i) {
    token.remove_suffix(is.text.size());
  }
  Run(stage + 1, token, out);
}

void DecoderStream::StripText(size_t stage, std::string_view piece, std::string* out) {
  const Decoder::Stage& is = decoder_.stages_[stage];
  State& state = states_[stage];
  std::string decided;
  for (size_t position = 0; position < piece.size();) {
    const std::string_view character = piece.substr(position, Utf8Length(piece[position]));
    position += character.size();
    if (character != is.text) {
      for (; state.num_held > 0; --state.num_held) {
        decided += is.text;
      }
      decided += character;
      state.num_stripped = is.start;  // the beginning is over
    } else if (state.num_stripped < is.start) {
      ++state.num_stripped;
    } else if (state.num_held < is.stop) {
      ++state.num_held;
    } else {
      decided += character;
    }
  }
  Run(stage + 1, decided, out);
}

void DecoderStream::Finish(std::string* out) {
  for (size_t stage = 0; stage < states_.size(); ++stage) {
    const Decoder::Stage& is = decoder_.stages_[stage];
    State& state = states_[stage];
    if (is.kind == Kind::kByteFallback) {
      EndBytes(stage, out);
    } else if (is.kind == Kind::kWordEnd && !IsText(stage) && state.any) {
      Run(stage + 1, ReplaceAll(state.held, is.text, ""), out);
    } else if (is.kind == Kind::kByteLevel) {
      std::string rest;
      state.repair.Finish(&rest);
      Run(stage + 1, rest, out);
    } else if (!state.held.empty()) {
      Run(stage + 1, state.held, out);  // of a Replace: no match after all
    }
  }
}

}  // namespace ringserve
