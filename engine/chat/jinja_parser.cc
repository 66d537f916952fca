#include "engine/chat/jinja_parser.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include <fmt/format.h>

#include "engine/chat/jinja_expression_parser.h"
#include "engine/chat/jinja_lexer.h"

namespace ringserve::jinja {
namespace {

constexpr int kMaxBlockDepth = 100;

using StatementPointer = std::unique_ptr<Statement>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : expressions_(std::move(tokens)) {}

  absl::StatusOr<Body> Run() { return ParseBody({}); }

 private:
  const Token& current() const { return expressions_.current(); }

  StatementPointer Make(Statement::Kind kind) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = current().line;
    return statement;
  }

  absl::Status EndBlock() { return expressions_.Expect(Token::Type::kBlockEnd, "'%}'"); }

  // Up to a block tag named like one of `ends`, whose name is then the current token; up to the end
  // of the template if there are none.
  absl::StatusOr<Body> ParseBody(std::initializer_list<std::string_view> ends) {
    if (++depth_ > kMaxBlockDepth) {
      return expressions_.Error(fmt::format("blocks nested deeper than {}", kMaxBlockDepth));
    }
    Body body;
    while (current().type != Token::Type::kEnd) {
      if (current().type == Token::Type::kText) {
        StatementPointer text = Make(Statement::Kind::kText);
        text->text = expressions_.Take().text;
        body.push_back(std::move(text));
      } else if (current().type == Token::Type::kVariableBegin) {
        StatementPointer print = Make(Statement::Kind::kPrint);
        expressions_.Take();
        ASSIGN_OR_RETURN(print->value, expressions_.ParseTuple());
        RETURN_IF_ERROR(expressions_.Expect(Token::Type::kVariableEnd, "'}}'"));
        body.push_back(std::move(print));
      } else {
        RETURN_IF_ERROR(expressions_.Expect(Token::Type::kBlockBegin, "'{%'"));
        if (IsOneOf(ends)) {
          --depth_;
          return body;
        }
        ASSIGN_OR_RETURN(StatementPointer statement, ParseStatement());
        body.push_back(std::move(statement));
      }
    }
    if (ends.size() > 0) {
      return expressions_.Error(fmt::format("'{}' is missing", *(ends.end() - 1)));
    }
    --depth_;
    return body;
  }

  bool IsOneOf(std::initializer_list<std::string_view> names) const {
    return current().type == Token::Type::kName &&
           std::find(names.begin(), names.end(), current().text) != names.end();
  }

  absl::StatusOr<StatementPointer> ParseStatement() {
    using Rule = absl::StatusOr<StatementPointer> (Parser::*)();

    struct Entry {
      std::string_view name;
      Rule rule;
    };

    static constexpr std::array<Entry, 10> kStatements = {{
        {"for", &Parser::ParseFor},
        {"if", &Parser::ParseIf},
        {"set", &Parser::ParseSet},
        {"macro", &Parser::ParseMacro},
        {"call", &Parser::ParseCallBlock},
        {"filter", &Parser::ParseFilterBlock},
        {"with", &Parser::ParseWith},
        {"break", &Parser::ParseLoopControl},
        {"continue", &Parser::ParseLoopControl},
        {"generation", &Parser::ParseGeneration},
    }};
    const auto* const entry =
        std::find_if(kStatements.begin(), kStatements.end(), [this](const Entry& candidate) {
          return current().IsName(candidate.name);
        });
    if (entry == kStatements.end()) {
      return expressions_.Error(fmt::format("unknown tag '{}'", current().text));
    }
    return (this->*entry->rule)();
  }

