#include "engine/chat/jinja_value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "engine/base/check.h"
#include "engine/chat/jinja_budget.h"
#include "engine/chat/python_text.h"

namespace ringserve::jinja {
namespace {

// Equal keys, and only they, have equal spellings: 1, 1.0 and True are one key.
std::optional<std::string> SpellKey(const Value& key) {
  switch (key.type()) {
    case Value::Type::kString:
      return "s" + key.bytes();
    case Value::Type::kNone:
      return "n";
    case Value::Type::kUndefined:
      return "u";
    case Value::Type::kBool:
    case Value::Type::kInt:
      return fmt::format("i{}", key.AsInt());
    case Value::Type::kFloat: {
      const double value = key.AsDouble();
      if (value == std::floor(value) && std::abs(value) < 9e18) {
        return fmt::format("i{}", static_cast<int64_t>(value));
      }
      return "f" + FloatRepr(value);
    }
    case Value::Type::kTuple: {
      std::string spelling = fmt::format("t{}", key.elements().size());
      for (const Value& element : key.elements()) {
        const std::optional<std::string> part = SpellKey(element);
        if (!part) {
          return std::nullopt;
        }
        spelling += fmt::format(":{}:{}", part->size(), *part);
      }
      return spelling;
    }
    default:
      return std::nullopt;
  }
}

bool EqualElements(const List& a, const List& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), Equal);
}

bool EqualDicts(const Dict& a, const Dict& b) {
  if (a.entries().size() != b.entries().size()) {
    return false;
  }
  return std::all_of(a.entries().begin(), a.entries().end(), [&b](const Dict::Entry& entry) {
    const Value* other = b.Find(entry.first);
    return other != nullptr && Equal(entry.second, *other);
  });
}

absl::StatusOr<int> CompareElements(const List& a, const List& b) {
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (!Equal(a[i], b[i])) {
      return Compare(a[i], b[i]);
    }
  }
  return a.size() < b.size() ? -1 : a.size() > b.size() ? 1 : 0;
}

void Include(const Value& part, Extent* extent) {
  const Extent inner = part.extent();
  if (__builtin_add_overflow(extent->weight, inner.weight, &extent->weight)) {
    extent->weight = std::numeric_limits<int64_t>::max();
  }
  extent->depth = std::max(extent->depth, inner.depth + 1);
}

template <typename T>
int Order(const T& a, const T& b) {
  return a < b ? -1 : b < a ? 1 : 0;
}

std::string ReprElements(const List& elements, std::string_view open, std::string_view close) {
  std::string text(open);
  for (size_t i = 0; i < elements.size(); ++i) {
    text += (i > 0 ? ", " : "") + Repr(elements[i]);
  }
  return text += close;
}

}  // namespace

Extent ExtentOf(const List& elements) {
  Extent extent;
  for (const Value& element : elements) {
    Include(element, &extent);
  }
  return extent;
}

Text::Text(std::string bytes, Budget* budget)
    : bytes_(std::move(bytes)), length_(CountCodePoints(bytes_)), budget_(budget) {
  if (budget_ != nullptr) {
    budget_->Take(static_cast<int64_t>(bytes_.size()));
  }
}

Text::~Text() {
  if (budget_ != nullptr) {
    budget_->Return(static_cast<int64_t>(bytes_.size()));
  }
}

std::string Object::Print() const {
  return fmt::format("<{} object>", type_name());
}

std::optional<Value> Object::Attribute(std::string_view /*name*/) const {
  return std::nullopt;
}

std::optional<Value> Object::Item(int64_t /*index*/) const {
  return std::nullopt;
}

std::optional<List> Object::Elements() {
  return std::nullopt;
}

absl::StatusOr<Value> Object::Call(Interpreter& /*interpreter*/, const Arguments& /*arguments*/) {
  return absl::InvalidArgumentError(fmt::format("'{}' object is not callable", type_name()));
}

Value Value::Undefined(std::string why) {
  return {Type::kUndefined, std::make_shared<Text>(std::move(why), nullptr)};
}

Value Value::None() {
  return {Type::kNone, int64_t{0}};
}

Value Value::Bool(bool value) {
  return {Type::kBool, static_cast<int64_t>(value)};
}

Value Value::Int(int64_t value) {
  return {Type::kInt, value};
}

Value Value::Float(double value) {
  return {Type::kFloat, std::bit_cast<int64_t>(value)};
}

Value Value::String(std::string bytes, Budget* budget) {
  return {Type::kString, std::make_shared<Text>(std::move(bytes), budget)};
}

