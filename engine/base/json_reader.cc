#include "engine/base/json_reader.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <type_traits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace ringserve {
namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMaxOrderedKeys = 1024;

std::string JoinPath(std::string_view path, std::string_view key) {
  return path.empty() ? std::string(key) : fmt::format("{}.{}", path, key);
}

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(message);
}

// Builds the document event by event, which is the only place where nlohmann shows duplicate keys
// and depth before it is too late.
template <typename Json>
class StrictHandler : public nlohmann::json_sax<Json> {
 public:
  using typename nlohmann::json_sax<Json>::number_integer_t;
  using typename nlohmann::json_sax<Json>::number_unsigned_t;
  using typename nlohmann::json_sax<Json>::number_float_t;
  using typename nlohmann::json_sax<Json>::string_t;
  using typename nlohmann::json_sax<Json>::binary_t;

  explicit StrictHandler(std::string_view what) : what_(what) {}

  bool null() override { return Add(nullptr); }

  bool boolean(bool value) override { return Add(value); }

  bool number_integer(number_integer_t value) override { return Add(value); }

  bool number_unsigned(number_unsigned_t value) override { return Add(value); }

  bool number_float(number_float_t value, const string_t& text) override {
    if (!std::isfinite(value)) {
      error_ = fmt::format("{}: {}: number {} is out of range", what_, Path(), text);
      return false;
    }
    return Add(value);
  }

  bool string(string_t& value) override { return Add(std::move(value)); }

  bool binary(binary_t& /*value*/) override { return false; }

  bool start_object(size_t /*size*/) override { return Push(Json::object()); }

  bool start_array(size_t /*size*/) override { return Push(Json::array()); }

  bool end_object() override { return Pop(); }

  bool end_array() override { return Pop(); }

  bool key(string_t& name) override {
    Level& top = stack_.back();
    top.key = std::move(name);
    if (top.value->contains(top.key)) {
      error_ = fmt::format("{}: {}: duplicate key", what_, Path());
      return false;
    }
    if (std::is_same_v<Json, nlohmann::ordered_json> && top.value->size() >= kMaxOrderedKeys) {
      error_ = fmt::format("{}: {}: more than {} keys", what_, Path(), kMaxOrderedKeys);
      return false;
    }
    return true;
  }

  bool parse_error(size_t position,
                   const std::string& /*last_token*/,
                   const nlohmann::detail::exception& exception) override {
    error_ = fmt::format("{}: byte {}: {}", what_, position, exception.what());
    return false;
  }

  const std::string& error() const { return error_; }

  Json Take() { return std::move(root_); }

 private:
  struct Level {
    Json* value;
    std::string key;
  };

  std::string Path() const {
    std::string path;
    for (const Level& level : stack_) {
      path = level.value->is_object() ? JoinPath(path, level.key)
                                      : fmt::format("{}[{}]", path, level.value->size());
    }
    return path;
  }

  Json* Place(Json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Level& top = stack_.back();
    if (top.value->is_object()) {
      return &((*top.value)[top.key] = std::move(value));
    }
    top.value->push_back(std::move(value));
    return &top.value->back();
  }

  template <typename T>
  bool Add(T&& value) {
    Place(Json(std::forward<T>(value)));
    return true;
  }

  bool Push(Json value) {
    if (stack_.size() >= kMaxDepth) {
      error_ = fmt::format("{}: {}: nested deeper than {} levels", what_, Path(), kMaxDepth);
      return false;
    }
    Json* placed = Place(std::move(value));
    stack_.push_back({placed, ""});
    return true;
  }

  bool Pop() {
    stack_.pop_back();
    return true;
  }

  std::string what_;
  std::string error_;
  Json root_;
  std::vector<Level> stack_;
};

template <typename Json>
absl::StatusOr<Json> ParseStrictly(std::string_view text, std::string_view what) {
  StrictHandler<Json> handler(what);
  if (!Json::sax_parse(text, &handler)) {
    return Invalid(handler.error().empty() ? fmt::format("{}: not JSON", what) : handler.error());
  }
  return handler.Take();
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view what) {
  return ParseStrictly<nlohmann::json>(text, what);
}

absl::StatusOr<nlohmann::ordered_json> ParseOrderedJson(std::string_view text,
                                                        std::string_view what) {
  return ParseStrictly<nlohmann::ordered_json>(text, what);
}

absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    return absl::NotFoundError(fmt::format("{}: no such file", path));
  }
  if (!std::filesystem::is_regular_file(status)) {
    return Invalid(fmt::format("{}: not a regular file", path));
  }
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) {
    return absl::PermissionDeniedError(fmt::format("{}: cannot be opened", path));
  }
  const auto size = static_cast<int64_t>(file.tellg());
  if (size > max_bytes) {
    return Invalid(fmt::format("{}: {} bytes, more than the limit of {}", path, size, max_bytes));
  }
  std::string text(static_cast<size_t>(size), '\0');
  file.seekg(0);
  if (!file.read(text.data(), size)) {
    return absl::DataLossError(fmt::format("{}: cannot be read", path));
  }
  return text;
}