  absl::StatusOr<StatementPointer> ParseFor() {
    StatementPointer loop = Make(Statement::Kind::kFor);
    expressions_.Take();
    ASSIGN_OR_RETURN(loop->target, expressions_.ParseTarget(false));
    RETURN_IF_ERROR(expressions_.ExpectName("in"));
    ASSIGN_OR_RETURN(loop->value, expressions_.ParseTuple(false));
    if (expressions_.AcceptName("if")) {
      ASSIGN_OR_RETURN(loop->test, expressions_.Parse());
    }
    loop->is_recursive = expressions_.AcceptName("recursive");
    RETURN_IF_ERROR(EndBlock());
    const bool names_loop = std::exchange(expressions_.names_loop, false);
    ++loop_depth_;
    ASSIGN_OR_RETURN(loop->body, ParseBody({"else", "endfor"}));
    --loop_depth_;
    loop->uses_loop = std::exchange(expressions_.names_loop, names_loop) || loop->is_recursive;
    expressions_.names_loop = expressions_.names_loop || loop->uses_loop;
    if (expressions_.AcceptName("else")) {
      RETURN_IF_ERROR(EndBlock());
      ASSIGN_OR_RETURN(loop->otherwise, ParseBody({"endfor"}));
    }
    expressions_.Take();
    RETURN_IF_ERROR(EndBlock());
    return loop;
  }

  absl::StatusOr<StatementPointer> ParseIf() {
    StatementPointer branch = Make(Statement::Kind::kIf);
    expressions_.Take();
    ASSIGN_OR_RETURN(branch->value, expressions_.ParseTuple());
    RETURN_IF_ERROR(EndBlock());
    ASSIGN_OR_RETURN(branch->body, ParseBody({"elif", "else", "endif"}));
    if (current().IsName("elif")) {
      ++depth_;  // an elif is an if inside, as deep as it stands
      ASSIGN_OR_RETURN(StatementPointer rest, ParseIf());
      --depth_;
      branch->otherwise.push_back(std::move(rest));
      return branch;
    }
    if (expressions_.AcceptName("else")) {
      RETURN_IF_ERROR(EndBlock());
      ASSIGN_OR_RETURN(branch->otherwise, ParseBody({"endif"}));
    }
    expressions_.Take();
    RETURN_IF_ERROR(EndBlock());
    return branch;
  }

  absl::StatusOr<StatementPointer> ParseSet() {
    StatementPointer set = Make(Statement::Kind::kSet);
    expressions_.Take();
    ASSIGN_OR_RETURN(set->target, expressions_.ParseTarget(true));
    if (expressions_.AcceptOperator("=")) {
      ASSIGN_OR_RETURN(set->value, expressions_.ParseTuple());
      RETURN_IF_ERROR(EndBlock());
      return set;
    }
    set->kind = Statement::Kind::kSetBlock;
    if (current().IsOperator("|")) {
      ASSIGN_OR_RETURN(set->value, expressions_.ParseFilters(nullptr));
    }
    RETURN_IF_ERROR(EndBlock());
    ASSIGN_OR_RETURN(set->body, ParseBody({"endset"}));
    expressions_.Take();
    RETURN_IF_ERROR(EndBlock());
    return set;
  }

  absl::StatusOr<std::vector<Parameter>> ParseParameters() {
    std::vector<Parameter> parameters;
    RETURN_IF_ERROR(expressions_.ExpectOperator("("));
    while (!expressions_.AcceptOperator(")")) {
      if (!parameters.empty()) {
        RETURN_IF_ERROR(expressions_.ExpectOperator(","));
      }
      Parameter& parameter = parameters.emplace_back();
      ASSIGN_OR_RETURN(parameter.name, expressions_.TakeName());
      if (expressions_.AcceptOperator("=")) {
        ASSIGN_OR_RETURN(parameter.default_value, expressions_.Parse());
      } else if (parameters.size() > 1 && parameters[parameters.size() - 2].default_value) {
        return expressions_.Error("a parameter without a default follows one with a default");
      }
    }
    return parameters;
  }

