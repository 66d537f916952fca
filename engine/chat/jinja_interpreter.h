// Runs a parsed template. One rendering, one thread.
//
// Scopes are Jinja's: a for, with, macro, call, filter or block set has its own, an if has not;
// what is set in a scope ends with it. Macros see the scope they were made in as it is when they
// are called.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/time/time.h>

#include "engine/base/status.h"
#include "engine/chat/jinja_ast.h"
#include "engine/chat/jinja_budget.h"
#include "engine/chat/jinja_value.h"

namespace ringserve::jinja {

struct Scope {
  std::vector<std::pair<std::string, Value>> variables;
  std::shared_ptr<Scope> parent;  // shared with what was made inside: macros outlive their scopes

  // Here or further out; null if there is none.
  const Value* Find(std::string_view name) const;
  void Set(std::string_view name, Value value);
};

class LoopState;
class Namespace;

class Interpreter {
 public:
  // `now`: what strftime_now tells, in the zone.
  Interpreter(const Limits& limits, absl::Time now, absl::TimeZone zone)
      : budget_(limits), now_(now), zone_(zone) {}

  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // Once.
  absl::StatusOr<std::string> Run(const Body& body, const Dict& context);

  Budget* budget() { return &budget_; }

  absl::Time now() const { return now_; }

  absl::TimeZone zone() const { return zone_; }

  Value String(std::string bytes) { return Value::String(std::move(bytes), &budget_); }

  // a.name and a[key], as templates look them up. What is not there is undefined; to look into
  // what is undefined is an error.
  absl::StatusOr<Value> Attribute(const Value& value, std::string_view name);
  absl::StatusOr<Value> Item(const Value& value, const Value& key);
  absl::StatusOr<Value> Call(const Value& callee, const Arguments& arguments);
  absl::StatusOr<Value> Filter(std::string_view name,
                               const Value& input,
                               const Arguments& arguments);
  absl::StatusOr<bool> Test(std::string_view name, const Value& input, const Arguments& arguments);
  absl::StatusOr<List> Elements(const Value& value);  // spends a step per element
  // Before a value is printed or compared: a step for each of its parts.
  absl::Status SpendOn(const Value& value);
  std::shared_ptr<Namespace> MakeNamespace();

  // The body of a macro or call block with its arguments bound.
  absl::StatusOr<Value> RunMacro(const Statement& macro,
                                 const std::shared_ptr<Scope>& scope,
                                 const Arguments& arguments);
  // loop(elements) in a recursive loop.
  absl::StatusOr<Value> RunLoopAgain(const LoopState& outer, const Value& elements);

 private:
  enum class Flow { kNext, kBreak, kContinue };

  absl::StatusOr<Flow> RunBody(const Body& body);
  absl::StatusOr<Flow> RunStatement(const Statement& statement);
  absl::Status Print(std::string_view text);
  absl::StatusOr<Flow> RunFor(const Statement& loop, const Value& elements, int64_t depth0);
  absl::StatusOr<bool> RunIterations(const Statement& loop, List elements, int64_t depth0);
  absl::StatusOr<bool> PassesTest(const Statement& loop, const Value& element);
  absl::Status RunSet(const Statement& set);
  absl::Status RunSetBlock(const Statement& set);
  absl::Status RunCallBlock(const Statement& block);
  absl::Status RunFilterBlock(const Statement& block);
  absl::StatusOr<Flow> RunWith(const Statement& block);
  absl::Status Assign(const Expression& target, const Value& value);
  Value MakeMacro(const Statement& macro);
  // What the body prints, in a scope of its own.
  absl::StatusOr<std::string> Capture(const Body& body);
  absl::StatusOr<Value> BindParameter(const Statement& macro,
                                      size_t index,
                                      const Arguments& arguments);

  absl::StatusOr<Value> Evaluate(const Expression& expression);
  absl::StatusOr<Value> EvaluateKind(const Expression& expression);
  absl::StatusOr<List> EvaluateAll(const std::vector<ExpressionPointer>& expressions);
  absl::StatusOr<Arguments> EvaluateArguments(const CallArguments& arguments);
  absl::StatusOr<Value> EvaluateName(const Expression& expression);
  absl::StatusOr<Value> EvaluateDict(const Expression& expression);
  absl::StatusOr<Value> EvaluateItem(const Expression& expression);
  absl::StatusOr<Value> EvaluateSlice(const Expression& slice, const Value& value);
  absl::StatusOr<Value> EvaluateCall(const Expression& expression);
  // `input` stands for the operand that a filter block has not.
  absl::StatusOr<Value> EvaluateFilter(const Expression& expression, const Value* input);
  absl::StatusOr<Value> EvaluateTest(const Expression& expression);
  absl::StatusOr<Value> EvaluateConcat(const Expression& expression);
  absl::StatusOr<Value> EvaluateCompare(const Expression& expression);
  absl::StatusOr<Value> EvaluateConditional(const Expression& expression);

  Budget budget_;
  const absl::Time now_;
  const absl::TimeZone zone_;
  std::shared_ptr<Scope> scope_;
  std::string* out_ = nullptr;
  // Emptied at the end: a macro and the scope it stands in hold each other, and so may namespaces.
  std::vector<std::shared_ptr<Scope>> captured_;
  std::vector<std::weak_ptr<Namespace>> namespaces_;
};

}  // namespace ringserve::jinja
