#include "engine/text/added_tokens_json.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"

namespace ringserve {
namespace {

constexpr size_t kMaxAddedTokenBytes = 1024;  // a search walks at most this far from each place

absl::StatusOr<AddedToken> ReadAddedToken(const nlohmann::json& value, const std::string& path) {
  ASSIGN_OR_RETURN(JsonReader reader, JsonReader::Create(value, path));
  AddedToken token;
  ASSIGN_OR_RETURN(token.id, reader.Int32("id", {0, kMaxTokenId}));
  ASSIGN_OR_RETURN(token.content, reader.String("content"));
  ASSIGN_OR_RETURN(token.single_word, reader.Bool("single_word"));
  ASSIGN_OR_RETURN(token.lstrip, reader.Bool("lstrip"));
  ASSIGN_OR_RETURN(token.rstrip, reader.Bool("rstrip"));
  ASSIGN_OR_RETURN(token.normalized, reader.Bool("normalized"));
  ASSIGN_OR_RETURN(token.special, reader.Bool("special"));
  RETURN_IF_ERROR(reader.Finish());
  if (token.content.empty() || token.content.size() > kMaxAddedTokenBytes) {
    return reader.Error(
        "content",
        fmt::format("{} bytes, not in [1, {}]", token.content.size(), kMaxAddedTokenBytes));
  }
  return token;
}

// Gives out ids as Hugging Face does, which ignores those in the file: a token of the vocabulary
// keeps its id, the others are numbered behind it. A file that says otherwise is refused.
class AddedTokenIds {
 public:
  explicit AddedTokenIds(const VocabJson& vocab) : vocab_(vocab) {
    for (const auto& [token, id] : vocab.tokens) {
      token_of_.emplace(id, token);
    }
  }

  absl::Status Check(const AddedToken& token, const std::string& path) {
    const int32_t found = vocab_.Find(token.content);
    const auto vocab_size = static_cast<int32_t>(vocab_.tokens.size());
    const int32_t expected = found >= 0 ? found : std::max(vocab_size, largest_ + 1);
    if (token.id != expected) {
      return absl::InvalidArgumentError(
          fmt::format("{}.id: {} is given to a token whose id is {}", path, token.id, expected));
    }
    const auto owner = token_of_.find(token.id);
    if (owner != token_of_.end() && owner->second != token.content) {
      return absl::InvalidArgumentError(
          fmt::format("{}.id: {} belongs to another token of the vocabulary", path, token.id));
    }
    if (!contents_.emplace(token.content, token.id).second) {
      return absl::InvalidArgumentError(fmt::format("{}.content: a duplicate", path));
    }
    largest_ = std::max(largest_, token.id);
    return absl::OkStatus();
  }

 private:
  const VocabJson& vocab_;
  std::unordered_map<int32_t, std::string_view> token_of_;
  std::unordered_map<std::string, int32_t> contents_;
  int32_t largest_ = -1;
};

}  // namespace

std::vector<AddedToken> ReadAddedTokens(const nlohmann::json& value,
                                        const std::string& path,
                                        const VocabJson& vocab,
                                        Problems* problems) {
  std::vector<AddedToken> tokens;
  if (value.is_null()) {
    return tokens;
  }
  if (!value.is_array()) {
    problems->Add(fmt::format("{}: not an array", path));
    return tokens;
  }
  AddedTokenIds ids(vocab);
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string token_path = fmt::format("{}[{}]", path, i);
    AddedToken token;
    if (problems->Take(ReadAddedToken(value[i], token_path), token)) {
      problems->Add(ids.Check(token, token_path));
      tokens.push_back(std::move(token));
    }
  }
  return tokens;
}

}  // namespace ringserve
