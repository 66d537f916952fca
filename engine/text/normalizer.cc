#include "engine/text/normalizer.h"

#include <optional>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/text/normalizer_steps.h"

namespace ringserve {
namespace {

constexpr size_t kMaxSteps = 64;
constexpr int kMaxDepth = 8;
constexpr size_t kMaxContentBytes = 1024;

std::optional<std::string> DecodeBase64(std::string_view text) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (!text.empty() && text.back() == '=') {
    text.remove_suffix(1);
  }
  std::string bytes;
  uint32_t bits = 0;
  int num_bits = 0;
  for (const char c : text) {
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) {
      return std::nullopt;
    }
    bits = bits << 6 | static_cast<uint32_t>(digit);
    num_bits += 6;
    if (num_bits >= 8) {
      num_bits -= 8;
      bytes.push_back(static_cast<char>(bits >> num_bits & 0xff));
    }
  }
  return bytes;
}

absl::StatusOr<NormalizerStepPtr> ReadPrecompiled(JsonReader* reader) {
  ASSIGN_OR_RETURN(const std::string text, reader->String("precompiled_charsmap"));
  RETURN_IF_ERROR(reader->Finish());
  const std::optional<std::string> bytes = DecodeBase64(text);
  if (!bytes) {
    return reader->Error("precompiled_charsmap", "not base64");
  }
  auto charsmap = Charsmap::Parse(*bytes);
  if (!charsmap.ok()) {
    return reader->Error("precompiled_charsmap", std::string(charsmap.status().message()));
  }
  return MakePrecompiledStep(*std::move(charsmap));
}

absl::StatusOr<NormalizerStepPtr> ReadBert(JsonReader* reader) {
  BertOptions options{};
  ASSIGN_OR_RETURN(options.clean_text, reader->Bool("clean_text"));
  ASSIGN_OR_RETURN(options.handle_chinese_chars, reader->Bool("handle_chinese_chars"));
  ASSIGN_OR_RETURN(options.lowercase, reader->Bool("lowercase"));
  options.strip_accents = options.lowercase;
  if (reader->Has("strip_accents")) {
    ASSIGN_OR_RETURN(options.strip_accents, reader->Bool("strip_accents"));
  }
  reader->Ignore("strip_accents");
  RETURN_IF_ERROR(reader->Finish());
  return MakeBertStep(options);
}

absl::StatusOr<std::string> ReadContent(JsonReader* reader, std::string_view key) {
  ASSIGN_OR_RETURN(std::string content, reader->String(key));
  if (content.size() > kMaxContentBytes) {
    return reader->Error(key,
                         fmt::format("{} bytes, not in [0, {}]", content.size(), kMaxContentBytes));
  }
  return content;
}

absl::StatusOr<NormalizerStepPtr> ReadReplace(JsonReader* reader) {
  ASSIGN_OR_RETURN(const nlohmann::json* pattern_json, reader->Any("pattern"));
  ASSIGN_OR_RETURN(std::string content, ReadContent(reader, "content"));
  RETURN_IF_ERROR(reader->Finish());
  ASSIGN_OR_RETURN(Pattern pattern, Pattern::FromJson(*pattern_json, reader->path() + ".pattern"));
  return MakeReplaceStep(std::move(pattern), std::move(content));
}

absl::StatusOr<NormalizerStepPtr> ReadStrip(JsonReader* reader) {
  ASSIGN_OR_RETURN(const bool left, reader->Bool("strip_left"));
  ASSIGN_OR_RETURN(const bool right, reader->Bool("strip_right"));
  RETURN_IF_ERROR(reader->Finish());
  return MakeStripStep(left, right);
}

absl::StatusOr<NormalizerStepPtr> ReadPrepend(JsonReader* reader) {
  ASSIGN_OR_RETURN(std::string prefix, ReadContent(reader, "prepend"));
  RETURN_IF_ERROR(reader->Finish());
  return MakePrependStep(std::move(prefix));
}

NormalizerStepPtr MakePlainStep(const std::string& type) {
  return type == "NFC"            ? MakeNormalFormStep(NormalForm::kNfc)
         : type == "NFD"          ? MakeNormalFormStep(NormalForm::kNfd)
         : type == "NFKC"         ? MakeNormalFormStep(NormalForm::kNfkc)
         : type == "NFKD"         ? MakeNormalFormStep(NormalForm::kNfkd)
         : type == "Lowercase"    ? MakeLowercaseStep()
         : type == "StripAccents" ? MakeStripAccentsStep()
         : type == "Nmt"          ? MakeNmtStep()
                                  : MakeByteLevelStep();
}

absl::StatusOr<NormalizerStepPtr> ReadStep(JsonReader* reader, const std::string& type) {
  if (type == "Precompiled") {
    return ReadPrecompiled(reader);
  }
  if (type == "BertNormalizer") {
    return ReadBert(reader);
  }
  if (type == "Replace") {
    return ReadReplace(reader);
  }
  if (type == "Strip") {
    return ReadStrip(reader);
  }
  if (type == "Prepend") {
    return ReadPrepend(reader);
  }
  RETURN_IF_ERROR(reader->Finish());
  return MakePlainStep(type);
}

}  // namespace

Normalizer Normalizer::FromJson(const nlohmann::json& value,
                                const std::string& path,
                                Problems* problems) {
  Normalizer normalizer;
  if (!value.is_null()) {
    normalizer.Add(value, path, 0, problems);
  }
  return normalizer;
}

void Normalizer::Add(const nlohmann::json& value,
                     const std::string& path,
                     int depth,
                     Problems* problems) {
  std::optional<JsonReader> reader;
  std::string type;
  if (!problems->Take(JsonReader::Create(value, path), reader) ||
      !problems->Take(reader->Enum("type",
                                   {"Sequence",
                                    "NFC",
                                    "NFD",
                                    "NFKC",
                                    "NFKD",
                                    "Lowercase",
                                    "Strip",
                                    "StripAccents",
                                    "Nmt",
                                    "ByteLevel",
                                    "Prepend",
                                    "Replace",
                                    "Precompiled",
                                    "BertNormalizer"}),
                      type)) {
    return;
  }
  if (steps_.size() >= kMaxSteps || depth >= kMaxDepth) {
    problems->Add(
        fmt::format("{}: more than {} steps in all, or nested too deep", path, kMaxSteps));
    return;
  }
  if (type != "Sequence") {
    NormalizerStepPtr step;
    if (problems->Take(ReadStep(&*reader, type), step)) {
      steps_.push_back(std::move(step));
    }
    return;
  }
  const nlohmann::json* list = nullptr;
  if (!problems->Take(reader->Any("normalizers"), list)) {
    return;
  }
  problems->Add(reader->Finish());
  if (!list->is_array()) {
    problems->Add(reader->Error("normalizers", "not an array"));
    return;
  }
  for (size_t i = 0; i < list->size(); ++i) {
    Add((*list)[i], fmt::format("{}.normalizers[{}]", path, i), depth + 1, problems);
  }
}

absl::Status Normalizer::Apply(NormalizedText* text, RegexScratch* scratch) const {
  const size_t max_bytes = MaxNormalizedBytes(text->text.size());
  for (const auto& step : steps_) {
    RETURN_IF_ERROR(step->Apply(text, scratch));
    if (text->text.size() > max_bytes) {
      return absl::ResourceExhaustedError(
          fmt::format("text: more than {} bytes when it is normalized", max_bytes));
    }
  }
  return absl::OkStatus();
}

}  // namespace ringserve
