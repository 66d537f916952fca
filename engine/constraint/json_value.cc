#include "engine/constraint/json_value.h"

#include <algorithm>
#include <optional>

#include <absl/container/flat_hash_set.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/constraint/decimal.h"

namespace ringserve {
namespace {

constexpr size_t kMaxDepth = 128;

class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return Add({.kind = JsonValue::Kind::kNull}); }

  bool boolean(bool value) override {
    return Add({.kind = JsonValue::Kind::kBoolean, .boolean = value});
  }

  bool number_integer(number_integer_t value) override { return Number(std::to_string(value)); }

  bool number_unsigned(number_unsigned_t value) override { return Number(std::to_string(value)); }

  bool number_float(number_float_t /*value*/, const string_t& text) override {
    return Number(text);
  }

  bool string(string_t& value) override {
    return Add({.kind = JsonValue::Kind::kString, .text = std::move(value)});
  }

  bool binary(binary_t& /*value*/) override { return false; }

  bool start_object(size_t /*size*/) override { return Push(JsonValue::Kind::kObject); }

  bool start_array(size_t /*size*/) override { return Push(JsonValue::Kind::kArray); }

  bool end_object() override { return Pop(); }

  bool end_array() override { return Pop(); }

  bool key(string_t& name) override {
    Level& top = stack_.back();
    if (!top.keys.insert(name).second) {
      error_ = fmt::format("key \"{}\" is there twice in one object", name);
      return false;
    }
    top.key = std::move(name);
    return true;
  }

  bool parse_error(size_t position,
                   const std::string& /*last_token*/,
                   const nlohmann::detail::exception& exception) override {
    error_ = fmt::format("byte {}: {}", position, exception.what());
    return false;
  }

  const std::string& error() const { return error_; }

  JsonValue Take() { return std::move(root_); }

 private:
  struct Level {
    JsonValue value;
    std::string key;
    absl::flat_hash_set<std::string> keys;
  };

  bool Number(std::string text) {
    return Add({.kind = JsonValue::Kind::kNumber, .text = std::move(text)});
  }

  bool Add(JsonValue value) {
    if (stack_.empty()) {
      root_ = std::move(value);
    } else if (Level& top = stack_.back(); top.value.kind == JsonValue::Kind::kObject) {
      top.value.members.emplace_back(std::move(top.key), std::move(value));
    } else {
      top.value.items.push_back(std::move(value));
    }
    return true;
  }

  bool Push(JsonValue::Kind kind) {
    if (stack_.size() >= kMaxDepth) {
      error_ = fmt::format("nested deeper than {} levels", kMaxDepth);
      return false;
    }
    stack_.emplace_back();
    stack_.back().value.kind = kind;
    return true;
  }

  bool Pop() {
    JsonValue value = std::move(stack_.back().value);
    stack_.pop_back();
    for (size_t i = 0; i < value.members.size(); ++i) {
      value.sorted.push_back(static_cast<uint32_t>(i));
    }
    std::sort(value.sorted.begin(), value.sorted.end(), [&value](uint32_t a, uint32_t b) {
      return value.members[a].first < value.members[b].first;
    });
    return Add(std::move(value));
  }

  std::string error_;
  JsonValue root_;
  std::vector<Level> stack_;
};

}  // namespace

const JsonValue* JsonValue::Find(std::string_view key) const {
  const auto found = std::lower_bound(
      sorted.begin(), sorted.end(), key, [this](uint32_t place, std::string_view wanted) {
        return members[place].first < wanted;
      });
  return found == sorted.end() || members[*found].first != key ? nullptr : &members[*found].second;
}

bool JsonValue::IsWhole() const {
  const std::optional<Decimal> value =
      kind == Kind::kNumber ? ParseDecimal(text) : std::optional<Decimal>();
  return value && value->fraction.empty();
}

absl::StatusOr<JsonValue> ParseJsonValue(std::string_view text, size_t max_bytes) {
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(
        fmt::format("{} bytes, more than the limit of {}", text.size(), max_bytes));
  }
  Builder builder;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) {
    return absl::InvalidArgumentError(builder.error().empty() ? "not JSON" : builder.error());
  }
  return builder.Take();
}

bool Equal(const JsonValue& a, const JsonValue& b) {
  if (a.kind != b.kind) {
    return false;
  }
  switch (a.kind) {
    case JsonValue::Kind::kNull:
      return true;
    case JsonValue::Kind::kBoolean:
      return a.boolean == b.boolean;
    case JsonValue::Kind::kNumber:
      return a.text == b.text ||
             (ParseDecimal(a.text) && ParseDecimal(a.text) == ParseDecimal(b.text));
    case JsonValue::Kind::kString:
      return a.text == b.text;
    case JsonValue::Kind::kArray:
      return std::equal(a.items.begin(), a.items.end(), b.items.begin(), b.items.end(), &Equal);
    case JsonValue::Kind::kObject:
      return a.members.size() == b.members.size() &&
             std::all_of(a.members.begin(), a.members.end(), [&](const auto& member) {
               const JsonValue* other = b.Find(member.first);
               return other != nullptr && Equal(member.second, *other);
             });
  }
  return false;
}

}  // namespace ringserve
