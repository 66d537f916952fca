#include "engine/text/sentencepiece_model.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/text/utf8.h"

namespace ringserve {
namespace {

using nlohmann::json;

constexpr const char* kSpace = "\xe2\x96\x81";  // U+2581

// The wire format of protobuf: fields of a message one by one.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : bytes_(bytes) {}

  struct Field {
    uint32_t number = 0;
    uint64_t value = 0;      // varint or fixed
    std::string_view bytes;  // length-delimited
  };

  // False at the end, and if the message is damaged.
  bool Next(Field* field) {
    uint64_t tag = 0;
    if (bytes_.empty() || !Varint(&tag)) {
      return false;
    }
    *field = {static_cast<uint32_t>(tag >> 3), 0, {}};
    switch (tag & 7) {
      case 0:
        return Varint(&field->value);
      case 1:
        return Fixed(8, &field->value);
      case 2: {
        uint64_t length = 0;
        damaged_ = !Varint(&length) || length > bytes_.size();
        if (!damaged_) {
          field->bytes = bytes_.substr(0, length);
          bytes_.remove_prefix(length);
        }
        return !damaged_;
      }
      case 5:
        return Fixed(4, &field->value);
      default:
        damaged_ = true;
        return false;
    }
  }

  bool damaged() const { return damaged_; }

 private:
  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) {
        break;
      }
      const auto byte = static_cast<uint8_t>(bytes_[0]);
      bytes_.remove_prefix(1);
      *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) {
        return true;
      }
    }
    damaged_ = true;
    return false;
  }

  bool Fixed(size_t size, uint64_t* value) {
    damaged_ = bytes_.size() < size;
    for (size_t i = size; !damaged_ && i-- > 0;) {
      *value = *value << 8 | static_cast<uint8_t>(bytes_[i]);
    }
    bytes_.remove_prefix(damaged_ ? 0 : size);
    return !damaged_;
  }

  std::string_view bytes_;
  bool damaged_ = false;
};

enum PieceType : uint64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kByte = 6 };

struct Piece {
  std::string text;
  double score = 0;
  uint64_t type = kNormal;
};

struct Model {
  std::vector<Piece> pieces;
  uint64_t type = 1;  // 1: Unigram, 2: BPE
  bool byte_fallback = false;
  uint64_t bos_id = 1, eos_id = 2;
  std::string charsmap;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool suffix_whitespace = false;
};

absl::Status Invalid(std::string_view message) {
  return absl::InvalidArgumentError(std::string(message));
}

bool ReadPiece(std::string_view bytes, Piece* piece) {
  WireReader reader(bytes);
  for (WireReader::Field field; reader.Next(&field);) {
    if (field.number == 1) {
      piece->text = field.bytes;
    } else if (field.number == 2) {
      piece->score = static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(field.value)));
    } else if (field.number == 3) {
      piece->type = field.value;
    }
  }
  return !reader.damaged();
}

bool ReadTrainerSpec(std::string_view bytes, Model* model) {
  WireReader reader(bytes);
  for (WireReader::Field field; reader.Next(&field);) {
    switch (field.number) {
      case 3:
        model->type = field.value;
        break;
      case 24:
        model->suffix_whitespace = field.value != 0;
        break;
      case 35:
        model->byte_fallback = field.value != 0;
        break;
      case 41:
        model->bos_id = field.value;
        break;
      case 42:
        model->eos_id = field.value;
        break;
      default:
        break;
    }
  }
  return !reader.damaged();
}

bool ReadNormalizerSpec(std::string_view bytes, Model* model) {
  WireReader reader(bytes);
  for (WireReader::Field field; reader.Next(&field);) {
    switch (field.number) {
      case 2:
        model->charsmap = field.bytes;
        break;
      case 3:
        model->add_dummy_prefix = field.value != 0;
        break;
      case 4:
        model->remove_extra_whitespaces = field.value != 0;
        break;
      case 5:
        model->escape_whitespaces = field.value != 0;
        break;
      default:
        break;
    }
  }
  return !reader.damaged();
}

absl::StatusOr<Model> ReadModel(std::string_view bytes) {
  Model model;
  WireReader reader(bytes);
  bool sound = true;
  for (WireReader::Field field; sound && reader.Next(&field);) {
    if (field.number == 1) {
      sound = ReadPiece(field.bytes, &model.pieces.emplace_back());
    } else if (field.number == 2) {
      sound = ReadTrainerSpec(field.bytes, &model);
    } else if (field.number == 3) {
      sound = ReadNormalizerSpec(field.bytes, &model);
    }
  }
  if (!sound || reader.damaged() || model.pieces.empty()) {
    return Invalid("not a SentencePiece model");
  }
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    if (ValidUtf8Prefix(model.pieces[i].text) != model.pieces[i].text.size()) {
      return Invalid(fmt::format("pieces[{}].piece: not UTF-8", i));
    }
  }
  if (model.type != 1 && model.type != 2) {
    return Invalid(fmt::format(
        "trainer_spec.model_type: {} is not supported (1, Unigram, and 2, BPE, are)", model.type));
  }
  if (!model.escape_whitespaces || model.suffix_whitespace) {
    return Invalid(
        "normalizer_spec.escape_whitespaces: only true is supported, with white space as a prefix");
  }
  return model;
}

std::string EncodeBase64(std::string_view bytes) {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k) {
      bits = bits << 8 | (k < count ? static_cast<uint8_t>(bytes[i + k]) : 0U);
    }
    for (size_t k = 0; k < 4; ++k) {
      text.push_back(k <= count ? kDigits[bits >> (18 - 6 * k) & 63] : '=');
    }
  }
  return text;
}

