#include "engine/chat/jinja_expression_parser.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace ringserve::jinja {
namespace {

constexpr int kMaxNesting = 100;
constexpr int kMaxChain = 300;  // of binary operators: each is one level of the tree

std::string Describe(const Token& token) {
  switch (token.type) {
    case Token::Type::kEnd:
      return "the end of the template";
    case Token::Type::kText:
      return "text";
    case Token::Type::kVariableBegin:
      return "'{{'";
    case Token::Type::kVariableEnd:
      return "'}}'";
    case Token::Type::kBlockBegin:
      return "'{%'";
    case Token::Type::kBlockEnd:
      return "'%}'";
    case Token::Type::kString:
      return "a string";
    default:
      return fmt::format("'{}'", token.text);
  }
}

}  // namespace

Token ExpressionParser::Take() {
  const Token& token = tokens_[at_];
  at_ += at_ + 1 < tokens_.size() ? 1 : 0;
  return token;
}

bool ExpressionParser::AcceptOperator(std::string_view text) {
  const bool is_there = current().IsOperator(text);
  at_ += is_there ? 1 : 0;
  return is_there;
}

bool ExpressionParser::AcceptName(std::string_view text) {
  const bool is_there = current().IsName(text);
  at_ += is_there ? 1 : 0;
  return is_there;
}

absl::Status ExpressionParser::Error(std::string_view why) const {
  return ErrorAt(current().line, why);
}

absl::Status ExpressionParser::ExpectOperator(std::string_view text) {
  return AcceptOperator(text)
             ? absl::OkStatus()
             : Error(fmt::format("expected '{}', got {}", text, Describe(current())));
}

absl::Status ExpressionParser::ExpectName(std::string_view text) {
  return AcceptName(text) ? absl::OkStatus()
                          : Error(fmt::format("expected '{}', got {}", text, Describe(current())));
}

absl::Status ExpressionParser::Expect(Token::Type type, std::string_view what) {
  if (current().type != type) {
    return Error(fmt::format("expected {}, got {}", what, Describe(current())));
  }
  Take();
  return absl::OkStatus();
}

absl::StatusOr<std::string> ExpressionParser::TakeName() {
  if (current().type != Token::Type::kName) {
    return Error(fmt::format("expected a name, got {}", Describe(current())));
  }
  return Take().text;
}

ExpressionPointer ExpressionParser::Make(Expression::Kind kind) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = current().line;
  return expression;
}

absl::Status ExpressionParser::EnterNested() {
  return ++nesting_ > kMaxNesting
             ? Error(fmt::format("expressions nested deeper than {}", kMaxNesting))
             : absl::OkStatus();
}

