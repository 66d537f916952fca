#include "engine/chat/jinja_interpreter.h"

#include <algorithm>

#include <fmt/format.h>

#include "engine/chat/jinja_arguments.h"
#include "engine/chat/jinja_lexer.h"
#include "engine/chat/jinja_objects.h"

namespace ringserve::jinja {
namespace {

// The innermost statement that failed is the one to name.
absl::Status AtLine(int32_t line, const absl::Status& status) {
  const std::string message(status.message());
  if (message.rfind("line ", 0) == 0) {
    return status;
  }
  return {status.code(), fmt::format("line {}: {}", line, message)};
}

}  // namespace

const Value* Scope::Find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
    for (const auto& [variable, value] : scope->variables) {
      if (variable == name) {
        return &value;
      }
    }
  }
  return nullptr;
}

void Scope::Set(std::string_view name, Value value) {
  for (auto& [variable, old] : variables) {
    if (variable == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

Interpreter::~Interpreter() {
  for (const std::shared_ptr<Scope>& scope : captured_) {
    scope->variables.clear();
  }
  for (const std::weak_ptr<Namespace>& weak : namespaces_) {
    if (const std::shared_ptr<Namespace> space = weak.lock()) {
      space->Clear();
    }
  }
}

std::shared_ptr<Namespace> Interpreter::MakeNamespace() {
  auto space = std::make_shared<Namespace>();
  namespaces_.push_back(space);
  return space;
}

absl::StatusOr<std::string> Interpreter::Run(const Body& body, const Dict& context) {
  auto globals = std::make_shared<Scope>();
  AddGlobals(globals.get());
  for (const auto& [name, value] : context.entries()) {
    globals->Set(name.bytes(), value);
  }
  scope_ = std::make_shared<Scope>();
  scope_->parent = std::move(globals);
  std::string out;
  out_ = &out;
  RETURN_IF_ERROR(RunBody(body).status());
  return out;
}

absl::StatusOr<List> Interpreter::Elements(const Value& value) {
  if (const std::optional<int64_t> length = value.Length()) {
    RETURN_IF_ERROR(budget_.Spend(*length));  // before a range is made into a list
  }
  return Iterate(value, &budget_);
}

absl::Status Interpreter::Print(std::string_view text) {
  if (static_cast<int64_t>(out_->size() + text.size()) > budget_.limits().output_bytes) {
    return absl::ResourceExhaustedError(
        fmt::format("output of more than {} bytes", budget_.limits().output_bytes));
  }
  out_->append(text);
  return absl::OkStatus();
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunBody(const Body& body) {
  for (const std::unique_ptr<Statement>& statement : body) {
    RETURN_IF_ERROR(budget_.Enter());
    absl::Status spent = budget_.Spend();
    absl::StatusOr<Flow> flow = spent.ok() ? RunStatement(*statement) : std::move(spent);
    budget_.Leave();
    if (!flow.ok()) {
      return AtLine(statement->line, flow.status());
    }
    if (*flow != Flow::kNext) {
      return flow;
    }
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunStatement(const Statement& statement) {
  absl::Status status;
  switch (statement.kind) {
    case Statement::Kind::kText:
      status = Print(statement.text);
      break;
    case Statement::Kind::kPrint: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.value));
      RETURN_IF_ERROR(SpendOn(value));
      status = value.is_string() ? Print(value.bytes()) : Print(Str(value));
      break;
    }
    case Statement::Kind::kFor: {
      ASSIGN_OR_RETURN(const Value elements, Evaluate(*statement.value));
      return RunFor(statement, elements, 0);
    }
    case Statement::Kind::kIf: {
      ASSIGN_OR_RETURN(const Value condition, Evaluate(*statement.value));
      return RunBody(condition.IsTrue() ? statement.body : statement.otherwise);
    }
    case Statement::Kind::kSet:
      status = RunSet(statement);
      break;
    case Statement::Kind::kSetBlock:
      status = RunSetBlock(statement);
      break;
    case Statement::Kind::kMacro:
      scope_->Set(statement.text, MakeMacro(statement));
      break;
    case Statement::Kind::kCall:
      status = RunCallBlock(statement);
      break;
    case Statement::Kind::kFilter:
      status = RunFilterBlock(statement);
      break;
    case Statement::Kind::kWith:
      return RunWith(statement);
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
    case Statement::Kind::kGroup:
      return RunBody(statement.body);
  }
  RETURN_IF_ERROR(status);
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunFor(const Statement& loop,
                                                      const Value& elements,
                                                      int64_t depth0) {
  ASSIGN_OR_RETURN(List list, Elements(elements));
  ASSIGN_OR_RETURN(const bool ran, RunIterations(loop, std::move(list), depth0));
  if (ran || loop.otherwise.empty()) {
    return Flow::kNext;
  }
  const std::shared_ptr<Scope> outer = scope_;
  scope_ = std::make_shared<Scope>();
  scope_->parent = outer;
  ASSIGN_OR_RETURN(const Flow flow, RunBody(loop.otherwise));
  scope_ = outer;
  return flow;
}

absl::StatusOr<bool> Interpreter::PassesTest(const Statement& loop, const Value& element) {
  const std::shared_ptr<Scope> outer = scope_;
  scope_ = std::make_shared<Scope>();
  scope_->parent = outer;
  RETURN_IF_ERROR(Assign(*loop.target, element));
  ASSIGN_OR_RETURN(const Value passes, Evaluate(*loop.test));
  scope_ = outer;
  return passes.IsTrue();
}

// Where the body names `loop`, the loop has to know its length, so the test comes first for all
// elements; elsewhere it comes just before the body, which may change what it looks at.
absl::StatusOr<bool> Interpreter::RunIterations(const Statement& loop,
                                                List elements,
                                                int64_t depth0) {
  const std::shared_ptr<Scope> outer = scope_;
  std::shared_ptr<LoopState> state;
  if (loop.uses_loop) {
    List passing;
    for (const Value& element : elements) {
      bool passes = true;
      if (loop.test) {
        ASSIGN_OR_RETURN(passes, PassesTest(loop, element));
      }
      if (passes) {
        passing.push_back(element);
      }
    }
    elements = passing;
    state = std::make_shared<LoopState>(loop, outer, std::move(passing), depth0);
  }
  bool ran = false;
  for (size_t i = 0; i < elements.size(); ++i) {
    if (loop.test && !loop.uses_loop) {
      ASSIGN_OR_RETURN(const bool passes, PassesTest(loop, elements[i]));
      if (!passes) {
        continue;
      }
    }
    ran = true;
    scope_ = std::make_shared<Scope>();
    scope_->parent = outer;
    RETURN_IF_ERROR(Assign(*loop.target, elements[i]));
    if (state) {
      state->MoveTo(i);
      scope_->Set("loop", Value::FromObject(state));
    }
    ASSIGN_OR_RETURN(const Flow flow, RunBody(loop.body));
    if (flow == Flow::kBreak) {
      break;
    }
  }
  scope_ = outer;
  return ran;
}

absl::StatusOr<Value> Interpreter::RunLoopAgain(const LoopState& outer, const Value& elements) {
  RETURN_IF_ERROR(budget_.Enter());
  std::string printed;
  std::string* const out = std::exchange(out_, &printed);
  const std::shared_ptr<Scope> scope = std::exchange(scope_, outer.scope());
  RETURN_IF_ERROR(RunFor(outer.statement(), elements, outer.depth0() + 1).status());
  scope_ = scope;
  out_ = out;
  budget_.Leave();
  return String(std::move(printed));
}

absl::Status Interpreter::Assign(const Expression& target, const Value& value) {
  if (target.kind == Expression::Kind::kName) {
    scope_->Set(target.name, value);
    return absl::OkStatus();
  }
  if (target.kind == Expression::Kind::kAttribute) {
    ASSIGN_OR_RETURN(const Value object, EvaluateName(*target.operands[0]));
    auto* const space = object.As<Namespace>();
    if (space == nullptr) {
      return TypeError(fmt::format("cannot set '{}' of what is not a namespace", target.name));
    }
    space->Set(target.name, value);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const List elements, Elements(value));
  if (elements.size() != target.operands.size()) {
    return TypeError(fmt::format(
        "{} values cannot be unpacked to {} names", elements.size(), target.operands.size()));
  }
  for (size_t i = 0; i < elements.size(); ++i) {
    RETURN_IF_ERROR(Assign(*target.operands[i], elements[i]));
  }
  return absl::OkStatus();
}

absl::Status Interpreter::RunSet(const Statement& set) {
  ASSIGN_OR_RETURN(const Value value, Evaluate(*set.value));
  return Assign(*set.target, value);
}

absl::StatusOr<std::string> Interpreter::Capture(const Body& body) {
  std::string printed;
  std::string* const out = std::exchange(out_, &printed);
  const std::shared_ptr<Scope> outer = scope_;
  scope_ = std::make_shared<Scope>();
  scope_->parent = outer;
  RETURN_IF_ERROR(RunBody(body).status());
  scope_ = outer;
  out_ = out;
  return printed;
}

absl::Status Interpreter::RunSetBlock(const Statement& set) {
  ASSIGN_OR_RETURN(std::string printed, Capture(set.body));
  Value value = String(std::move(printed));
  if (set.value) {
    const Value input = value;
    ASSIGN_OR_RETURN(value, EvaluateFilter(*set.value, &input));
  }
  return Assign(*set.target, value);
}

absl::Status Interpreter::RunFilterBlock(const Statement& block) {
  ASSIGN_OR_RETURN(std::string printed, Capture(block.body));
  const Value input = String(std::move(printed));
  ASSIGN_OR_RETURN(const Value value, EvaluateFilter(*block.value, &input));
  return Print(Str(value));
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunWith(const Statement& block) {
  List values;
  for (const auto& [target, expression] : block.assignments) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*expression));
    values.push_back(std::move(value));
  }
  const std::shared_ptr<Scope> outer = scope_;
  scope_ = std::make_shared<Scope>();
  scope_->parent = outer;
  for (size_t i = 0; i < values.size(); ++i) {
    RETURN_IF_ERROR(Assign(*block.assignments[i].first, values[i]));
  }
  ASSIGN_OR_RETURN(const Flow flow, RunBody(block.body));
  scope_ = outer;
  return flow;
}

Value Interpreter::MakeMacro(const Statement& macro) {
  captured_.push_back(scope_);
  return Value::FromObject(std::make_shared<Macro>(macro, scope_));
}

absl::Status Interpreter::RunCallBlock(const Statement& block) {
  const Expression& call = *block.value;
  ASSIGN_OR_RETURN(const Value callee, Evaluate(*call.operands[0]));
  ASSIGN_OR_RETURN(Arguments arguments, EvaluateArguments(call.arguments));
  arguments.named.emplace_back("caller", MakeMacro(block));
  ASSIGN_OR_RETURN(const Value value, Call(callee, arguments));
  return Print(Str(value));
}

absl::StatusOr<Value> Interpreter::BindParameter(const Statement& macro,
                                                 size_t index,
                                                 const Arguments& arguments) {
  const Parameter& parameter = macro.parameters[index];
  const auto named = std::find_if(
      arguments.named.begin(), arguments.named.end(), [&parameter](const auto& argument) {
        return argument.first == parameter.name;
      });
  if (index < arguments.positional.size()) {
    if (named != arguments.named.end()) {
      return TypeError(fmt::format("macro '{}' got '{}' twice", macro.text, parameter.name));
    }
    return arguments.positional[index];
  }
  if (named != arguments.named.end()) {
    return named->second;
  }
  if (parameter.default_value) {
    return Evaluate(*parameter.default_value);
  }
  return Value::Undefined(fmt::format("parameter '{}' was not provided", parameter.name));
}

absl::StatusOr<Value> Interpreter::RunMacro(const Statement& macro,
                                            const std::shared_ptr<Scope>& scope,
                                            const Arguments& arguments) {
  const size_t num_parameters = macro.parameters.size();
  if (arguments.positional.size() > num_parameters && !macro.uses_varargs) {
    return TypeError(fmt::format("macro '{}' takes at most {} arguments, {} given",
                                 macro.text,
                                 num_parameters,
                                 arguments.positional.size()));
  }
  RETURN_IF_ERROR(budget_.Enter());
  const std::shared_ptr<Scope> outer = scope_;
  scope_ = std::make_shared<Scope>();
  scope_->parent = scope;
  Dict extra_named;
  Value caller = Value::Undefined("No caller defined");
  for (const auto& [name, value] : arguments.named) {
    const bool is_parameter =
        std::any_of(macro.parameters.begin(),
                    macro.parameters.end(),
                    [&name = name](const Parameter& parameter) { return parameter.name == name; });
    if (is_parameter) {
      continue;
    }
    if (name == "caller" && macro.uses_caller) {
      caller = value;
    } else if (macro.uses_kwargs) {
      extra_named.SetString(name, value);
    } else {
      return TypeError(fmt::format("macro '{}' takes no argument '{}'", macro.text, name));
    }
  }
  for (size_t i = 0; i < num_parameters; ++i) {
    ASSIGN_OR_RETURN(Value value, BindParameter(macro, i, arguments));
    scope_->Set(macro.parameters[i].name, std::move(value));
  }
  if (macro.uses_varargs) {
    const size_t first = std::min(num_parameters, arguments.positional.size());
    scope_->Set("varargs",
                Value::MakeTuple(List(arguments.positional.begin() + static_cast<ptrdiff_t>(first),
                                      arguments.positional.end())));
  }
  if (macro.uses_kwargs) {
    scope_->Set("kwargs", Value::MakeDict(std::move(extra_named)));
  }
  if (macro.uses_caller) {
    scope_->Set("caller", std::move(caller));
  }
  std::string printed;
  std::string* const out = std::exchange(out_, &printed);
  RETURN_IF_ERROR(RunBody(macro.body).status());
  out_ = out;
  scope_ = outer;
  budget_.Leave();
  return String(std::move(printed));
}

}  // namespace ringserve::jinja