JsonReader::JsonReader(const nlohmann::json* object, std::string path)
    : object_(object), path_(std::move(path)) {}

absl::StatusOr<JsonReader> JsonReader::Create(const nlohmann::json& value, std::string path) {
  if (!value.is_object()) {
    return Invalid(
        fmt::format("{}: {} is not an object", path.empty() ? "(root)" : path, value.type_name()));
  }
  return JsonReader(&value, std::move(path));
}

absl::StatusOr<const nlohmann::json*> JsonReader::Any(std::string_view key) {
  known_.emplace(key);
  const auto found = object_->find(std::string(key));
  if (found == object_->end()) {
    return Error(key, "missing");
  }
  return &*found;
}

absl::StatusOr<int64_t> JsonReader::Int64(std::string_view key, IntRange range) {
  ASSIGN_OR_RETURN(const nlohmann::json* value, Any(key));
  if (!value->is_number_integer()) {
    return Error(key, fmt::format("{} is not an integer", value->dump()));
  }
  // An unsigned number above INT64_MAX would turn negative in get<int64_t>.
  const bool too_large =
      value->is_number_unsigned() &&
      value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (too_large || value->get<int64_t>() < range.min || value->get<int64_t>() > range.max) {
    return Error(key, fmt::format("{} is not in [{}, {}]", value->dump(), range.min, range.max));
  }
  return value->get<int64_t>();
}

absl::StatusOr<int32_t> JsonReader::Int32(std::string_view key, IntRange range) {
  range.min = std::max<int64_t>(range.min, std::numeric_limits<int32_t>::min());
  range.max = std::min<int64_t>(range.max, std::numeric_limits<int32_t>::max());
  ASSIGN_OR_RETURN(const int64_t value, Int64(key, range));
  return static_cast<int32_t>(value);
}

absl::StatusOr<double> JsonReader::Double(std::string_view key, DoubleRange range) {
  ASSIGN_OR_RETURN(const nlohmann::json* value, Any(key));
  if (!value->is_number()) {
    return Error(key, fmt::format("{} is not a number", value->dump()));
  }
  const auto number = value->get<double>();
  if (!(number >= range.min) || !(number <= range.max)) {
    return Error(key, fmt::format("{} is not in [{}, {}]", value->dump(), range.min, range.max));
  }
  return number;
}

absl::StatusOr<bool> JsonReader::Bool(std::string_view key) {
  ASSIGN_OR_RETURN(const nlohmann::json* value, Any(key));
  if (!value->is_boolean()) {
    return Error(key, fmt::format("{} is not true or false", value->dump()));
  }
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonReader::String(std::string_view key) {
  ASSIGN_OR_RETURN(const nlohmann::json* value, Any(key));
  if (!value->is_string()) {
    return Error(key, fmt::format("{} is not a string", value->dump()));
  }
  return value->get<std::string>();
}

absl::StatusOr<std::string> JsonReader::Enum(std::string_view key,
                                             const std::vector<std::string_view>& values) {
  ASSIGN_OR_RETURN(const std::string value, String(key));
  for (const std::string_view allowed : values) {
    if (value == allowed) {
      return value;
    }
  }
  return Error(key, fmt::format("\"{}\" is not one of: {}", value, fmt::join(values, ", ")));
}

absl::StatusOr<JsonReader> JsonReader::Object(std::string_view key) {
  ASSIGN_OR_RETURN(const nlohmann::json* value, Any(key));
  return Create(*value, JoinPath(path_, key));
}

bool JsonReader::Has(std::string_view key) const {
  const auto found = object_->find(std::string(key));
  return found != object_->end() && !found->is_null();
}

void JsonReader::Ignore(std::string_view key) {
  known_.emplace(key);
}

std::vector<std::string> JsonReader::UnknownKeys() const {
  std::vector<std::string> unknown;
  for (const auto& [key, value] : object_->items()) {
    if (!known_.contains(key)) {
      unknown.push_back(key);
    }
  }
  return unknown;
}

absl::Status JsonReader::Finish() const {
  const std::vector<std::string> unknown = UnknownKeys();
  return unknown.empty() ? absl::OkStatus() : Error(unknown.front(), "unknown key");
}

absl::Status JsonReader::Error(std::string_view key, std::string_view message) const {
  return Invalid(fmt::format("{}: {}", JoinPath(path_, key), message));
}

}  // namespace ringserve