Value Value::MakeList(List elements) {
  const Extent extent = ExtentOf(elements);
  return {Type::kList, std::make_shared<Sequence>(Sequence{std::move(elements), extent})};
}

Value Value::MakeTuple(List elements) {
  const Extent extent = ExtentOf(elements);
  return {Type::kTuple, std::make_shared<Sequence>(Sequence{std::move(elements), extent})};
}

Value Value::MakeDict(Dict entries) {
  return {Type::kDict, std::make_shared<Dict>(std::move(entries))};
}

Value Value::FromObject(std::shared_ptr<Object> object) {
  return {Type::kObject, std::move(object)};
}

Extent Value::extent() const {
  switch (type_) {
    case Type::kList:
    case Type::kTuple:
      return static_cast<const Sequence*>(data_.get())->extent;
    case Type::kDict:
      return dict().extent();
    case Type::kObject:
      return object().extent();
    default:
      return {};
  }
}

bool Value::IsTrue() const {
  switch (type_) {
    case Type::kUndefined:
    case Type::kNone:
      return false;
    case Type::kBool:
    case Type::kInt:
      return AsInt() != 0;
    case Type::kFloat:
      return AsDouble() != 0;
    case Type::kObject:
      return object().IsTrue();
    default:
      return *Length() > 0;
  }
}

std::string_view Value::type_name() const {
  switch (type_) {
    case Type::kUndefined:
      return "Undefined";
    case Type::kNone:
      return "NoneType";
    case Type::kBool:
      return "bool";
    case Type::kInt:
      return "int";
    case Type::kFloat:
      return "float";
    case Type::kString:
      return "str";
    case Type::kList:
      return "list";
    case Type::kTuple:
      return "tuple";
    case Type::kDict:
      return "dict";
    case Type::kObject:
      return object().type_name();
  }
  return "";
}

std::optional<int64_t> Value::Length() const {
  switch (type_) {
    case Type::kUndefined:
      return 0;
    case Type::kString:
      return static_cast<int64_t>(text().length());
    case Type::kList:
    case Type::kTuple:
      return static_cast<int64_t>(elements().size());
    case Type::kDict:
      return static_cast<int64_t>(dict().entries().size());
    case Type::kObject:
      return object().Length();
    default:
      return std::nullopt;
  }
}

bool Value::is_iterable() const {
  return is_object() ? object().is_iterable() : Length().has_value();
}

bool Value::IsSame(const Value& other) const {
  if (type_ != other.type_) {
    return false;
  }
  if (is_string()) {  // short strings are interned in CPython; equal ones count as the same here
    return bytes() == other.bytes();
  }
  return is_undefined() || (bits_ == other.bits_ && data_ == other.data_);
}

absl::Status Dict::Set(const Value& key, Value value) {
  Include(key, &extent_);
  Include(value, &extent_);
  std::optional<std::string> spelling = SpellKey(key);
  if (!spelling) {
    return absl::InvalidArgumentError(fmt::format("unhashable type: '{}'", key.type_name()));
  }
  const auto [found, is_new] = index_.try_emplace(*std::move(spelling), entries_.size());
  if (is_new) {
    entries_.emplace_back(key, std::move(value));
  } else {
    entries_[found->second].second = std::move(value);
  }
  return absl::OkStatus();
}

void Dict::SetString(std::string_view key, Value value) {
  const absl::Status status = Set(Value::String(std::string(key), nullptr), std::move(value));
  RS_CHECK(status.ok());
}

const Value* Dict::Find(const Value& key) const {
  const std::optional<std::string> spelling = SpellKey(key);
  if (!spelling) {
    return nullptr;
  }
  const auto found = index_.find(*spelling);
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

const Value* Dict::FindString(std::string_view key) const {
  const auto found = index_.find("s" + std::string(key));
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

namespace {

bool EqualObjects(const Value& a, const Value& b) {
  if (a.IsSame(b)) {
    return true;
  }
  const auto* const range = a.As<Range>();
  const auto* const other_range = b.As<Range>();
  if (range != nullptr && other_range != nullptr) {
    return range->IsEqual(*other_range);
  }
  const auto* const view = a.As<DictView>();
  const auto* const other_view = b.As<DictView>();
  return view != nullptr && other_view != nullptr && view->IsEqual(*other_view);
}

}  // namespace

bool Equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return a.is_integral() && b.is_integral() ? a.AsInt() == b.AsInt()
                                              : a.AsDouble() == b.AsDouble();
  }
  if (a.type() != b.type()) {
    return false;
  }
  switch (a.type()) {
    case Value::Type::kString:
      return a.bytes() == b.bytes();
    case Value::Type::kList:
    case Value::Type::kTuple:
      return EqualElements(a.elements(), b.elements());
    case Value::Type::kDict:
      return EqualDicts(a.dict(), b.dict());
    case Value::Type::kObject:
      return EqualObjects(a, b);
    default:
      return a.IsSame(b);
  }
}

