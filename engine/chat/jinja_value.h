// The values of a Jinja template: Python's, as far as templates can meet them. Lists, tuples and
// dicts never change after they are made, as in Jinja's immutable sandbox, so they are shared.
#pragma once

#include <bit>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include "engine/base/status.h"

namespace ringserve::jinja {

class Budget;
class Interpreter;
class Value;

using List = std::vector<Value>;

// How much there is in a value, everything that it names counted as often as it is named: what
// comparing or printing it costs. Shared parts make it grow faster than the memory.
struct Extent {
  int64_t weight = 1;  // values in it, itself included; saturates
  int32_t depth = 0;   // of lists and dicts inside each other
};

// A string's bytes, always UTF-8, counted against the budget of the rendering that made it.
class Text {
 public:
  Text(std::string bytes, Budget* budget);
  ~Text();
  Text(const Text&) = delete;
  Text& operator=(const Text&) = delete;

  const std::string& bytes() const { return bytes_; }

  bool is_ascii() const { return length_ == bytes_.size(); }

  size_t length() const { return length_; }  // code points

 private:
  std::string bytes_;
  size_t length_;
  Budget* budget_;  // may be null: a literal of the template
};

// What a call is given.
struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Everything with an identity: functions, macros, namespaces, loops, iterators.
class Object {
 public:
  virtual ~Object() = default;
  // As Python names the type ("generator", "Macro").
  virtual std::string_view type_name() const = 0;
  // As str() and repr() show it.
  virtual std::string Print() const;

  virtual bool IsTrue() const { return true; }

  virtual std::optional<Value> Attribute(std::string_view name) const;
  virtual std::optional<Value> Item(int64_t index) const;  // negative: from the end

  virtual std::optional<int64_t> Length() const { return std::nullopt; }

  // The elements, where it can be iterated over. An iterator gives its elements once.
  virtual std::optional<List> Elements();

  virtual bool is_iterable() const { return false; }

  virtual Extent extent() const { return {}; }

  virtual bool is_callable() const { return false; }

  virtual absl::StatusOr<Value> Call(Interpreter& interpreter, const Arguments& arguments);
};

class Dict;

class Value {
 public:
  enum class Type {
    kUndefined,
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kList,
    kTuple,
    kDict,
    kObject
  };

  Value() : Value(Undefined("")) {}

  // `why` is what an error says where the value is used as if it were defined.
  static Value Undefined(std::string why);
  static Value None();
  static Value Bool(bool value);
  static Value Int(int64_t value);
  static Value Float(double value);
  static Value String(std::string bytes, Budget* budget);
  static Value MakeList(List elements);
  static Value MakeTuple(List elements);
  static Value MakeDict(Dict entries);
  static Value FromObject(std::shared_ptr<Object> object);

  Type type() const { return type_; }

  bool is_undefined() const { return type_ == Type::kUndefined; }

  bool is_none() const { return type_ == Type::kNone; }

  bool is_bool() const { return type_ == Type::kBool; }

  bool is_int() const { return type_ == Type::kInt; }

  bool is_float() const { return type_ == Type::kFloat; }

  bool is_string() const { return type_ == Type::kString; }

  bool is_list() const { return type_ == Type::kList; }

  bool is_tuple() const { return type_ == Type::kTuple; }

  bool is_dict() const { return type_ == Type::kDict; }

  bool is_object() const { return type_ == Type::kObject; }

  // Bools are ints in Python.
  bool is_integral() const { return is_int() || is_bool(); }

  bool is_number() const { return is_integral() || is_float(); }

  // Each requires the type it names.
  const std::string& why_undefined() const { return text().bytes(); }

  int64_t AsInt() const { return bits_; }  // bools too

  double AsDouble() const {  // ints and bools too
    return is_float() ? std::bit_cast<double>(bits_) : static_cast<double>(bits_);
  }

  const Text& text() const { return *static_cast<const Text*>(data_.get()); }

  const std::string& bytes() const { return text().bytes(); }

  const List& elements() const;  // of a list or tuple

  const Dict& dict() const { return *static_cast<const Dict*>(data_.get()); }

  Object& object() const { return *static_cast<Object*>(data_.get()); }

  // The object, if it is one of this class.
  template <typename T>
  T* As() const {
    return is_object() ? dynamic_cast<T*>(&object()) : nullptr;
  }

