#include "engine/text/tokenizer.h"

#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "engine/text/tokenizer_json.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

}  // namespace

struct Tokenizer::State {
  struct Scratch {
    PreTokenizer::Scratch words;
    ModelScratch model;
  };

  absl::Status EncodeWords(const Word& text, Scratch* scratch, std::vector<int32_t>* ids) const;
  absl::Status EncodeUnnormalized(std::string_view text,
                                  bool first,
                                  bool parse_special,
                                  Scratch* scratch,
                                  std::vector<int32_t>* ids) const;

  TokenizerParts parts;
};

absl::Status Tokenizer::State::EncodeWords(const Word& text,
                                           Scratch* scratch,
                                           std::vector<int32_t>* ids) const {
  RETURN_IF_ERROR(parts.pre_tokenizer.Split(text, &scratch->words));
  for (const Word& word : scratch->words.words) {
    parts.model->Encode(word.text, &scratch->model, ids);
  }
  return absl::OkStatus();
}

// `first`: `text` begins where the whole text begins.
absl::Status Tokenizer::State::EncodeUnnormalized(std::string_view text,
                                                  bool first,
                                                  bool parse_special,
                                                  Scratch* scratch,
                                                  std::vector<int32_t>* ids) const {
  Word whole{text, first ? FirstHead(text) : 0};
  NormalizedText normalized;
  if (!parts.normalizer.empty()) {
    normalized = {std::string(text), first, whole.head};
    RETURN_IF_ERROR(parts.normalizer.Apply(&normalized, &scratch->words.regex));
    whole = {normalized.text, normalized.head};
  }
  for (const AddedTokens::Piece& piece : parts.normalized_tokens.Cut(whole.text, parse_special)) {
    if (piece.id >= 0) {
      ids->push_back(piece.id);
    } else {
      const auto begin = static_cast<size_t>(piece.text.data() - whole.text.data());
      RETURN_IF_ERROR(EncodeWords(whole.Sub(begin, begin + piece.text.size()), scratch, ids));
    }
  }
  return absl::OkStatus();
}

Tokenizer::Tokenizer(std::unique_ptr<const State> state) : state_(std::move(state)) {}

Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  Problems problems;
  std::unique_ptr<Tokenizer> tokenizer = Load(model_dir, &problems);
  if (tokenizer == nullptr) {
    std::error_code error;
    const bool there = std::filesystem::exists(model_dir + "/tokenizer.json", error) ||
                       std::filesystem::exists(model_dir + "/tokenizer.model", error);
    const std::string& problem = problems.list().front();
    return there ? absl::InvalidArgumentError(problem) : absl::NotFoundError(problem);
  }
  return tokenizer;
}

std::unique_ptr<Tokenizer> Tokenizer::Load(const std::string& model_dir, Problems* problems) {
  std::optional<TokenizerParts> parts = LoadTokenizer(model_dir, problems);
  if (!parts) {
    return nullptr;
  }
  return std::unique_ptr<Tokenizer>(
      new Tokenizer(std::make_unique<const State>(State{*std::move(parts)})));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(std::string_view tokenizer_json) {
  Problems problems;
  std::optional<TokenizerParts> parts = ParseTokenizerJson(tokenizer_json, &problems);
  if (!parts) {
    return absl::InvalidArgumentError(problems.list().front());
  }
  return std::unique_ptr<Tokenizer>(
      new Tokenizer(std::make_unique<const State>(State{*std::move(parts)})));
}

std::unique_ptr<Tokenizer> Tokenizer::None() {
  TokenizerParts parts = {.raw_tokens = AddedTokens({}),
                          .normalizer = {},
                          .normalized_tokens = AddedTokens({}),
                          .pre_tokenizer = {},
                          .model = nullptr,
                          .post_processor = {},
                          .decoder = {},
                          .table = TokenTable({})};
  return std::unique_ptr<Tokenizer>(
      new Tokenizer(std::make_unique<const State>(State{std::move(parts)})));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       const EncodeOptions& options) const {
  if (state_->parts.model == nullptr) {
    return absl::FailedPreconditionError("there is no tokenizer");
  }
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
    ids = parts.post_processor.prefix;
  }
  State::Scratch scratch;
  for (const AddedTokens::Piece& piece : parts.raw_tokens.Cut(text, options.parse_special_tokens)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else {
      const bool first = piece.text.data() == text.data();
      RETURN_IF_ERROR(state_->EncodeUnnormalized(
          piece.text, first, options.parse_special_tokens, &scratch, &ids));
    }
  }
  if (options.add_special_tokens) {
    const std::vector<int32_t>& suffix = parts.post_processor.suffix;
    ids.insert(ids.end(), suffix.begin(), suffix.end());
  }
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> token_ids,
                                              bool skip_special_tokens) const {
  std::string text;
  Stream stream(*this, skip_special_tokens);
  for (size_t i = 0; i < token_ids.size(); ++i) {
    if (!state_->parts.table.Contains(token_ids[i])) {
      return absl::InvalidArgumentError(
          fmt::format("token_ids[{}]: {} is not in [0, {}]", i, token_ids[i], vocab_size() - 1));
    }
    stream.Push(token_ids[i], &text);
  }
  stream.Finish(&text);
  return text;
}

Tokenizer::Stream::Stream(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(tokenizer),
      skip_special_(skip_special_tokens),
      stream_(tokenizer.state_->parts.decoder) {}

void Tokenizer::Stream::Push(int32_t token_id, std::string* out) {
  const TokenizerParts& parts = tokenizer_.state_->parts;
  if (!parts.table.Contains(token_id) || !parts.table.Exists(token_id) ||
      (skip_special_ && parts.table.IsSpecial(token_id))) {
    return;
  }
  if (parts.decoder.is_plain_bytes()) {
    stream_.PushBytes(parts.table.Bytes(token_id), out);
  } else {
    stream_.Push(parts.table.Content(token_id), out);
  }
}

void Tokenizer::Stream::Finish(std::string* out) {
  stream_.Finish(out);
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