absl::StatusOr<int> Compare(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    return a.is_integral() && b.is_integral() ? Order(a.AsInt(), b.AsInt())
                                              : Order(a.AsDouble(), b.AsDouble());
  }
  if (a.is_string() && b.is_string()) {  // the order of UTF-8 bytes is that of code points
    return Order(a.bytes(), b.bytes());
  }
  if (a.type() == b.type() && (a.is_list() || a.is_tuple())) {
    return CompareElements(a.elements(), b.elements());
  }
  return absl::InvalidArgumentError(
      fmt::format("'{}' and '{}' have no order", a.type_name(), b.type_name()));
}

std::string FloatRepr(double value) {
  if (std::isnan(value)) {
    return "nan";
  }
  if (std::isinf(value)) {
    return value < 0 ? "-inf" : "inf";
  }
  std::array<char, 40> buffer;
  const auto result = std::to_chars(
      buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  std::string_view text(buffer.data(), static_cast<size_t>(result.ptr - buffer.data()));
  const size_t e = text.find('e');
  int exponent = 0;
  const std::string_view power = text.substr(text[e + 1] == '+' ? e + 2 : e + 1);
  std::from_chars(power.data(), power.data() + power.size(), exponent);
  const bool negative = text.front() == '-';
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') {
      digits += c;
    }
  }
  std::string out(negative ? "-" : "");
  const auto count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (count > 1) {
      out += "." + digits.substr(1);
    }
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) {
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  }
  if (count <= exponent + 1) {
    return out + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  }
  const size_t point = static_cast<size_t>(exponent) + 1;
  return out + digits.substr(0, point) + "." + digits.substr(point);
}

std::string Repr(const Value& value) {
  switch (value.type()) {
    case Value::Type::kUndefined:
      return "Undefined";
    case Value::Type::kNone:
      return "None";
    case Value::Type::kBool:
      return value.AsInt() != 0 ? "True" : "False";
    case Value::Type::kInt:
      return fmt::format("{}", value.AsInt());
    case Value::Type::kFloat:
      return FloatRepr(value.AsDouble());
    case Value::Type::kString:
      return StringRepr(value.bytes());
    case Value::Type::kList:
      return ReprElements(value.elements(), "[", "]");
    case Value::Type::kTuple:
      return ReprElements(value.elements(), "(", value.elements().size() == 1 ? ",)" : ")");
    case Value::Type::kDict: {
      std::string text = "{";
      for (const auto& [key, element] : value.dict().entries()) {
        text += (text.size() > 1 ? ", " : "") + Repr(key) + ": " + Repr(element);
      }
      return text + "}";
    }
    case Value::Type::kObject:
      return value.object().Print();
  }
  return "";
}

std::string Str(const Value& value) {
  if (value.is_undefined()) {
    return "";
  }
  return value.is_string() ? value.bytes() : Repr(value);
}

absl::StatusOr<List> Iterate(const Value& value, Budget* budget) {
  switch (value.type()) {
    case Value::Type::kUndefined:
      return List();
    case Value::Type::kString:
      return Characters(value.text(), budget);
    case Value::Type::kList:
    case Value::Type::kTuple:
      return value.elements();
    case Value::Type::kDict: {
      List keys;
      for (const Dict::Entry& entry : value.dict().entries()) {
        keys.push_back(entry.first);
      }
      return keys;
    }
    case Value::Type::kObject:
      if (std::optional<List> elements = value.object().Elements()) {
        return *std::move(elements);
      }
      break;
    default:
      break;
  }
  return absl::InvalidArgumentError(fmt::format("'{}' object is not iterable", value.type_name()));
}

List Characters(const Text& text, Budget* budget) {
  List characters;
  characters.reserve(text.length());
  for (const std::string_view character : SplitCodePoints(text.bytes())) {
    characters.push_back(Value::String(std::string(character), budget));
  }
  return characters;
}

}  // namespace ringserve::jinja
