// Expressions of a template, with Jinja's precedences.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/status.h"
#include "engine/chat/jinja_ast.h"
#include "engine/chat/jinja_lexer.h"

namespace ringserve::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }

  const Token& next() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }

  // The last token is never passed.
  Token Take();
  bool AcceptOperator(std::string_view text);
  bool AcceptName(std::string_view text);
  absl::Status ExpectOperator(std::string_view text);
  absl::Status ExpectName(std::string_view text);
  absl::Status Expect(Token::Type type, std::string_view what);
  absl::StatusOr<std::string> TakeName();
  // "line N: why", at the current token.
  absl::Status Error(std::string_view why) const;

  absl::StatusOr<ExpressionPointer> Parse();  // with a conditional

  // Without "if" at its end, where that means something else.
  absl::StatusOr<ExpressionPointer> ParseUnconditional() { return ParseOr(); }

  // One expression, or several with commas between them: a tuple.
  absl::StatusOr<ExpressionPointer> ParseTuple(bool with_conditional = true);
  // What can stand before "=" or "in": a name, or a tuple of targets; `with_attribute`: or a.b.
  absl::StatusOr<ExpressionPointer> ParseTarget(bool with_attribute);
  // "name(...) | name ...", the first without a bar; its innermost operand is missing.
  absl::StatusOr<ExpressionPointer> ParseFilterChain();
  // Filters after a bar, applied to `operand`, which may be null.
  absl::StatusOr<ExpressionPointer> ParseFilters(ExpressionPointer operand);
  absl::StatusOr<ExpressionPointer> ParsePostfix(ExpressionPointer operand);
  absl::StatusOr<ExpressionPointer> ParsePrimary();
  absl::StatusOr<CallArguments> ParseArguments();  // from "(" on

  // True if a name was read since it was last cleared.
  bool names_loop = false;
  bool names_varargs = false;
  bool names_kwargs = false;
  bool names_caller = false;

 private:
  using Rule = absl::StatusOr<ExpressionPointer> (ExpressionParser::*)();

  ExpressionPointer Make(Expression::Kind kind) const;
  absl::Status EnterNested();
  bool IsAtTupleEnd() const;

  absl::StatusOr<ExpressionPointer> ParseOr();
  absl::StatusOr<ExpressionPointer> ParseAnd();
  absl::StatusOr<ExpressionPointer> ParseNot();
  absl::StatusOr<ExpressionPointer> ParseCompare();
  absl::StatusOr<ExpressionPointer> ParseSum();
  absl::StatusOr<ExpressionPointer> ParseConcat();
  absl::StatusOr<ExpressionPointer> ParseProduct();
  absl::StatusOr<ExpressionPointer> ParsePower();
  absl::StatusOr<ExpressionPointer> ParseUnary(bool with_filters);
  absl::StatusOr<ExpressionPointer> ParseOperand();
  // operand (operator operand)*, grouped from the left.
  absl::StatusOr<ExpressionPointer> ParseChain(Rule operand,
                                               Expression::Kind kind,
                                               std::initializer_list<std::string_view> operators);
  absl::StatusOr<ExpressionPointer> ParseName();
  absl::StatusOr<ExpressionPointer> ParseParentheses();
  absl::StatusOr<ExpressionPointer> ParseListLiteral();
  absl::StatusOr<ExpressionPointer> ParseDictLiteral();
  absl::StatusOr<ExpressionPointer> ParseSubscript(ExpressionPointer operand);
  absl::StatusOr<ExpressionPointer> ParseIndex();
  absl::StatusOr<ExpressionPointer> ParseFilter(ExpressionPointer operand);
  absl::StatusOr<ExpressionPointer> ParseTest(ExpressionPointer operand);
  absl::StatusOr<std::string> ParseDottedName();

  const std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace ringserve::jinja
