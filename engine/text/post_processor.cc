#include "engine/text/post_processor.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "engine/text/vocab_json.h"

namespace ringserve {
namespace {

constexpr size_t kMaxTokens = 1024;

absl::Status ReadTemplate(JsonReader* reader, PostProcessor* affixes) {
  ASSIGN_OR_RETURN(const nlohmann::json* pieces, reader->Any("single"));
  ASSIGN_OR_RETURN(JsonReader special_tokens, reader->Object("special_tokens"));
  reader->Ignore("pair");  // one text at a time
  RETURN_IF_ERROR(reader->Finish());
  if (!pieces->is_array()) {
    return reader->Error("single", "not an array");
  }
  std::vector<int32_t> prefix;
  bool after_text = false;
  for (size_t i = 0; i < pieces->size(); ++i) {
    const std::string path = fmt::format("{}.single[{}]", reader->path(), i);
    ASSIGN_OR_RETURN(JsonReader piece, JsonReader::Create((*pieces)[i], path));
    const bool is_text = piece.Has("Sequence");
    ASSIGN_OR_RETURN(JsonReader body, piece.Object(is_text ? "Sequence" : "SpecialToken"));
    RETURN_IF_ERROR(piece.Finish());
    ASSIGN_OR_RETURN(const std::string id, body.String("id"));
    body.Ignore("type_id");
    RETURN_IF_ERROR(body.Finish());
    if (is_text) {
      if (id != "A" || after_text) {
        return body.Error("id", "a template must contain A once and nothing of B");
      }
      after_text = true;
      continue;
    }
    ASSIGN_OR_RETURN(JsonReader token, special_tokens.Object(id));
    ASSIGN_OR_RETURN(const nlohmann::json* ids, token.Any("ids"));
    if (!ids->is_array()) {
      return token.Error("ids", "not an array of token ids");
    }
    std::vector<int32_t>& out = after_text ? affixes->suffix : prefix;
    for (const nlohmann::json& value : *ids) {
      if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{kMaxTokenId}) {
        return token.Error("ids", "not an array of token ids");
      }
      out.push_back(value.get<int32_t>());
    }
  }
  if (!after_text) {
    return reader->Error("single", "a template must contain A once and nothing of B");
  }
  affixes->prefix.insert(affixes->prefix.begin(), prefix.begin(), prefix.end());
  return absl::OkStatus();
}

// BERT's and RoBERTa's: ["[CLS]", 101] before and ["[SEP]", 102] after the text.
absl::StatusOr<int32_t> ReadTokenPair(JsonReader* reader, std::string_view key) {
  ASSIGN_OR_RETURN(const nlohmann::json* pair, reader->Any(key));
  if (!pair->is_array() || pair->size() != 2 || !(*pair)[0].is_string() ||
      !(*pair)[1].is_number_unsigned() || (*pair)[1].get<uint64_t>() > uint64_t{kMaxTokenId}) {
    return reader->Error(key, "not [token, id]");
  }
  return (*pair)[1].get<int32_t>();
}

absl::Status ReadPair(JsonReader* reader, PostProcessor* affixes) {
  ASSIGN_OR_RETURN(const int32_t cls, ReadTokenPair(reader, "cls"));
  ASSIGN_OR_RETURN(const int32_t sep, ReadTokenPair(reader, "sep"));
  affixes->prefix.insert(affixes->prefix.begin(), cls);
  affixes->suffix.push_back(sep);
  return absl::OkStatus();
}

absl::Status Read(const nlohmann::json& value, const std::string& path, PostProcessor* affixes) {
  ASSIGN_OR_RETURN(JsonReader reader, JsonReader::Create(value, path));
  ASSIGN_OR_RETURN(
      const std::string type,
      reader.Enum(
          "type",
          {"ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing", "Sequence"}));
  if (affixes->prefix.size() + affixes->suffix.size() > kMaxTokens) {
    return reader.Error("type",
                        fmt::format("more than {} tokens are added to each text", kMaxTokens));
  }
  if (type == "TemplateProcessing") {
    return ReadTemplate(&reader, affixes);
  }
  if (type != "Sequence") {
    if (type != "ByteLevel") {
      RETURN_IF_ERROR(ReadPair(&reader, affixes));
    }
    if (type != "BertProcessing") {  // trim offsets, which are not computed
      for (const std::string_view key : {"add_prefix_space", "trim_offsets", "use_regex"}) {
        reader.Ignore(key);
      }
    }
    return reader.Finish();
  }
  ASSIGN_OR_RETURN(const nlohmann::json* processors, reader.Any("processors"));
  RETURN_IF_ERROR(reader.Finish());
  if (!processors->is_array()) {
    return reader.Error("processors", "not an array");
  }
  for (size_t i = 0; i < processors->size(); ++i) {
    RETURN_IF_ERROR(Read((*processors)[i], fmt::format("{}.processors[{}]", path, i), affixes));
  }
  return absl::OkStatus();
}

}  // namespace

PostProcessor PostProcessor::FromJson(const nlohmann::json& value,
                                      const std::string& path,
                                      Problems* problems) {
  PostProcessor result;
  if (!value.is_null()) {
    problems->Add(Read(value, path, &result));
  }
  return result;
}

}  // namespace ringserve