// Every pair of pieces that makes up another piece, that of the highest score first.
json Merges(const std::vector<Piece>& pieces) {
  std::unordered_map<std::string_view, size_t> id_of;
  for (size_t id = 0; id < pieces.size(); ++id) {
    id_of.emplace(pieces[id].text, id);
  }

  struct Merge {
    double score;
    size_t left_id, right_id;
    std::string_view left, right;
  };

  std::vector<Merge> merges;
  for (const Piece& piece : pieces) {
    const std::string_view text = piece.text;
    for (size_t cut = 0; piece.type == kNormal && cut < text.size();) {
      cut += Utf8Length(text[cut]);
      const auto left = id_of.find(text.substr(0, cut));
      const auto right = id_of.find(text.substr(cut));
      if (cut < text.size() && left != id_of.end() && right != id_of.end()) {
        merges.push_back({piece.score, left->second, right->second, left->first, right->first});
      }
    }
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tuple(-a.score, a.left_id, a.right_id) <
           std::tuple(-b.score, b.left_id, b.right_id);
  });
  json list = json::array();
  for (const Merge& merge : merges) {
    list.push_back(json::array({merge.left, merge.right}));
  }
  return list;
}

absl::StatusOr<json> ModelJsonOf(const Model& model) {
  size_t unk_id = model.pieces.size();
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    unk_id = model.pieces[id].type == kUnknown ? std::min(unk_id, id) : unk_id;
  }
  if (unk_id == model.pieces.size()) {
    return Invalid("pieces: none is of the type UNKNOWN");
  }
  json result = {{"byte_fallback", model.byte_fallback}};
  if (model.type == 1) {
    json vocab = json::array();
    for (const Piece& piece : model.pieces) {
      vocab.push_back(json::array({piece.text, piece.score}));
    }
    result.update({{"type", "Unigram"}, {"unk_id", unk_id}, {"vocab", std::move(vocab)}});
    return result;
  }
  json vocab = json::object();
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    if (!vocab.emplace(model.pieces[id].text, id).second) {
      return Invalid(fmt::format("pieces[{}].piece: a duplicate", id));
    }
  }
  result.update({{"type", "BPE"},
                 {"unk_token", model.pieces[unk_id].text},
                 {"fuse_unk", true},
                 {"vocab", std::move(vocab)},
                 {"merges", Merges(model.pieces)}});
  return result;
}

json AddedTokensOf(const Model& model) {
  json tokens = json::array();
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    if (piece.type == kUserDefined || piece.type == kControl || piece.type == kUnknown) {
      tokens.push_back({{"id", id},
                        {"content", piece.text},
                        {"single_word", false},
                        {"lstrip", false},
                        {"rstrip", false},
                        {"normalized", false},
                        {"special", piece.type != kUserDefined}});
    }
  }
  return tokens;
}

json ReplaceRegex(const char* regex, const char* content) {
  return {{"type", "Replace"}, {"pattern", {{"Regex", regex}}}, {"content", content}};
}

json NormalizerOf(const Model& model) {
  json steps = json::array();
  if (!model.charsmap.empty()) {
    steps.push_back(
        {{"type", "Precompiled"}, {"precompiled_charsmap", EncodeBase64(model.charsmap)}});
  }
  if (model.remove_extra_whitespaces) {
    steps.push_back(ReplaceRegex("\\A +| +\\z", ""));
    steps.push_back(ReplaceRegex(" {2,}", " "));
  }
  // As transformers' older conversions have it: each text between added tokens gets the prefix.
  if (model.add_dummy_prefix) {
    steps.push_back({{"type", "Prepend"}, {"prepend", kSpace}});
  }
  steps.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}});
  return {{"type", "Sequence"}, {"normalizers", std::move(steps)}};
}

json DecoderOf(const Model& model) {
  json stages = {{{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}},
                 {{"type", "ByteFallback"}},
                 {{"type", "Fuse"}}};
  if (model.add_dummy_prefix) {
    stages.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"type", "Sequence"}, {"decoders", std::move(stages)}};
}

absl::StatusOr<json> PostProcessorOf(const Model& model, const SentencePieceOptions& options) {
  json single = json::array();
  json specials = json::object();
  const auto add = [&](uint64_t id, const char* field) -> absl::Status {
    if (id >= model.pieces.size()) {
      return Invalid(
          fmt::format("trainer_spec.{}: there is no piece {}, which is to be added to "
                      "each text",
                      field,
                      static_cast<int64_t>(id)));
    }
    const std::string& text = model.pieces[id].text;
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
    specials[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
    return absl::OkStatus();
  };
  if (options.add_bos) {
    RETURN_IF_ERROR(add(model.bos_id, "bos_id"));
  }
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (options.add_eos) {
    RETURN_IF_ERROR(add(model.eos_id, "eos_id"));
  }
  return json{{"type", "TemplateProcessing"},
              {"single", std::move(single)},
              {"special_tokens", std::move(specials)}};
}

}  // namespace

absl::StatusOr<json> TokenizerJsonOfSentencePiece(std::string_view bytes,
                                                  const SentencePieceOptions& options) {
  ASSIGN_OR_RETURN(const Model model, ReadModel(bytes));
  ASSIGN_OR_RETURN(json model_json, ModelJsonOf(model));
  ASSIGN_OR_RETURN(json post_processor, PostProcessorOf(model, options));
  return json{{"version", "1.0"},
              {"added_tokens", AddedTokensOf(model)},
              {"normalizer", NormalizerOf(model)},
              {"pre_tokenizer", nullptr},
              {"post_processor", std::move(post_processor)},
              {"decoder", DecoderOf(model)},
              {"model", std::move(model_json)}};
}

}  // namespace ringserve
