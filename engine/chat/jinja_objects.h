// What has an identity in a template.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "engine/chat/jinja_interpreter.h"
#include "engine/chat/jinja_value.h"

namespace ringserve::jinja {

// A function of ours, or a method with its object.
using Native = absl::StatusOr<Value> (*)(Interpreter& interpreter,
                                         const Value& self,
                                         const Arguments& arguments);

class Function final : public Object {
 public:
  // `name` lives as long as the program.
  Function(std::string_view name, Native native, Value self)
      : name_(name), native_(native), self_(std::move(self)) {}

  std::string_view type_name() const override { return "function"; }

  bool is_callable() const override { return true; }

  absl::StatusOr<Value> Call(Interpreter& interpreter, const Arguments& arguments) override {
    return native_(interpreter, self_, arguments);
  }

 private:
  std::string_view name_;
  Native native_;
  Value self_;
};

class Macro final : public Object {
 public:
  // `statement` lives as long as the rendering.
  Macro(const Statement& statement, std::shared_ptr<Scope> scope)
      : statement_(statement), scope_(std::move(scope)) {}

  std::string_view type_name() const override { return "Macro"; }

  bool is_callable() const override { return true; }

  std::optional<Value> Attribute(std::string_view name) const override;

  absl::StatusOr<Value> Call(Interpreter& interpreter, const Arguments& arguments) override {
    return interpreter.RunMacro(statement_, scope_, arguments);
  }

 private:
  const Statement& statement_;
  const std::shared_ptr<Scope> scope_;
};

// The only thing that a template can change.
class Namespace final : public Object {
 public:
  std::string_view type_name() const override { return "Namespace"; }

  std::optional<Value> Attribute(std::string_view name) const override {
    const Value* value = values_.FindString(name);
    return value == nullptr ? std::nullopt : std::optional(*value);
  }

  void Set(std::string_view name, Value value) { values_.SetString(name, std::move(value)); }

  void Clear() { values_ = Dict(); }

 private:
  Dict values_;
};

// The variable `loop`.
class LoopState final : public Object, public std::enable_shared_from_this<LoopState> {
 public:
  LoopState(const Statement& statement, std::shared_ptr<Scope> scope, List elements, int64_t depth0)
      : statement_(statement),
        scope_(std::move(scope)),
        elements_(std::move(elements)),
        depth0_(depth0) {}

  std::string_view type_name() const override { return "LoopContext"; }

  std::optional<Value> Attribute(std::string_view name) const override;

  std::optional<int64_t> Length() const override { return static_cast<int64_t>(elements_.size()); }

  bool is_callable() const override { return statement_.is_recursive; }

  absl::StatusOr<Value> Call(Interpreter& interpreter, const Arguments& arguments) override;

  void MoveTo(size_t index) { index_ = index; }

  const Statement& statement() const { return statement_; }

  const std::shared_ptr<Scope>& scope() const { return scope_; }

  int64_t depth0() const { return depth0_; }

  // loop.changed: whether it is not what it was the last time.
  bool Changed(const List& values);

  size_t index() const { return index_; }

 private:
  const Statement& statement_;
  const std::shared_ptr<Scope> scope_;  // around the loop
  const List elements_;
  const int64_t depth0_;
  size_t index_ = 0;
  std::optional<Value> last_;  // what loop.changed was given
};

// joiner(): nothing the first time, then the separator.
class Joiner final : public Object {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {}

  std::string_view type_name() const override { return "Joiner"; }

  bool is_callable() const override { return true; }

  absl::StatusOr<Value> Call(Interpreter& interpreter, const Arguments& arguments) override;

 private:
  Value separator_;
  bool was_used_ = false;
};

// cycler(a, b, ...).
class Cycler final : public Object, public std::enable_shared_from_this<Cycler> {
 public:
  explicit Cycler(List elements) : elements_(std::move(elements)) {}

  std::string_view type_name() const override { return "Cycler"; }

  std::optional<Value> Attribute(std::string_view name) const override;

  Value Next() { return elements_[std::exchange(at_, (at_ + 1) % elements_.size())]; }

  void Reset() { at_ = 0; }

 private:
  const List elements_;
  size_t at_ = 0;
};

// One group of the groupby filter.
class Group final : public Object {
 public:
  Group(Value key, Value members) : pair_{std::move(key), std::move(members)} {}

  std::string_view type_name() const override { return "_GroupTuple"; }

  std::string Print() const override { return Repr(Value::MakeTuple(pair_)); }

  std::optional<Value> Attribute(std::string_view name) const override;
  std::optional<Value> Item(int64_t index) const override;

  std::optional<int64_t> Length() const override { return 2; }

  bool is_iterable() const override { return true; }

  std::optional<List> Elements() override { return pair_; }

  Extent extent() const override { return ExtentOf(pair_); }

 private:
  const List pair_;
};

// The functions that every template can call: range, dict, namespace, cycler, joiner,
// raise_exception, strftime_now.
void AddGlobals(Scope* scope);

// A method of a string, list, tuple or dict; none if Python's type has no such method. Methods that
// would change the object are there and refuse, as in Jinja's immutable sandbox.
std::optional<Value> FindMethod(const Value& value, std::string_view name);

}  // namespace ringserve::jinja