  Extent extent() const;
  bool IsTrue() const;
  // As Python names the type: "str", "int", "NoneType".
  std::string_view type_name() const;
  // Python's len(), where there is one.
  std::optional<int64_t> Length() const;
  bool is_iterable() const;
  // Python's `is`: the same object; small values by value.
  bool IsSame(const Value& other) const;

 private:
  struct Sequence;

  Value(Type type, int64_t bits) : type_(type), bits_(bits) {}

  Value(Type type, std::shared_ptr<void> data) : type_(type), data_(std::move(data)) {}

  Type type_;
  int64_t bits_ = 0;  // of a bool, int or float
  // Values are copied freely: all that hold it own what it names, and only objects change.
  std::shared_ptr<void> data_;
};

// In the order of insertion. Keys are strings, numbers, bools, None, what is
// undefined, and tuples of them.
class Dict {
 public:
  using Entry = std::pair<Value, Value>;

  // Replaces the value of a key that is there. TypeError in words if the key cannot be one.
  absl::Status Set(const Value& key, Value value);
  void SetString(std::string_view key, Value value);
  const Value* Find(const Value& key) const;
  const Value* FindString(std::string_view key) const;

  const std::vector<Entry>& entries() const { return entries_; }

  Extent extent() const { return extent_; }

 private:
  std::vector<Entry> entries_;
  absl::flat_hash_map<std::string, size_t> index_;  // by a spelling that equal keys share
  Extent extent_;
};

// Of a value that holds these.
Extent ExtentOf(const List& elements);

struct Value::Sequence {
  List elements;
  Extent extent;
};

inline const List& Value::elements() const {
  return static_cast<const Sequence*>(data_.get())->elements;
}

// Python's ==.
bool Equal(const Value& a, const Value& b);
// Python's <, and a TypeError in words between types that have no order. Negative, 0, positive.
absl::StatusOr<int> Compare(const Value& a, const Value& b);
// Python's str() and repr().
std::string Str(const Value& value);
std::string Repr(const Value& value);
std::string FloatRepr(double value);

// The elements, as a for loop meets them. A TypeError in words if there are none to be had.
absl::StatusOr<List> Iterate(const Value& value, Budget* budget);

// Code points of a text, one string each.
List Characters(const Text& text, Budget* budget);

// A generator: its elements can be had once.
class Iterator final : public Object {
 public:
  explicit Iterator(List elements) : elements_(std::move(elements)) {}

  std::string_view type_name() const override { return "generator"; }

  bool is_iterable() const override { return true; }

  std::optional<List> Elements() override { return std::exchange(elements_, {}); }

 private:
  List elements_;
};

// What dict.items(), keys() and values() return.
class DictView final : public Object {
 public:
  // `name` is "dict_items", "dict_keys" or "dict_values".
  DictView(std::string_view name, List elements) : name_(name), elements_(std::move(elements)) {}

  std::string_view type_name() const override { return name_; }

  std::string Print() const override;

  bool IsTrue() const override { return !elements_.empty(); }

  bool is_iterable() const override { return true; }

  std::optional<int64_t> Length() const override { return static_cast<int64_t>(elements_.size()); }

  std::optional<List> Elements() override { return elements_; }

  Extent extent() const override { return ExtentOf(elements_); }

  // As sets are, in any order; values only to themselves.
  bool IsEqual(const DictView& other) const;

 private:
  std::string_view name_;
  List elements_;
};

// range(): its elements are made when they are asked for.
class Range final : public Object {
 public:
  Range(int64_t start, int64_t stop, int64_t step) : start_(start), stop_(stop), step_(step) {}

  std::string_view type_name() const override { return "range"; }

  std::string Print() const override;

  bool IsTrue() const override { return *Length() > 0; }

  bool is_iterable() const override { return true; }

  std::optional<int64_t> Length() const override;
  std::optional<List> Elements() override;
  std::optional<Value> Item(int64_t index) const override;

  // If both have the same numbers in the same order.
  bool IsEqual(const Range& other) const;

  // Of indices within the range, or one past its ends.
  Range Slice(int64_t start, int64_t stop, int64_t step) const {
    return {start_ + start * step_, start_ + stop * step_, step_ * step};
  }

 private:
  int64_t start_, stop_, step_;
};

}  // namespace ringserve::jinja
