#include "engine/text/vocab_json.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace ringserve {

std::string Quote(std::string_view text) {
  constexpr size_t kMaxShown = 64;
  const std::string dumped =
      nlohmann::json(text.substr(0, kMaxShown))
          .dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  return text.size() > kMaxShown ? dumped + "..." : dumped;
}

absl::StatusOr<VocabJson> ReadVocabObject(const nlohmann::json& value, const std::string& path) {
  if (!value.is_object()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: {} is not an object", path, value.type_name()));
  }
  VocabJson vocab;
  vocab.ids.reserve(value.size());
  vocab.tokens.reserve(value.size());
  std::vector<bool> taken;
  for (const auto& [token, id_json] : value.items()) {
    // clang 14 captures no structured binding by reference.
    const auto error = [&path, &name = token](std::string_view message) {
      return absl::InvalidArgumentError(fmt::format("{}[{}]: {}", path, Quote(name), message));
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
    vocab.ids.emplace(token, id);
    vocab.tokens.emplace_back(token, id);
  }
  return vocab;
}

absl::StatusOr<int32_t> ReadTokenName(JsonReader* reader,
                                      std::string_view key,
                                      const VocabJson& vocab) {
  ASSIGN_OR_RETURN(const std::string token, reader->String(key));
  const int32_t id = vocab.Find(token);
  if (id < 0) {
    return reader->Error(key, fmt::format("{} is not in the vocabulary", Quote(token)));
  }
  return id;
}

}  // namespace ringserve
