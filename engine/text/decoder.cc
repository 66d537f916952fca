#include "engine/text/decoder.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/text/byte_level.h"
#include "engine/text/byte_token.h"
#include "engine/text/decoder_text.h"

namespace ringserve {
namespace {

using Stage = Decoder::Stage;
using Kind = Stage::Kind;

constexpr size_t kMaxStages = 32;
constexpr int kMaxDepth = 8;
constexpr size_t kMaxContentBytes = 1024;
constexpr size_t kMaxGrowth = 4096;           // of a token, by all replacements together
constexpr size_t kMaxTextPatternBytes = 256;  // compared with the end of the text at every piece

absl::StatusOr<std::string> ReadText(JsonReader* reader, std::string_view key, size_t min_bytes) {
  ASSIGN_OR_RETURN(std::string text, reader->String(key));
  if (text.size() < min_bytes || text.size() > kMaxContentBytes) {
    return reader->Error(
        key, fmt::format("{} bytes, not in [{}, {}]", text.size(), min_bytes, kMaxContentBytes));
  }
  return text;
}

absl::StatusOr<std::string> ReadCharacter(JsonReader* reader, std::string_view key) {
  ASSIGN_OR_RETURN(std::string text, ReadText(reader, key, 1));
  if (Utf8Length(text[0]) != text.size()) {
    return reader->Error(key, "not one character");
  }
  return text;
}

// How many times as long a replacement can make a token.
size_t GrowthOf(const Stage& stage) {
  if (stage.kind != Kind::kReplace) {
    return 1;
  }
  const bool is_literal = stage.pattern->is_literal();
  const size_t replaced = is_literal ? stage.pattern->literal().size() : 1;
  return std::max<size_t>(1, (stage.text.size() + replaced - 1) / replaced + (is_literal ? 0 : 1));
}

absl::StatusOr<Stage> ReadReplace(JsonReader* reader, bool is_text) {
  ASSIGN_OR_RETURN(const nlohmann::json* pattern_json, reader->Any("pattern"));
  Stage stage{Kind::kReplace};
  ASSIGN_OR_RETURN(stage.text, ReadText(reader, "content", 0));
  ASSIGN_OR_RETURN(stage.pattern, Pattern::FromJson(*pattern_json, reader->path() + ".pattern"));
  if (is_text && !stage.pattern->is_literal()) {
    return reader->Error("pattern",
                         "a regex after Fuse or ByteLevel is not supported: it would have to wait "
                         "for the end of a text");
  }
  if (is_text && stage.pattern->literal().size() > kMaxTextPatternBytes) {
    return reader->Error("pattern",
                         fmt::format("{} bytes, more than {}, after Fuse or ByteLevel",
                                     stage.pattern->literal().size(),
                                     kMaxTextPatternBytes));
  }
  return stage;
}

absl::StatusOr<Stage> ReadMetaspace(JsonReader* reader) {
  Stage stage{Kind::kMetaspace};
  ASSIGN_OR_RETURN(stage.text, ReadCharacter(reader, "replacement"));
  reader->Ignore("str_rep");
  reader->Ignore("split");
  stage.flag = true;
  if (reader->Has("prepend_scheme")) {
    ASSIGN_OR_RETURN(const std::string scheme,
                     reader->Enum("prepend_scheme", {"first", "never", "always"}));
    stage.flag = scheme != "never";
  }
  reader->Ignore("prepend_scheme");
  if (reader->Has("add_prefix_space")) {
    ASSIGN_OR_RETURN(const bool add_prefix_space, reader->Bool("add_prefix_space"));
    stage.flag = stage.flag && add_prefix_space;
  }
  reader->Ignore("add_prefix_space");
  return stage;
}

absl::StatusOr<Stage> ReadWordPiece(JsonReader* reader, bool is_text) {
  Stage stage{Kind::kWordPiece};
  ASSIGN_OR_RETURN(stage.text, ReadText(reader, "prefix", 0));
  ASSIGN_OR_RETURN(stage.flag, reader->Bool("cleanup"));
  if (is_text && stage.flag) {
    return reader->Error("cleanup", "true after Fuse or ByteLevel is not supported");
  }
  return stage;
}

absl::StatusOr<Stage> ReadStrip(JsonReader* reader) {
  Stage stage{Kind::kStrip};
  ASSIGN_OR_RETURN(stage.text, ReadCharacter(reader, "content"));
  ASSIGN_OR_RETURN(const int64_t start, reader->Int64("start", {0, 1 << 20}));
  ASSIGN_OR_RETURN(const int64_t stop, reader->Int64("stop", {0, 1 << 20}));
  stage.start = static_cast<size_t>(start);
  stage.stop = static_cast<size_t>(stop);
  return stage;
}

absl::StatusOr<Stage> ReadStage(JsonReader* reader, const std::string& type, bool is_text) {
  if (type == "Replace") {
    return ReadReplace(reader, is_text);
  }
  if (type == "Metaspace") {
    return ReadMetaspace(reader);
  }
  if (type == "WordPiece") {
    return ReadWordPiece(reader, is_text);
  }
  if (type == "Strip") {
    return ReadStrip(reader);
  }
  if (type == "BPEDecoder") {
    Stage stage{Kind::kWordEnd};
    ASSIGN_OR_RETURN(stage.text, ReadText(reader, "suffix", 1));
    return stage;
  }
  if (type == "Fuse") {
    return Stage{Kind::kFuse};
  }
  if (is_text) {
    return reader->Error("type", fmt::format("{} after Fuse or ByteLevel is not supported", type));
  }
  if (type == "ByteFallback") {
    return Stage{Kind::kByteFallback};
  }
  for (const std::string_view key : {"add_prefix_space", "trim_offsets", "use_regex"}) {
    reader->Ignore(key);  // a decoder has no use for them
  }
  return Stage{Kind::kByteLevel};
}

}  // namespace

Decoder Decoder::FromJson(const nlohmann::json& value,
                          const std::string& path,
                          Problems* problems) {
  Decoder decoder;
  if (value.is_null()) {
    decoder.stages_.push_back({Kind::kSpaces});
  } else {
    decoder.Add(value, path, 0, problems);
  }
  return decoder;
}

void Decoder::Add(const nlohmann::json& value,
                  const std::string& path,
                  int depth,
                  Problems* problems) {
  std::optional<JsonReader> reader;
  std::string type;
  if (!problems->Take(JsonReader::Create(value, path), reader) ||
      !problems->Take(reader->Enum("type",
                                   {"Sequence",
                                    "ByteLevel",
                                    "ByteFallback",
                                    "Fuse",
                                    "Strip",
                                    "Replace",
                                    "Metaspace",
                                    "WordPiece",
                                    "BPEDecoder"}),
                      type)) {
    return;
  }
  if (stages_.size() >= kMaxStages || depth >= kMaxDepth) {
    problems->Add(
        fmt::format("{}: more than {} stages in all, or nested too deep", path, kMaxStages));
    return;
  }
  if (type != "Sequence") {
    bool is_text = false;
    size_t growth = 1;
    for (const Stage& before : stages_) {
      growth *= GrowthOf(before);
      is_text = is_text || before.kind == Kind::kFuse || before.kind == Kind::kByteLevel;
    }
    std::optional<Stage> stage;
    if (problems->Take(ReadStage(&*reader, type, is_text), stage)) {
      problems->Add(reader->Finish());
      if (growth * GrowthOf(*stage) > kMaxGrowth) {
        problems->Add(fmt::format(
            "{}: all replacements make a token more than {} times as long", path, kMaxGrowth));
        return;
      }
      stages_.push_back(*std::move(stage));
    }
    return;
  }
  const nlohmann::json* list = nullptr;
  if (!problems->Take(reader->Any("decoders"), list)) {
    return;
  }
  problems->Add(reader->Finish());
  if (!list->is_array()) {
    problems->Add(reader->Error("decoders", "not an array"));
    return;
  }
  for (size_t i = 0; i < list->size(); ++i) {
    Add((*list)[i], fmt::format("{}.decoders[{}]", path, i), depth + 1, problems);
  }
}

std::string Decoder::BytesInside(std::string_view token) const {
  std::string text(token);
  bool is_text = false;
  for (const Stage& stage : stages_) {
    switch (stage.kind) {
      case Kind::kReplace:
        text = stage.pattern->is_literal() ? ReplaceAll(text, stage.pattern->literal(), stage.text)
                                           : text;
        break;
      case Kind::kMetaspace:
        text = ReplaceAll(text, stage.text, is_text && stage.flag ? "" : " ");
        break;
      case Kind::kWordPiece:
        text = WordPieceText(text, stage.text, is_text, stage.flag);
        break;
      case Kind::kByteFallback:
        if (const std::optional<uint8_t> byte = ByteOfToken(text, /*any_case=*/true)) {
          text = std::string(1, static_cast<char>(*byte));
        }
        break;
      case Kind::kWordEnd:
        text = ReplaceAll(text, stage.text, is_text ? "" : " ");
        break;
      case Kind::kStrip:  // of a text only the ends
      case Kind::kFuse:
        break;
      case Kind::kByteLevel:
        if (std::optional<std::string> bytes = BytesOfToken(text)) {
          text = *std::move(bytes);
        }
        break;
      case Kind::kSpaces:
        text = fmt::format(" {}", text);
        break;
    }
    is_text = is_text || stage.kind == Kind::kFuse || stage.kind == Kind::kByteLevel;
  }
  return text;
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string replaced;
  size_t done = 0;
  for (size_t at = text.find(from); at != std::string_view::npos; at = text.find(from, done)) {
    replaced.append(text.substr(done, at - done)).append(to);
    done = at + from.size();
  }
  return replaced.append(text.substr(done));
}

std::string WordPieceText(std::string_view token,
                          std::string_view prefix,
                          bool first,
                          bool clean_up) {
  const bool continues = token.rfind(prefix, 0) == 0;
  std::string text;
  if (!first && !continues) {
    text.push_back(' ');
  }
  text.append(token.substr(!first && continues ? prefix.size() : 0));
  if (clean_up) {
    using Pair = std::pair<std::string_view, std::string_view>;
    static constexpr std::array<Pair, 11> kCleaned = {{{" .", "."},
                                                       {" ?", "?"},
                                                       {" !", "!"},
                                                       {" ,", ","},
                                                       {" ' ", "'"},
                                                       {" n't", "n't"},
                                                       {" 'm", "'m"},
                                                       {" do not", " don't"},
                                                       {" 's", "'s"},
                                                       {" 've", "'ve"},
                                                       {" 're", "'re"}}};
    for (const auto& [from, to] : kCleaned) {
      text = ReplaceAll(text, from, to);
    }
  }
  return text;
}

bool MayBecomeUtf8(std::string_view bytes) {
  const std::string_view rest = bytes.substr(ValidUtf8Prefix(bytes));
  // What is left has begun a character if repairing it leaves it to be continued.
  std::string repaired;
  Utf8Repair repair;
  repair.Push(rest, &repaired);
  return repaired.empty();
}

}  // namespace ringserve