absl::StatusOr<ExpressionPointer> ExpressionParser::Parse() {
  RETURN_IF_ERROR(EnterNested());
  ASSIGN_OR_RETURN(ExpressionPointer expression, ParseOr());
  for (int length = 0; current().IsName("if"); ++length) {
    if (length == kMaxChain) {
      return Error(fmt::format("more than {} conditions in a row", kMaxChain));
    }
    ExpressionPointer conditional = Make(Expression::Kind::kConditional);
    Take();
    ASSIGN_OR_RETURN(ExpressionPointer test, ParseOr());
    ExpressionPointer otherwise;
    if (AcceptName("else")) {
      ASSIGN_OR_RETURN(otherwise, Parse());
    }
    conditional->operands.push_back(std::move(test));
    conditional->operands.push_back(std::move(expression));
    conditional->operands.push_back(std::move(otherwise));
    expression = std::move(conditional);
  }
  --nesting_;
  return expression;
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseOr() {
  return ParseChain(&ExpressionParser::ParseAnd, Expression::Kind::kOr, {"or"});
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseAnd() {
  return ParseChain(&ExpressionParser::ParseNot, Expression::Kind::kAnd, {"and"});
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseNot() {
  if (!current().IsName("not")) {
    return ParseCompare();
  }
  ExpressionPointer negation = Make(Expression::Kind::kNot);
  Take();
  RETURN_IF_ERROR(EnterNested());
  ASSIGN_OR_RETURN(ExpressionPointer operand, ParseNot());
  --nesting_;
  negation->operands.push_back(std::move(operand));
  return negation;
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseCompare() {
  static constexpr std::array<std::string_view, 6> kOperators = {"==", "!=", "<", "<=", ">", ">="};
  ExpressionPointer comparison = Make(Expression::Kind::kCompare);
  ASSIGN_OR_RETURN(ExpressionPointer first, ParseSum());
  comparison->operands.push_back(std::move(first));
  while (true) {
    if (current().type == Token::Type::kOperator &&
        std::find(kOperators.begin(), kOperators.end(), current().text) != kOperators.end()) {
      comparison->comparisons.push_back(Take().text);
    } else if (AcceptName("in")) {
      comparison->comparisons.emplace_back("in");
    } else if (current().IsName("not") && next().IsName("in")) {
      Take();
      Take();
      comparison->comparisons.emplace_back("not in");
    } else {
      break;
    }
    ASSIGN_OR_RETURN(ExpressionPointer operand, ParseSum());
    comparison->operands.push_back(std::move(operand));
  }
  return comparison->comparisons.empty() ? std::move(comparison->operands[0])
                                         : std::move(comparison);
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseChain(
    Rule operand, Expression::Kind kind, std::initializer_list<std::string_view> operators) {
  ASSIGN_OR_RETURN(ExpressionPointer left, (this->*operand)());
  for (int length = 0;
       (current().type == Token::Type::kOperator || current().type == Token::Type::kName) &&
       std::find(operators.begin(), operators.end(), current().text) != operators.end();
       ++length) {
    if (length == kMaxChain) {
      return Error(fmt::format("more than {} operators in a row", kMaxChain));
    }
    ExpressionPointer node = Make(kind);
    node->name = Take().text;
    ASSIGN_OR_RETURN(ExpressionPointer right, (this->*operand)());
    node->operands.push_back(std::move(left));
    node->operands.push_back(std::move(right));
    left = std::move(node);
  }
  return left;
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseSum() {
  return ParseChain(&ExpressionParser::ParseConcat, Expression::Kind::kBinary, {"+", "-"});
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseConcat() {
  ExpressionPointer concat = Make(Expression::Kind::kConcat);
  do {
    ASSIGN_OR_RETURN(ExpressionPointer operand, ParseProduct());
    concat->operands.push_back(std::move(operand));
  } while (AcceptOperator("~"));
  return concat->operands.size() == 1 ? std::move(concat->operands[0]) : std::move(concat);
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseProduct() {
  return ParseChain(
      &ExpressionParser::ParsePower, Expression::Kind::kBinary, {"*", "/", "//", "%"});
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParsePower() {  // from the left, unlike Python
  return ParseChain(&ExpressionParser::ParseOperand, Expression::Kind::kBinary, {"**"});
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseOperand() {
  return ParseUnary(true);
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseUnary(bool with_filters) {
  ExpressionPointer expression;
  if (current().IsOperator("-") || current().IsOperator("+")) {
    expression =
        Make(current().text == "-" ? Expression::Kind::kNegative : Expression::Kind::kPositive);
    Take();
    RETURN_IF_ERROR(EnterNested());
    ASSIGN_OR_RETURN(ExpressionPointer operand, ParseUnary(false));
    --nesting_;
    expression->operands.push_back(std::move(operand));
  } else {
    ASSIGN_OR_RETURN(expression, ParsePrimary());
  }
  ASSIGN_OR_RETURN(expression, ParsePostfix(std::move(expression)));
  if (!with_filters) {
    return expression;
  }
  return ParseFilters(std::move(expression));
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParsePrimary() {
  switch (current().type) {
    case Token::Type::kName:
      return ParseName();
    case Token::Type::kString: {
      ExpressionPointer constant = Make(Expression::Kind::kConstant);
      std::string text;
      while (current().type == Token::Type::kString) {
        text += Take().text;
      }
      constant->value = Value::String(std::move(text), nullptr);
      return constant;
    }
    case Token::Type::kInteger:
    case Token::Type::kFloat: {
      ExpressionPointer constant = Make(Expression::Kind::kConstant);
      const Token token = Take();
      constant->value = token.type == Token::Type::kInteger ? Value::Int(token.integer)
                                                            : Value::Float(token.number);
      return constant;
    }
    default:
      break;
  }
  if (current().IsOperator("(")) {
    return ParseParentheses();
  }
  if (current().IsOperator("[")) {
    return ParseListLiteral();
  }
  if (current().IsOperator("{")) {
    return ParseDictLiteral();
  }
  return Error(fmt::format("unexpected {}", Describe(current())));
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseName() {
  ExpressionPointer constant = Make(Expression::Kind::kConstant);
  const std::string name = Take().text;
  if (name == "true" || name == "True" || name == "false" || name == "False") {
    constant->value = Value::Bool(name == "true" || name == "True");
    return constant;
  }
  if (name == "none" || name == "None") {
    constant->value = Value::None();
    return constant;
  }
  constant->kind = Expression::Kind::kName;
  names_loop = names_loop || name == "loop";
  names_varargs = names_varargs || name == "varargs";
  names_kwargs = names_kwargs || name == "kwargs";
  names_caller = names_caller || name == "caller";
  constant->name = name;
  return constant;
}

bool ExpressionParser::IsAtTupleEnd() const {
  return current().type == Token::Type::kVariableEnd || current().type == Token::Type::kBlockEnd ||
         current().type == Token::Type::kEnd || current().IsOperator(")") ||
         current().IsOperator("=");
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseTuple(bool with_conditional) {
  ExpressionPointer tuple = Make(Expression::Kind::kTuple);
  bool has_comma = false;
  while (!IsAtTupleEnd()) {
    ASSIGN_OR_RETURN(ExpressionPointer element, with_conditional ? Parse() : ParseOr());
    tuple->operands.push_back(std::move(element));
    if (!AcceptOperator(",")) {
      break;
    }
    has_comma = true;
  }
  if (tuple->operands.empty()) {
    return Error(fmt::format("expected an expression, got {}", Describe(current())));
  }
  return has_comma ? std::move(tuple) : std::move(tuple->operands[0]);
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseParentheses() {
  ExpressionPointer empty = Make(Expression::Kind::kTuple);
  RETURN_IF_ERROR(ExpectOperator("("));
  if (AcceptOperator(")")) {
    return empty;
  }
  ASSIGN_OR_RETURN(ExpressionPointer expression, ParseTuple());
  RETURN_IF_ERROR(ExpectOperator(")"));
  return expression;
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseListLiteral() {
  ExpressionPointer list = Make(Expression::Kind::kList);
  RETURN_IF_ERROR(ExpectOperator("["));
  while (!AcceptOperator("]")) {
    if (!list->operands.empty()) {
      RETURN_IF_ERROR(ExpectOperator(","));
      if (AcceptOperator("]")) {
        break;
      }
    }
    ASSIGN_OR_RETURN(ExpressionPointer element, Parse());
    list->operands.push_back(std::move(element));
  }
  return list;
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseDictLiteral() {
  ExpressionPointer dict = Make(Expression::Kind::kDict);
  RETURN_IF_ERROR(ExpectOperator("{"));
  while (!AcceptOperator("}")) {
    if (!dict->operands.empty()) {
      RETURN_IF_ERROR(ExpectOperator(","));
      if (AcceptOperator("}")) {
        break;
      }
    }
    ASSIGN_OR_RETURN(ExpressionPointer key, Parse());
    RETURN_IF_ERROR(ExpectOperator(":"));
    ASSIGN_OR_RETURN(ExpressionPointer value, Parse());
    dict->operands.push_back(std::move(key));
    dict->operands.push_back(std::move(value));
  }
  return dict;
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParsePostfix(ExpressionPointer operand) {
  for (int chain = 0;; ++chain) {
    if (chain > kMaxNesting) {
      return Error(fmt::format("more than {} calls and subscripts in a row", kMaxNesting));
    }
    if (current().IsOperator(".") || current().IsOperator("[")) {
      ASSIGN_OR_RETURN(operand, ParseSubscript(std::move(operand)));
    } else if (current().IsOperator("(")) {
      ExpressionPointer call = Make(Expression::Kind::kCall);
      ASSIGN_OR_RETURN(call->arguments, ParseArguments());
      call->operands.push_back(std::move(operand));
      operand = std::move(call);
    } else {
      return operand;
    }
  }
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseSubscript(ExpressionPointer operand) {
  ExpressionPointer item = Make(Expression::Kind::kItem);
  item->operands.push_back(std::move(operand));
  if (AcceptOperator(".")) {
    if (current().type == Token::Type::kInteger) {
      ExpressionPointer index = Make(Expression::Kind::kConstant);
      index->value = Value::Int(Take().integer);
      item->operands.push_back(std::move(index));
      return item;
    }
    item->kind = Expression::Kind::kAttribute;
    ASSIGN_OR_RETURN(item->name, TakeName());
    return item;
  }
  RETURN_IF_ERROR(ExpectOperator("["));
  ExpressionPointer tuple = Make(Expression::Kind::kTuple);
  do {
    ASSIGN_OR_RETURN(ExpressionPointer index, ParseIndex());
    tuple->operands.push_back(std::move(index));
  } while (AcceptOperator(","));
  RETURN_IF_ERROR(ExpectOperator("]"));
  item->operands.push_back(tuple->operands.size() == 1 ? std::move(tuple->operands[0])
                                                       : std::move(tuple));
  return item;
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseIndex() {
  ExpressionPointer slice = Make(Expression::Kind::kSlice);
  slice->operands.resize(3);
  bool is_slice = false;
  for (size_t i = 0; i < 3; ++i) {
    if (!current().IsOperator(":") && !current().IsOperator("]") && !current().IsOperator(",")) {
      ASSIGN_OR_RETURN(slice->operands[i], Parse());
    }
    if (i == 2 || !AcceptOperator(":")) {
      break;
    }
    is_slice = true;
  }
  if (is_slice) {
    return slice;
  }
  if (slice->operands[0] == nullptr) {
    return Error(fmt::format("expected an index, got {}", Describe(current())));
  }
  return std::move(slice->operands[0]);
}

absl::StatusOr<CallArguments> ExpressionParser::ParseArguments() {
  CallArguments arguments;
  RETURN_IF_ERROR(ExpectOperator("("));
  bool is_first = true;
  while (!AcceptOperator(")")) {
    if (!is_first) {
      RETURN_IF_ERROR(ExpectOperator(","));
      if (AcceptOperator(")")) {
        break;
      }
    }
    is_first = false;
    if (AcceptOperator("**")) {
      ASSIGN_OR_RETURN(arguments.more_named, Parse());
    } else if (AcceptOperator("*")) {
      ASSIGN_OR_RETURN(arguments.more_positional, Parse());
    } else if (current().type == Token::Type::kName && next().IsOperator("=")) {
      std::string name = Take().text;
      Take();
      ASSIGN_OR_RETURN(ExpressionPointer value, Parse());
      arguments.named.emplace_back(std::move(name), std::move(value));
    } else if (!arguments.named.empty() || arguments.more_positional || arguments.more_named) {
      return Error("a positional argument after a named one");
    } else {
      ASSIGN_OR_RETURN(ExpressionPointer value, Parse());
      arguments.positional.push_back(std::move(value));
    }
  }
  return arguments;
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseFilters(ExpressionPointer operand) {
  for (int chain = 0;; ++chain) {
    if (chain > kMaxNesting) {
      return Error(fmt::format("more than {} filters and tests in a row", kMaxNesting));
    }
    if (AcceptOperator("|")) {
      ASSIGN_OR_RETURN(operand, ParseFilter(std::move(operand)));
    } else if (operand != nullptr && AcceptName("is")) {
      ASSIGN_OR_RETURN(operand, ParseTest(std::move(operand)));
    } else if (operand != nullptr && current().IsOperator("(")) {
      ExpressionPointer call = Make(Expression::Kind::kCall);
      ASSIGN_OR_RETURN(call->arguments, ParseArguments());
      call->operands.push_back(std::move(operand));
      operand = std::move(call);
    } else {
      return operand;
    }
  }
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseFilterChain() {
  ASSIGN_OR_RETURN(ExpressionPointer filter, ParseFilter(nullptr));
  return ParseFilters(std::move(filter));
}

absl::StatusOr<std::string> ExpressionParser::ParseDottedName() {
  ASSIGN_OR_RETURN(std::string name, TakeName());
  while (AcceptOperator(".")) {
    ASSIGN_OR_RETURN(const std::string part, TakeName());
    name += "." + part;
  }
  return name;
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseFilter(ExpressionPointer operand) {
  ExpressionPointer filter = Make(Expression::Kind::kFilter);
  ASSIGN_OR_RETURN(filter->name, ParseDottedName());
  if (current().IsOperator("(")) {
    ASSIGN_OR_RETURN(filter->arguments, ParseArguments());
  }
  if (operand != nullptr) {
    filter->operands.push_back(std::move(operand));
  }
  return filter;
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseTest(ExpressionPointer operand) {
  ExpressionPointer negation = Make(Expression::Kind::kNot);
  const bool is_negated = AcceptName("not");
  ExpressionPointer test = Make(Expression::Kind::kTest);
  ASSIGN_OR_RETURN(test->name, ParseDottedName());
  test->operands.push_back(std::move(operand));
  const Token& token = current();
  const bool begins_argument =
      token.type == Token::Type::kString || token.type == Token::Type::kInteger ||
      token.type == Token::Type::kFloat || token.IsOperator("[") || token.IsOperator("{") ||
      (token.type == Token::Type::kName && token.text != "else" && token.text != "or" &&
       token.text != "and" && token.text != "is");
  if (token.IsOperator("(")) {
    ASSIGN_OR_RETURN(test->arguments, ParseArguments());
  } else if (token.IsName("is")) {
    return Error("tests cannot be chained with 'is'");
  } else if (begins_argument) {
    ASSIGN_OR_RETURN(ExpressionPointer argument, ParsePrimary());
    ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    test->arguments.positional.push_back(std::move(argument));
  }
  if (!is_negated) {
    return test;
  }
  negation->operands.push_back(std::move(test));
  return negation;
}

absl::StatusOr<ExpressionPointer> ExpressionParser::ParseTarget(bool with_attribute) {
  ExpressionPointer tuple = Make(Expression::Kind::kTuple);
  bool has_comma = false;
  RETURN_IF_ERROR(EnterNested());
  while (!current().IsName("in") && !IsAtTupleEnd()) {
    ExpressionPointer target;
    if (AcceptOperator("(")) {
      ASSIGN_OR_RETURN(target, ParseTarget(with_attribute));
      RETURN_IF_ERROR(ExpectOperator(")"));
    } else {
      target = Make(Expression::Kind::kName);
      ASSIGN_OR_RETURN(target->name, TakeName());
      if (with_attribute && AcceptOperator(".")) {
        ExpressionPointer attribute = Make(Expression::Kind::kAttribute);
        ASSIGN_OR_RETURN(attribute->name, TakeName());
        attribute->operands.push_back(std::move(target));
        target = std::move(attribute);
      }
    }
    tuple->operands.push_back(std::move(target));
    if (!AcceptOperator(",")) {
      break;
    }
    has_comma = true;
  }
  --nesting_;
  if (tuple->operands.empty()) {
    return Error(fmt::format("expected a name, got {}", Describe(current())));
  }
  return has_comma ? std::move(tuple) : std::move(tuple->operands[0]);
}

}  // namespace ringserve::jinja
