#include "engine/chat/jinja_json.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/chat/jinja_arguments.h"
#include "engine/chat/jinja_budget.h"
#include "engine/text/utf8.h"

namespace ringserve::jinja {
namespace {

void AppendUnit(uint32_t unit, std::string* out) {
  *out += fmt::format("\\u{:04x}", unit);
}

void AppendEscaped(std::string_view text, size_t* at, bool ensure_ascii, std::string* out) {
  const size_t begin = *at;
  const char32_t c = DecodeUtf8(text, at);
  static constexpr std::string_view kFrom = "\"\\\n\r\t\f\b";
  static constexpr std::string_view kTo = "\"\\nrtfb";
  if (const size_t known = c < 0x80 ? kFrom.find(static_cast<char>(c)) : std::string_view::npos;
      known != std::string_view::npos) {
    *out += '\\';
    *out += kTo[known];
  } else if (c >= 0x20 && (c < 0x7f || !ensure_ascii)) {
    out->append(text.substr(begin, *at - begin));
  } else if (c < 0x10000) {
    AppendUnit(c, out);
  } else {
    AppendUnit(0xd800 + ((c - 0x10000) >> 10), out);
    AppendUnit(0xdc00 + ((c - 0x10000) & 0x3ff), out);
  }
}

std::string Quote(std::string_view text, bool ensure_ascii) {
  std::string out = "\"";
  for (size_t at = 0; at < text.size();) {
    AppendEscaped(text, &at, ensure_ascii, &out);
  }
  return out + '"';
}

std::string NumberToJson(double value) {
  return std::isnan(value)   ? "NaN"
         : std::isinf(value) ? (value < 0 ? "-Infinity" : "Infinity")
                             : FloatRepr(value);
}

class Writer {
 public:
  Writer(const JsonStyle& style, Budget* budget) : style_(style), budget_(budget) {}

  absl::StatusOr<std::string> Run(const Value& value) {
    RETURN_IF_ERROR(Write(value));
    return std::move(out_);
  }

 private:
  absl::Status Write(const Value& value) {
    RETURN_IF_ERROR(budget_->Spend());
    RETURN_IF_ERROR(budget_->CheckSize(static_cast<double>(out_.size())));
    switch (value.type()) {
      case Value::Type::kNone:
        out_ += "null";
        return absl::OkStatus();
      case Value::Type::kBool:
        out_ += value.IsTrue() ? "true" : "false";
        return absl::OkStatus();
      case Value::Type::kInt:
        out_ += Repr(value);
        return absl::OkStatus();
      case Value::Type::kFloat:
        out_ += NumberToJson(value.AsDouble());
        return absl::OkStatus();
      case Value::Type::kString:
        out_ += Quote(value.bytes(), style_.ensure_ascii);
        return absl::OkStatus();
      case Value::Type::kList:
      case Value::Type::kTuple:
        return WriteList(value.elements());
      case Value::Type::kDict:
        return WriteDict(value.dict());
      default:
        return TypeError(
            fmt::format("object of type {} is not JSON serializable", value.type_name()));
    }
  }

  void NewLine() {
    if (style_.indent) {
      out_ += '\n';
      for (int i = 0; i < level_; ++i) {
        out_ += *style_.indent;
      }
    }
  }

  absl::Status WriteList(const List& elements) {
    if (elements.empty()) {
      out_ += "[]";
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(budget_->Enter());
    out_ += '[';
    ++level_;
    for (size_t i = 0; i < elements.size(); ++i) {
      out_ += i > 0 ? style_.item_separator : "";
      NewLine();
      RETURN_IF_ERROR(Write(elements[i]));
    }
    --level_;
    NewLine();
    out_ += ']';
    budget_->Leave();
    return absl::OkStatus();
  }

  static absl::StatusOr<std::string> KeyText(const Value& key) {
    if (key.is_string()) {
      return key.bytes();
    }
    if (key.is_bool()) {
      return std::string(key.IsTrue() ? "true" : "false");
    }
    if (key.is_none()) {
      return std::string("null");
    }
    if (key.is_number()) {
      return key.is_int() ? Repr(key) : NumberToJson(key.AsDouble());
    }
    return TypeError(fmt::format("a key of JSON cannot be a {}", key.type_name()));
  }

  absl::Status WriteDict(const Dict& dict) {
    if (dict.entries().empty()) {
      out_ += "{}";
      return absl::OkStatus();
    }
    std::vector<Dict::Entry> entries = dict.entries();
    absl::Status order_error;
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [&](const auto& a, const auto& b) {
        const absl::StatusOr<int> order = Compare(a.first, b.first);
        order_error = order.ok() ? order_error : order.status();
        return order.ok() && *order < 0;
      });
    }
    RETURN_IF_ERROR(order_error);
    RETURN_IF_ERROR(budget_->Enter());
    out_ += '{';
    ++level_;
    for (size_t i = 0; i < entries.size(); ++i) {
      out_ += i > 0 ? style_.item_separator : "";
      NewLine();
      ASSIGN_OR_RETURN(const std::string key, KeyText(entries[i].first));
      out_ += Quote(key, style_.ensure_ascii) + style_.key_separator;
      RETURN_IF_ERROR(Write(entries[i].second));
    }
    --level_;
    NewLine();
    out_ += '}';
    budget_->Leave();
    return absl::OkStatus();
  }

  const JsonStyle& style_;
  Budget* budget_;
  std::string out_;
  int level_ = 0;
};

}  // namespace

Value FromJson(const nlohmann::ordered_json& json, Budget* budget) {
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::boolean:
      return Value::Bool(json.get<bool>());
    case nlohmann::ordered_json::value_t::number_integer:
      return Value::Int(json.get<int64_t>());
    case nlohmann::ordered_json::value_t::number_unsigned: {
      const auto number = json.get<uint64_t>();
      return number >> 63 == 0 ? Value::Int(static_cast<int64_t>(number))
                               : Value::Float(static_cast<double>(number));
    }
    case nlohmann::ordered_json::value_t::number_float:
      return Value::Float(json.get<double>());
    case nlohmann::ordered_json::value_t::string:
      return Value::String(json.get<std::string>(), budget);
    case nlohmann::ordered_json::value_t::array: {
      List elements;
      for (const nlohmann::ordered_json& element : json) {
        elements.push_back(FromJson(element, budget));
      }
      return Value::MakeList(std::move(elements));
    }
    case nlohmann::ordered_json::value_t::object: {
      Dict dict;
      for (const auto& [key, value] : json.items()) {
        dict.SetString(key, FromJson(value, budget));
      }
      return Value::MakeDict(std::move(dict));
    }
    default:
      return Value::None();
  }
}

absl::StatusOr<std::string> ToJson(const Value& value, const JsonStyle& style, Budget* budget) {
  return Writer(style, budget).Run(value);
}

}  // namespace ringserve::jinja
