#include "engine/text/pretokenizer.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/text/pretokenizer_stages.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

constexpr size_t kMaxStages = 64;
constexpr int kMaxDepth = 8;
constexpr int kMaxByteLevelStages = 4;  // each may double the text
constexpr size_t kBlockBytes = size_t{64} << 10;
// What ByteLevel splits by unless told not to (GPT-2's).
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

using Stages = std::vector<PreTokenizerStagePtr>;

absl::StatusOr<SplitBehavior> ReadBehavior(JsonReader* reader) {
  ASSIGN_OR_RETURN(
      const std::string name,
      reader->Enum("behavior",
                   {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"}));
  return name == "Removed"              ? SplitBehavior::kRemoved
         : name == "Isolated"           ? SplitBehavior::kIsolated
         : name == "MergedWithPrevious" ? SplitBehavior::kMergedWithPrevious
         : name == "MergedWithNext"     ? SplitBehavior::kMergedWithNext
                                        : SplitBehavior::kContiguous;
}

absl::StatusOr<bool> BoolOr(JsonReader* reader, std::string_view key, bool otherwise) {
  if (reader->Has(key)) {
    ASSIGN_OR_RETURN(otherwise, reader->Bool(key));
  }
  reader->Ignore(key);
  return otherwise;
}

absl::StatusOr<char32_t> ReadCharacter(JsonReader* reader, std::string_view key) {
  ASSIGN_OR_RETURN(const std::string text, reader->String(key));
  size_t position = 0;
  const char32_t c = text.empty() ? 0 : DecodeUtf8(text, &position);
  if (text.empty() || position != text.size()) {
    return reader->Error(key, "not one character");
  }
  return c;
}

absl::Status AddSplit(JsonReader* reader, Stages* stages) {
  ASSIGN_OR_RETURN(const nlohmann::json* pattern_json, reader->Any("pattern"));
  ASSIGN_OR_RETURN(const SplitBehavior behavior, ReadBehavior(reader));
  ASSIGN_OR_RETURN(const bool invert, reader->Bool("invert"));
  RETURN_IF_ERROR(reader->Finish());
  ASSIGN_OR_RETURN(Pattern pattern, Pattern::FromJson(*pattern_json, reader->path() + ".pattern"));
  stages->push_back(MakeSplitStage(std::move(pattern), behavior, invert));
  return absl::OkStatus();
}

absl::Status AddByteLevel(JsonReader* reader, Stages* stages) {
  reader->Ignore("trim_offsets");  // offsets are not computed
  ASSIGN_OR_RETURN(const bool add_prefix_space, reader->Bool("add_prefix_space"));
  ASSIGN_OR_RETURN(const bool use_regex, BoolOr(reader, "use_regex", true));
  RETURN_IF_ERROR(reader->Finish());
  if (add_prefix_space) {
    stages->push_back(MakePrefixSpaceStage());
  }
  if (use_regex) {
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::Compile(kByteLevelPattern, reader->path()));
    stages->push_back(MakeSplitStage(std::move(pattern), SplitBehavior::kIsolated, false));
  }
  stages->push_back(MakeByteLevelStage());
  return absl::OkStatus();
}

absl::Status AddMetaspace(JsonReader* reader, Stages* stages) {
  ASSIGN_OR_RETURN(const char32_t replacement, ReadCharacter(reader, "replacement"));
  reader->Ignore("str_rep");
  std::string scheme = "always";
  const bool has_scheme = reader->Has("prepend_scheme");
  if (has_scheme) {
    ASSIGN_OR_RETURN(scheme, reader->Enum("prepend_scheme", {"first", "never", "always"}));
  }
  reader->Ignore("prepend_scheme");
  ASSIGN_OR_RETURN(const bool add_prefix_space, BoolOr(reader, "add_prefix_space", true));
  if (!add_prefix_space) {
    if (has_scheme && scheme != "never") {
      return reader->Error("add_prefix_space",
                           fmt::format("false does not go with prepend_scheme {}", scheme));
    }
    scheme = "never";
  }
  ASSIGN_OR_RETURN(const bool split, BoolOr(reader, "split", true));
  RETURN_IF_ERROR(reader->Finish());
  stages->push_back(MakeMetaspaceStage(replacement,
                                       scheme == "first"   ? PrependScheme::kFirst
                                       : scheme == "never" ? PrependScheme::kNever
                                                           : PrependScheme::kAlways,
                                       split));
  return absl::OkStatus();
}

absl::Status AddDelimiterSplit(JsonReader* reader, Stages* stages) {
  ASSIGN_OR_RETURN(const char32_t delimiter, ReadCharacter(reader, "delimiter"));
  RETURN_IF_ERROR(reader->Finish());
  std::string literal;
  AppendUtf8(delimiter, &literal);
  stages->push_back(
      MakeSplitStage(Pattern::Literal(std::move(literal)), SplitBehavior::kRemoved, false));
  return absl::OkStatus();
}

absl::Status AddDigits(JsonReader* reader, Stages* stages) {
  ASSIGN_OR_RETURN(const bool individual, reader->Bool("individual_digits"));
  RETURN_IF_ERROR(reader->Finish());
  stages->push_back(MakePropertyStage(
      kNumericChar, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous));
  return absl::OkStatus();
}

absl::Status AddPunctuation(JsonReader* reader, Stages* stages) {
  SplitBehavior behavior = SplitBehavior::kIsolated;
  if (reader->Has("behavior")) {
    ASSIGN_OR_RETURN(behavior, ReadBehavior(reader));
  }
  reader->Ignore("behavior");
  RETURN_IF_ERROR(reader->Finish());
  stages->push_back(MakePropertyStage(kPunctuationChar, behavior));
  return absl::OkStatus();
}

absl::Status AddFixedLength(JsonReader* reader, Stages* stages) {
  ASSIGN_OR_RETURN(const int64_t length, reader->Int64("length", {1, int64_t{1} << 30}));
  RETURN_IF_ERROR(reader->Finish());
  stages->push_back(MakeFixedLengthStage(static_cast<size_t>(length)));
  return absl::OkStatus();
}

// A type without options.
absl::Status AddPlain(JsonReader* reader, const std::string& type, Stages* stages) {
  RETURN_IF_ERROR(reader->Finish());
  if (type == "Whitespace") {
    stages->push_back(MakeWhitespaceStage());
  } else if (type == "UnicodeScripts") {
    stages->push_back(MakeUnicodeScriptsStage());
  } else {
    stages->push_back(MakePropertyStage(kSpaceChar, SplitBehavior::kRemoved));
  }
  if (type == "BertPreTokenizer") {
    stages->push_back(MakePropertyStage(kPunctuationChar, SplitBehavior::kIsolated));
  }
  return absl::OkStatus();
}

absl::Status AddStage(JsonReader* reader, const std::string& type, Stages* stages) {
  return type == "Split"                ? AddSplit(reader, stages)
         : type == "ByteLevel"          ? AddByteLevel(reader, stages)
         : type == "Metaspace"          ? AddMetaspace(reader, stages)
         : type == "Digits"             ? AddDigits(reader, stages)
         : type == "Punctuation"        ? AddPunctuation(reader, stages)
         : type == "CharDelimiterSplit" ? AddDelimiterSplit(reader, stages)
         : type == "FixedLength"        ? AddFixedLength(reader, stages)
                                        : AddPlain(reader, type, stages);
}

}  // namespace

std::string_view WordArena::Store(std::string_view text) {
  char* to = nullptr;
  if (text.size() > kBlockBytes / 4) {
    to = large_.emplace_back(std::make_unique<char[]>(text.size())).get();
  } else {
    if (used_ == 0 || place_ + text.size() > kBlockBytes) {
      if (used_++ == blocks_.size()) {
        blocks_.push_back(std::make_unique<char[]>(kBlockBytes));
      }
      place_ = 0;
    }
    to = blocks_[used_ - 1].get() + place_;
    place_ += text.size();
  }
  std::memcpy(to, text.data(), text.size());
  return {to, text.size()};
}

void WordArena::Clear() {
  large_.clear();
  used_ = 0;
  place_ = 0;
}

PreTokenizer PreTokenizer::FromJson(const nlohmann::json& value,
                                    const std::string& path,
                                    Problems* problems) {
  PreTokenizer result;
  if (!value.is_null()) {
    result.Add(value, path, 0, problems);
  }
  return result;
}

void PreTokenizer::Add(const nlohmann::json& value,
                       const std::string& path,
                       int depth,
                       Problems* problems) {
  std::optional<JsonReader> reader;
  std::string type;
  if (!problems->Take(JsonReader::Create(value, path), reader) ||
      !problems->Take(reader->Enum("type",
                                   {"Sequence",
                                    "ByteLevel",
                                    "Metaspace",
                                    "Split",
                                    "Digits",
                                    "Whitespace",
                                    "WhitespaceSplit",
                                    "Punctuation",
                                    "BertPreTokenizer",
                                    "CharDelimiterSplit",
                                    "FixedLength",
                                    "UnicodeScripts"}),
                      type)) {
    return;
  }
  if (stages_.size() >= kMaxStages || depth >= kMaxDepth) {
    problems->Add(
        fmt::format("{}: more than {} stages in all, or nested too deep", path, kMaxStages));
    return;
  }
  if (type != "Sequence") {
    problems->Add(AddStage(&*reader, type, &stages_));
    const auto num_byte_level = std::count_if(
        stages_.begin(), stages_.end(), [](const auto& stage) { return stage->is_byte_level(); });
    if (num_byte_level > kMaxByteLevelStages) {
      problems->Add(fmt::format("{}: more than {} ByteLevel", path, kMaxByteLevelStages));
    }
    return;
  }
  const nlohmann::json* list = nullptr;
  if (!problems->Take(reader->Any("pretokenizers"), list)) {
    return;
  }
  problems->Add(reader->Finish());
  if (!list->is_array()) {
    problems->Add(reader->Error("pretokenizers", "not an array"));
    return;
  }
  for (size_t i = 0; i < list->size(); ++i) {
    Add((*list)[i], fmt::format("{}.pretokenizers[{}]", path, i), depth + 1, problems);
  }
}

bool PreTokenizer::TakeByteLevel() {
  if (stages_.empty() || !stages_.back()->is_byte_level()) {
    return false;
  }
  stages_.pop_back();
  return true;
}

absl::Status PreTokenizer::Split(const Word& text, Scratch* scratch) const {
  scratch->arena.Clear();
  scratch->words.assign(1, text);
  for (const auto& stage : stages_) {
    scratch->next.clear();
    for (const Word& word : scratch->words) {
      RETURN_IF_ERROR(stage->Apply(word, scratch, &scratch->next));
    }
    scratch->words.swap(scratch->next);
  }
  return absl::OkStatus();
}

}  // namespace ringserve
