#include "engine/text/bpe_json.h"

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "engine/base/json_reader.h"
#include "engine/text/byte_level.h"

namespace ringserve {
namespace {

absl::Status Invalid(std::string_view message) {
  return absl::InvalidArgumentError(std::string(message));
}

// A key of the file as an error may show it: whatever it is, short and on one line.
std::string Quote(std::string_view text) {
  constexpr size_t kMaxShown = 64;
  const std::string dumped =
      nlohmann::json(text.substr(0, kMaxShown))
          .dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  return text.size() > kMaxShown ? dumped + "..." : dumped;
}

absl::Status ReadVocab(const nlohmann::json& vocab, const std::string& path, BpeJson* result) {
  if (!vocab.is_object()) {
    return Invalid(fmt::format("{}: {} is not an object", path, vocab.type_name()));
  }
  result->vocab.reserve(vocab.size());
  std::vector<bool> taken;
  for (const auto& [token, id_json] : vocab.items()) {
    // clang 14 captures no structured binding by reference.
    const auto error = [&path, &name = token](std::string_view message) {
      return Invalid(fmt::format("{}[{}]: {}", path, Quote(name), message));
    };
    if (!id_json.is_number_unsigned() || id_json.get<uint64_t>() > uint64_t{kMaxTokenId}) {
      return error(fmt::format("not an id in [0, {}]", kMaxTokenId));
    }
    const auto id = id_json.get<int32_t>();
    if (static_cast<size_t>(id) >= taken.size()) {
      taken.resize(static_cast<size_t>(id) + 1);
    }
    if (taken[static_cast<size_t>(id)]) {
      return error(fmt::format("id {} belongs to another token too", id));
    }
    taken[static_cast<size_t>(id)] = true;
    result->vocab.emplace(token, id);
    if (auto bytes = BytesOfToken(token); bytes && !bytes->empty()) {
      result->model.tokens.push_back({*std::move(bytes), id});
    }
  }
  return absl::OkStatus();
}

using MergeText = std::pair<std::string_view, std::string_view>;

// Both ways of writing a merge: "a b" and ["a", "b"].
std::optional<MergeText> SplitMerge(const nlohmann::json& merge) {
  if (merge.is_string()) {
    const std::string_view text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
      return std::nullopt;
    }
    return MergeText(text.substr(0, space), text.substr(space + 1));
  }
  if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) {
    return std::nullopt;
  }
  return MergeText(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
}

absl::Status ReadMerges(const nlohmann::json& merges, const std::string& path, BpeJson* result) {
  if (!merges.is_array()) {
    return Invalid(fmt::format("{}: {} is not an array", path, merges.type_name()));
  }
  result->model.merges.reserve(merges.size());
  std::string joined;
  for (size_t i = 0; i < merges.size(); ++i) {
    const nlohmann::json& merge = merges[i];
    if (merge.is_string() && merge.get_ref<const std::string&>().rfind("#version", 0) == 0) {
      continue;  // a headline from the days of merges.txt
    }
    const std::optional<MergeText> texts = SplitMerge(merge);
    if (!texts || merge.type() != merges[0].type()) {
      return Invalid(
          fmt::format("{}[{}]: neither two tokens nor, as all others, \"a b\"", path, i));
    }
    joined.assign(texts->first).append(texts->second);
    std::array<int32_t, 3> ids{};
    const std::array<std::string_view, 3> tokens = {texts->first, texts->second, joined};
    for (size_t k = 0; k < tokens.size(); ++k) {
      const auto found = result->vocab.find(tokens[k]);
      if (found == result->vocab.end()) {
        return Invalid(
            fmt::format("{}[{}]: {} is not in the vocabulary", path, i, Quote(tokens[k])));
      }
      ids[k] = found->second;
    }
    result->model.merges.push_back({ids[0], ids[1], ids[2]});
  }
  return absl::OkStatus();
}

bool EveryByteHasToken(const BpeModel& model) {
  std::array<bool, 256> has{};
  size_t count = 0;
  for (const BpeToken& token : model.tokens) {
    if (token.bytes.size() == 1 && !has[static_cast<uint8_t>(token.bytes[0])]) {
      has[static_cast<uint8_t>(token.bytes[0])] = true;
      ++count;
    }
  }
  return count == has.size();
}

// Options that this tokenizer has only in their neutral setting.
absl::Status CheckNeutral(JsonReader* reader) {
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (reader->Has(key)) {
      ASSIGN_OR_RETURN(const std::string affix, reader->String(key));
      if (!affix.empty()) {
        return reader->Error(key, fmt::format("{} is not supported", Quote(affix)));
      }
    }
    reader->Ignore(key);
  }
  if (reader->Has("dropout")) {
    ASSIGN_OR_RETURN([[maybe_unused]] const double dropout, reader->Double("dropout", {0, 0}));
  }
  reader->Ignore("dropout");
  return absl::OkStatus();
}

// What becomes of bytes without a token, which no well-made byte-level vocabulary has.
absl::Status ReadUnknown(JsonReader* reader, BpeJson* result) {
  const bool complete = EveryByteHasToken(result->model);
  if (reader->Has("unk_token")) {
    ASSIGN_OR_RETURN(const std::string unk, reader->String("unk_token"));
    const auto found = result->vocab.find(unk);
    if (!complete && (unk.empty() || found == result->vocab.end())) {
      return reader->Error("unk_token", fmt::format("{} is not in the vocabulary", Quote(unk)));
    }
    result->model.unk_id = found == result->vocab.end() ? -1 : found->second;
  }
  reader->Ignore("unk_token");
  if (reader->Has("fuse_unk")) {
    ASSIGN_OR_RETURN(result->model.fuse_unk, reader->Bool("fuse_unk"));
  }
  reader->Ignore("fuse_unk");
  if (reader->Has("byte_fallback")) {
    ASSIGN_OR_RETURN(const bool byte_fallback, reader->Bool("byte_fallback"));
    if (byte_fallback && !complete) {
      return reader->Error("byte_fallback",
                           "true is only supported where every byte has a token of its own");
    }
  }
  reader->Ignore("byte_fallback");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BpeJson> ParseBpeJson(const nlohmann::json& value, const std::string& path) {
  ASSIGN_OR_RETURN(JsonReader reader, JsonReader::Create(value, path));
  if (reader.Has("type")) {  // old files do not name it
    ASSIGN_OR_RETURN([[maybe_unused]] const std::string type, reader.Enum("type", {"BPE"}));
  }
  reader.Ignore("type");
  ASSIGN_OR_RETURN(const nlohmann::json* vocab, reader.Any("vocab"));
  ASSIGN_OR_RETURN(const nlohmann::json* merges, reader.Any("merges"));
  RETURN_IF_ERROR(CheckNeutral(&reader));
  BpeJson result;
  RETURN_IF_ERROR(ReadVocab(*vocab, path + ".vocab", &result));
  RETURN_IF_ERROR(ReadMerges(*merges, path + ".merges", &result));
  RETURN_IF_ERROR(ReadUnknown(&reader, &result));
  if (reader.Has("ignore_merges")) {
    ASSIGN_OR_RETURN(result.model.ignore_merges, reader.Bool("ignore_merges"));
  }
  reader.Ignore("ignore_merges");
  RETURN_IF_ERROR(reader.Finish());
  return result;
}

}  // namespace ringserve
