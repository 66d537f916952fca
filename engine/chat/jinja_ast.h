// A parsed template.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/chat/jinja_value.h"

namespace ringserve::jinja {

struct Expression;
using ExpressionPointer = std::unique_ptr<Expression>;

struct CallArguments {
  std::vector<ExpressionPointer> positional;
  std::vector<std::pair<std::string, ExpressionPointer>> named;
  ExpressionPointer more_positional;  // *list; may be null
  ExpressionPointer more_named;       // **dict; may be null
};

struct Expression {
  enum class Kind {
    kConstant,     // value
    kName,         // name
    kTuple,        // operands
    kList,         // operands
    kDict,         // operands: key, value, key, value, ...
    kAttribute,    // operands[0].name
    kItem,         // operands[0][operands[1]]
    kSlice,        // as operands[1] of kItem: start, stop, step, each may be null
    kCall,         // operands[0](arguments)
    kFilter,       // operands[0] | name(arguments); no operand: the text of a filter block
    kTest,         // operands[0] is name(arguments)
    kNegative,     // -operands[0]
    kPositive,     // +operands[0]
    kNot,          // not operands[0]
    kAnd,          // operands[0] and operands[1]
    kOr,           // operands[0] or operands[1]
    kBinary,       // operands[0] name operands[1]: + - * / // % **
    kConcat,       // operands[0] ~ operands[1] ~ ...
    kCompare,      // operands[0] comparisons[0] operands[1] comparisons[1] operands[2] ...
    kConditional,  // operands[1] if operands[0] else operands[2]; the last may be null
  };

  Kind kind = Kind::kConstant;
  int32_t line = 0;
  std::string name;
  Value value;
  std::vector<ExpressionPointer> operands;
  std::vector<std::string> comparisons;  // "==", "in", "not in", ...
  CallArguments arguments;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Parameter {
  std::string name;
  ExpressionPointer default_value;  // may be null
};

struct Statement {
  enum class Kind {
    kText,      // text
    kPrint,     // value
    kFor,       // target in value [if test]: body, otherwise
    kIf,        // value: body; otherwise (an elif is an if in it)
    kSet,       // target = value
    kSetBlock,  // target = body through the filters of value (may be null)
    kMacro,     // name(parameters): body
    kCall,      // value is the call, body with parameters is its caller
    kFilter,    // body through the filters of value
    kWith,      // assignments, body
    kBreak,
    kContinue,
    kGroup,  // body: generation blocks
  };

  Kind kind = Kind::kText;
  int32_t line = 0;
  std::string text;  // or the name of a macro
  ExpressionPointer target;
  ExpressionPointer value;
  ExpressionPointer test;
  Body body;
  Body otherwise;
  std::vector<Parameter> parameters;
  std::vector<std::pair<ExpressionPointer, ExpressionPointer>> assignments;
  bool is_recursive = false;  // of a for
  bool uses_loop = false;     // of a for: its body names `loop`
  // Of a macro: its body names what it is given beyond its parameters.
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
};

}  // namespace ringserve::jinja
