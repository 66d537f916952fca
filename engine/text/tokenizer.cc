#include "engine/text/tokenizer.h"

#include <utility>

#include <fmt/format.h>

#include "engine/base/json_reader.h"
#include "engine/text/nfc.h"
#include "engine/text/tokenizer_json.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{256} << 20;
constexpr size_t kMaxTextBytes = size_t{1} << 30;

}  // namespace

struct Tokenizer::State {
  struct Scratch {
    PreTokenizer::Scratch words;
    Bpe::Scratch bpe;
  };

  absl::Status EncodeWords(std::string_view text,
                           Scratch* scratch,
                           std::vector<int32_t>* ids) const;
  absl::Status EncodeUnnormalized(std::string_view text,
                                  bool parse_special,
                                  Scratch* scratch,
                                  std::vector<int32_t>* ids) const;

  TokenizerParts parts;
};

absl::Status Tokenizer::State::EncodeWords(std::string_view text,
                                           Scratch* scratch,
                                           std::vector<int32_t>* ids) const {
  RETURN_IF_ERROR(parts.pre_tokenizer.Split(text, &scratch->words));
  for (const std::string_view word : scratch->words.words) {
    parts.bpe.Encode(word, &scratch->bpe, ids);
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::State::EncodeUnnormalized(std::string_view text,
                                                  bool parse_special,
                                                  Scratch* scratch,
                                                  std::vector<int32_t>* ids) const {
  const std::string normalized = parts.nfc ? Nfc(text) : std::string();
  for (const AddedTokens::Piece& piece :
       parts.normalized_tokens.Cut(parts.nfc ? normalized : text, parse_special)) {
    if (piece.id >= 0) {
      ids->push_back(piece.id);
    } else {
      RETURN_IF_ERROR(EncodeWords(piece.text, scratch, ids));
    }
  }
  return absl::OkStatus();
}

Tokenizer::Tokenizer(std::unique_ptr<const State> state) : state_(std::move(state)) {}

Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  const std::string path = model_dir + "/tokenizer.json";
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  auto tokenizer = Parse(text);
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(),
                        fmt::format("{}: {}", path, std::string(tokenizer.status().message())));
  }
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(std::string_view tokenizer_json) {
  ASSIGN_OR_RETURN(TokenizerParts parts, ParseTokenizerJson(tokenizer_json));
  return std::unique_ptr<Tokenizer>(
      new Tokenizer(std::make_unique<const State>(State{std::move(parts)})));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        fmt::format("text: {} bytes, more than the limit of {}", text.size(), kMaxTextBytes));
  }
  if (const size_t valid = ValidUtf8Prefix(text); valid != text.size()) {
    return absl::InvalidArgumentError(fmt::format("text: not UTF-8 at byte {}", valid));
  }
  const TokenizerParts& parts = state_->parts;
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4);
  if (options.add_special_tokens) {
    ids = parts.prefix;
  }
  State::Scratch scratch;
  for (const AddedTokens::Piece& piece : parts.raw_tokens.Cut(text, options.parse_special_tokens)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else {
      RETURN_IF_ERROR(
          state_->EncodeUnnormalized(piece.text, options.parse_special_tokens, &scratch, &ids));
    }
  }
  if (options.add_special_tokens) {
    ids.insert(ids.end(), parts.suffix.begin(), parts.suffix.end());
  }
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> token_ids,
                                              bool skip_special_tokens) const {
  std::string text;
  Utf8Repair repair;
  for (size_t i = 0; i < token_ids.size(); ++i) {
    if (!state_->parts.table.Contains(token_ids[i])) {
      return absl::InvalidArgumentError(
          fmt::format("token_ids[{}]: {} is not in [0, {}]", i, token_ids[i], vocab_size() - 1));
    }
    repair.Push(TokenBytes(token_ids[i], skip_special_tokens), &text);
  }
  repair.Finish(&text);
  return text;
}

std::string_view Tokenizer::TokenBytes(int32_t token_id, bool skip_special) const {
  const TokenTable& table = state_->parts.table;
  return !table.Contains(token_id) || (skip_special && table.IsSpecial(token_id))
             ? std::string_view()
             : table.Bytes(token_id);
}

bool Tokenizer::IsSpecial(int32_t token_id) const {
  const TokenTable& table = state_->parts.table;
  return table.Contains(token_id) && table.IsSpecial(token_id);
}

int32_t Tokenizer::vocab_size() const {
  return state_->parts.table.size();
}

}  // namespace ringserve