  // The body of a macro or a call block, and which of its extra arguments it names.
  absl::Status ParseCallable(Statement* macro, std::string_view end) {
    RETURN_IF_ERROR(EndBlock());
    const bool names_varargs = std::exchange(expressions_.names_varargs, false);
    const bool names_kwargs = std::exchange(expressions_.names_kwargs, false);
    const bool names_caller = std::exchange(expressions_.names_caller, false);
    const int loop_depth = std::exchange(loop_depth_, 0);
    ASSIGN_OR_RETURN(macro->body, ParseBody({end}));
    loop_depth_ = loop_depth;
    macro->uses_varargs = std::exchange(expressions_.names_varargs, names_varargs);
    macro->uses_kwargs = std::exchange(expressions_.names_kwargs, names_kwargs);
    macro->uses_caller = std::exchange(expressions_.names_caller, names_caller);
    expressions_.Take();
    return EndBlock();
  }

  absl::StatusOr<StatementPointer> ParseMacro() {
    StatementPointer macro = Make(Statement::Kind::kMacro);
    expressions_.Take();
    ASSIGN_OR_RETURN(macro->text, expressions_.TakeName());
    ASSIGN_OR_RETURN(macro->parameters, ParseParameters());
    RETURN_IF_ERROR(ParseCallable(macro.get(), "endmacro"));
    return macro;
  }

  absl::StatusOr<StatementPointer> ParseCallBlock() {
    StatementPointer block = Make(Statement::Kind::kCall);
    expressions_.Take();
    block->text = "caller";
    if (current().IsOperator("(")) {
      ASSIGN_OR_RETURN(block->parameters, ParseParameters());
    }
    ASSIGN_OR_RETURN(block->value, expressions_.Parse());
    if (block->value->kind != Expression::Kind::kCall) {
      return ErrorAt(block->line, "expected a call");
    }
    RETURN_IF_ERROR(ParseCallable(block.get(), "endcall"));
    return block;
  }

  absl::StatusOr<StatementPointer> ParseFilterBlock() {
    StatementPointer block = Make(Statement::Kind::kFilter);
    expressions_.Take();
    ASSIGN_OR_RETURN(block->value, expressions_.ParseFilterChain());
    RETURN_IF_ERROR(EndBlock());
    ASSIGN_OR_RETURN(block->body, ParseBody({"endfilter"}));
    expressions_.Take();
    RETURN_IF_ERROR(EndBlock());
    return block;
  }

  absl::StatusOr<StatementPointer> ParseWith() {
    StatementPointer block = Make(Statement::Kind::kWith);
    expressions_.Take();
    while (current().type != Token::Type::kBlockEnd) {
      if (!block->assignments.empty()) {
        RETURN_IF_ERROR(expressions_.ExpectOperator(","));
      }
      ExpressionPointer target;
      ExpressionPointer value;
      ASSIGN_OR_RETURN(target, expressions_.ParseTarget(false));
      RETURN_IF_ERROR(expressions_.ExpectOperator("="));
      ASSIGN_OR_RETURN(value, expressions_.Parse());
      block->assignments.emplace_back(std::move(target), std::move(value));
    }
    RETURN_IF_ERROR(EndBlock());
    ASSIGN_OR_RETURN(block->body, ParseBody({"endwith"}));
    expressions_.Take();
    RETURN_IF_ERROR(EndBlock());
    return block;
  }

  absl::StatusOr<StatementPointer> ParseLoopControl() {
    StatementPointer control =
        Make(current().IsName("break") ? Statement::Kind::kBreak : Statement::Kind::kContinue);
    if (loop_depth_ == 0) {
      return expressions_.Error(fmt::format("'{}' outside of a loop", current().text));
    }
    expressions_.Take();
    RETURN_IF_ERROR(EndBlock());
    return control;
  }

  // What the model is to generate, marked for training; to us, its contents.
  absl::StatusOr<StatementPointer> ParseGeneration() {
    StatementPointer group = Make(Statement::Kind::kGroup);
    expressions_.Take();
    RETURN_IF_ERROR(EndBlock());
    ASSIGN_OR_RETURN(group->body, ParseBody({"endgeneration"}));
    expressions_.Take();
    RETURN_IF_ERROR(EndBlock());
    return group;
  }

  ExpressionParser expressions_;
  int depth_ = 0;
  int loop_depth_ = 0;
};

}  // namespace

absl::StatusOr<Body> ParseTemplate(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace ringserve::jinja
