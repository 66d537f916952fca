// What constraints accept and refuse, case by case.
#include "engine/constraint/constraint.h"

#include <functional>
#include <regex>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "engine/constraint/json_terminals.h"
#include "engine/constraint/pattern_dfa.h"
#include "engine/constraint/schema_compiler.h"
#include "tests/support/catch.h"
#include "tests/support/constraint_case.h"

namespace ringserve {
namespace {

ConstraintCompiler& Compiler() {
  static ConstraintCompiler compiler(SmallVocabulary());
  return compiler;
}

bool SchemaAccepts(const std::string& schema, const std::string& text) {
  const auto constraint = Compiler().JsonSchema(schema);
  INFO(schema << ": " << constraint.status());
  REQUIRE(constraint.ok());
  return Accepts(**constraint, *SmallVocabulary(), text);
}

std::string Refusal(const std::string& schema) {
  const auto constraint = Compiler().JsonSchema(schema);
  INFO(schema);
  REQUIRE_FALSE(constraint.ok());
  CHECK(constraint.status().code() == absl::StatusCode::kInvalidArgument);
  return std::string(constraint.status().message());
}

std::string Repeated(const std::string& text, int times) {
  std::string out;
  for (; times > 0; --times) {
    out += text;
  }
  return out;
}

// All strings over the alphabet of at most `length` characters.
std::vector<std::string> AllStrings(const std::string& alphabet, size_t length) {
  std::vector<std::string> all = {""};
  for (size_t begin = 0, end = 1; length > 0; --length) {
    for (; begin < end; ++begin) {
      for (const char c : alphabet) {
        all.push_back(all[begin] + c);
      }
    }
    end = all.size();
  }
  return all;
}

std::string RandomPattern(Random& random, int size) {
  switch (random.Int(0, size > 0 ? 8 : 3)) {
    case 0:
      return "a";
    case 1:
      return "b";
    case 2:
      return "[bc]";
    case 3:
      return "[^a]";
    case 4: {
      const std::string left = RandomPattern(random, size - 1);
      return fmt::format("(?:{}|{})", left, RandomPattern(random, size - 1));
    }
    case 5:
      return fmt::format("({})*", RandomPattern(random, size - 1));
    case 6:
      return fmt::format("({}){{1,2}}", RandomPattern(random, size - 1));
    case 7:
      return fmt::format("({})?", RandomPattern(random, size - 1));
    default: {
      const std::string left = RandomPattern(random, size - 1);
      return fmt::format("{}{}", left, RandomPattern(random, size - 1));
    }
  }
}

}  // namespace

TEST_CASE("a regex constraint takes the texts that std::regex matches") {
  Random random(1);
  const std::vector<std::string> texts = AllStrings("abc", 4);
  for (int round = 0; round < 150; ++round) {
    const std::string pattern = RandomPattern(random, 5);
    const auto constraint = Compiler().Regex(pattern);
    INFO(pattern << " " << constraint.status());
    REQUIRE(constraint.ok());
    const std::regex truth(pattern);
    for (const std::string& text : texts) {
      INFO(text);
      REQUIRE(Accepts(**constraint, *SmallVocabulary(), text) == std::regex_match(text, truth));
    }
  }
}

TEST_CASE("a schema's pattern matches somewhere, with anchors where they stand") {
  const std::vector<std::string> texts = AllStrings("ab", 5);
  for (const std::string pattern :
       {"ab", "^ab", "ab$", "^ab$", "^a|b$", "(^|b)a", "a(b|$)", "^$|aa", ""}) {
    const std::regex truth(pattern);
    for (const std::string& text : texts) {
      INFO(pattern << " on " << text);
      CHECK(SchemaAccepts(fmt::format(R"({{"type":"string","pattern":"{}"}})", pattern),
                          fmt::format("\"{}\"", text)) == std::regex_search(text, truth));
    }
  }
}

TEST_CASE("number schemas take the numbers in their range and no others") {
  struct Case {
    std::string schema;
    double low, high, step;
  };

  for (const Case& is :
       {Case{R"({"type":"integer","minimum":-13,"maximum":107})", -13, 107, 1},
        Case{R"({"type":"integer","exclusiveMinimum":0,"maximum":9})", 1, 9, 1},
        Case{R"({"type":"integer","minimum":-5.5,"exclusiveMaximum":0})", -5, -1, 1},
        Case{R"({"type":"integer","minimum":7,"multipleOf":7})", 7, 1e9, 7},
        Case{R"({"type":"number","minimum":-1.25,"maximum":2.5})", -1.25, 2.5, 0.05},
        Case{R"({"type":"number","exclusiveMinimum":-0.05,"maximum":0.1})", 0, 0.1, 0.05},
        Case{R"({"type":"number","multipleOf":0.25,"minimum":0,"maximum":9})", 0, 9, 0.25}}) {
    const bool is_integer = is.step >= 1;
    for (int unit = -600; unit <= 3000; ++unit) {
      const int scaled = is_integer ? unit * 20 : unit;  // in twentieths
      const std::string sign = scaled < 0 ? "-" : "";
      const int whole = std::abs(scaled) / 20;
      const int cents = std::abs(scaled) % 20 * 5;
      std::string text = sign + std::to_string(whole);
      if (!is_integer && cents != 0) {
        text += cents % 10 == 0 ? fmt::format(".{}", cents / 10) : fmt::format(".{:02}", cents);
      }
      const double value = scaled / 20.0;
      const double rest = std::abs(std::remainder(value, is.step));
      const bool in_range = value >= is.low - 1e-9 && value <= is.high + 1e-9 && rest < 1e-9;
      INFO(is.schema << " " << text);
      REQUIRE(SchemaAccepts(is.schema, text) == in_range);
    }
  }
}

TEST_CASE("schemas accept documents and nothing else") {
  struct Case {
    std::string schema;
    std::vector<std::string> good, bad;
  };

  const std::string object =
      R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},"required":["b"],)"
      R"("additionalProperties":false})";
  for (
      const Case& is : std::vector<Case>{
          {"true",
           {"1", "[]", "{}", "\"x\"", "[1,[2,{\"a\":null}]]", "1e5"},
           {"", "01", "[1,]", "nul"}},
          {object,
           {R"({"a":1,"b":"x"})", R"({"b":""})", "{\n  \"a\": 1,\n  \"b\": \"\"\n}"},
           {R"({"b":"x","a":1})",
            R"({"a":1})",
            "{}",
            R"({"b":"","c":1})",
            R"({"b": "",})",
            "{  \"b\":\"\"}",
            "{\n\n\"b\":\"\"}"}},
          {R"({"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":3})",
           {"[1]", "[1, 2]", "[1,2,3]"},
           {"[]", "[1,2,3,4]", "[\"a\"]"}},
          {R"({"prefixItems":[{"const":1},{"type":"string"}],"items":false,"type":"array"})",
           {"[]", "[1]", "[1,\"\"]"},
           {"[2]", "[1,1]", "[1,\"\",2]"}},
          {R"({"type":"string","minLength":2,"maxLength":3})",
           {"\"ab\"", "\"\xc3\xa9\xf0\x9f\x98\x80\"", "\"\\ud83d\\ude00\\n\"", "\"abc\""},
           {"\"a\"", "\"abcd\"", "\"\\ud83d\"", "\"\\ud83da\""}},
          {R"({"enum":["a",1,null,{"k":[1]}]})",
           {"\"a\"", "1", "null", R"({"k":[1]})", R"({ "k": [1] })"},
           {"\"b\"", "{}"}},
          {R"({"type":"integer","enum":[1,2.5,"x",3],"maximum":2})", {"1"}, {"2.5", "\"x\"", "3"}},
          {R"({"type":["string","null"]})", {"\"\"", "null"}, {"1"}},
          {R"({"type":"string","nullable":true})", {"\"\"", "null"}, {"1"}},
          {R"({"type":"object","patternProperties":{"^s_":{"type":"string"},"_i$":{"type":"integer"}},)"
           R"("additionalProperties":false})",
           {"{}", R"({"s_a":""})", R"({"x_i":1,"s_b":""})"},
           {R"({"s_i":1})", R"({"s_i":""})", R"({"x":1})", R"({"s_a":1})"}},
          {R"({"type":"object","properties":{"ab":{"type":"integer"}},"additionalProperties":{"type":"null"}})",
           {R"({"ab":1,"abc":null})", R"({"a":null,"b":null})"},
           {R"({"ab":null})", R"({"a":null,"ab":1})", R"({"ab":1,"ab":null})"}},
          {R"({"type":"object","required":["z"],"additionalProperties":{"type":"integer"}})",
           {R"({"z":1})", R"({"z":1,"y":2})"},
           {"{}", R"({"z":""})"}},
          {R"({"type":"object","properties":{"a":true,"b":true,"c":true},"minProperties":2,"maxProperties":2,)"
           R"("additionalProperties":false})",
           {R"({"a":1,"b":1})", R"({"a":1,"c":1})", R"({"b":1,"c":1})"},
           {"{}", R"({"a":1})", R"({"a":1,"b":1,"c":1})"}},
          {R"({"type":"object","propertyNames":{"pattern":"^x"},"properties":{"a":true,"xa":true},"maxProperties":2})",
           {R"({"xa":1,"xb":1})", "{}"},
           {R"({"a":1})", R"({"y":1})"}},
          {R"({"$defs":{"n":{"type":"object","properties":{"next":{"$ref":"#/$defs/n"}},)"
           R"("additionalProperties":false}},"$ref":"#/$defs/n"})",
           {"{}", R"({"next":{"next":{}}})"},
           {R"({"next":1})"}},
          {R"({"oneOf":[{"type":"integer","multipleOf":3},{"type":"integer","multipleOf":5}]})",
           {"3", "5", "9", "10"},
           {"15", "1", "30"}},
          {R"({"oneOf":[{"type":"string","maxLength":3},{"type":"string","minLength":2}]})",
           {"\"\"", "\"a\"", "\"abcd\""},
           {"\"ab\"", "\"abc\""}},
          {R"({"oneOf":[{"type":"number"},{"type":"integer"}]})",
           {"1.5", "-0.25"},
           {"1", "1.0", "10"}},
          {R"({"type":"object","properties":{"k":{"enum":["a","b"]}},"required":["k"],"oneOf":[)"
           R"({"properties":{"k":{"const":"a"},"x":{"type":"integer"}}},{"properties":{"k":{"const":"b"}}}],)"
           R"("maxProperties":2})",
           {R"({"k":"a","x":1})", R"({"k":"b","x":""})"},
           {R"({"k":"a","x":""})"}},
          {R"({"allOf":[{"type":"integer","minimum":3},{"maximum":5}],"multipleOf":2})",
           {"4"},
           {"3", "6"}},
          {R"({"anyOf":[{"type":"string","const":"x"},{"type":"integer"}],"minimum":10})",
           {"\"x\"", "10"},
           {"9"}},
          {R"({"format":"date","type":"string"})",
           {"\"2024-02-29\"", "\"1999-12-31\""},
           {"\"2023-02-29\"", "\"1900-02-29\"", "\"2024-04-31\"", "\"0000-01-01\""}},
          {R"({"format":"ipv6","type":"string"})",
           {"\"::\"", "\"::1\"", "\"1::\"", "\"1:2:3:4:5:6:7:8\"", "\"1:2::8\""},
           {"\"1:2:3:4:5:6:7\"", "\"1::2::3\"", "\"1:2:3:4:5:6:7:8:9\"", "\":\""}},
      }) {
    for (const std::string& text : is.good) {
      INFO(is.schema << " should take " << text);
      CHECK(SchemaAccepts(is.schema, text));
    }
    for (const std::string& text : is.bad) {
      INFO(is.schema << " should refuse " << text);
      CHECK_FALSE(SchemaAccepts(is.schema, text));
    }
  }
}

TEST_CASE("what a constraint cannot enforce is refused with its place") {
  CHECK(Refusal(R"({"properties":{"a":{"not":{}}}})") ==
        "#/properties/a/not: this keyword is not supported");
  CHECK(Refusal(R"({"type":"array","uniqueItems":true})") ==
        "#/uniqueItems: only false is supported");
  CHECK(Refusal(R"({"if":true})") == "#/if: this keyword is not supported");
  CHECK(Refusal(R"({"type":"text"})") == "#/type: not a type of JSON");
  CHECK(Refusal(R"({"$ref":"#/$defs/x"})") == "#/$ref: \"#/$defs/x\" is not there");
  CHECK(Refusal(R"({"$ref":"other.json"})") ==
        "#/$ref: only references into the same document are supported: # or #/...");
  CHECK(Refusal(R"({"$ref":"#"})") ==
        "#: refers to itself without an array or an object in between");
  CHECK(Refusal(R"({"oneOf":[{"$ref":"#"},{"type":"null"}]})") ==
        "#: refers to itself without an array or an object in between");
  CHECK(Refusal(R"({"oneOf":[{"type":"object"},{"required":["a"]}]})") ==
        "#/oneOf: alternatives 0 and 1 may both hold for one value; only one may: tell them apart "
        "by a "
        "required property or a type, or use anyOf");
  CHECK(Refusal(R"({"pattern":"(?=a)b"})") == "#/pattern: at byte 0: lookaround is not supported");
  CHECK(Refusal(R"({"items":{"pattern":"(a"}})") == "#/items/pattern: at byte 0: '(' without ')'");
  CHECK(Refusal(R"({"patternProperties":{"a\\b":true}})") ==
        "#/patternProperties/a\\b: at byte 1: word boundaries are not supported");
  CHECK(Refusal(R"({"type":"integer","minimum":2,"maximum":1})") ==
        "#: no value satisfies the schema");
  CHECK(Refusal("false") == "#: no value satisfies the schema");
  CHECK(Refusal(R"({"minLength":-1})") == "#/minLength: not a whole number in [0, 999999999]");
  CHECK(Refusal(R"({"a/b~c":1})") == "#/a~1b~0c: this keyword is not supported");
  CHECK(Refusal("{") != "");
  CHECK(Refusal("[]") == "#: not a schema: neither an object nor true nor false");
  CHECK(Refusal(R"({"type":"object","additionalProperties":true,"minProperties":3})") ==
        "#/minProperties: 3 is more than the 0 named properties and one other can warrant: others "
        "may have "
        "one name");
  CHECK(Compiler().Regex("a\\1").status().message() == "at byte 1: \\1 is not supported");
  CHECK(Compiler().Regex("[^\\s\\S]").status().message() == "no text matches it");
  CHECK(Compiler().Choices({}).status().message() == "0 choices, not in [1, 10000]");
  CHECK(Compiler().Choices({"a", ""}).status().message() == "[1]: empty");
}

TEST_CASE("choices and json_object") {
  const auto choices = Compiler().Choices({"yes", "no", "yes and no"});
  REQUIRE(choices.ok());
  for (const char* text : {"yes", "no", "yes and no"}) {
    CHECK(Accepts(**choices, *SmallVocabulary(), text));
  }
  CHECK_FALSE(Accepts(**choices, *SmallVocabulary(), "yes and"));
  const auto object = Compiler().JsonObject();
  REQUIRE(object.ok());
  CHECK(Accepts(**object, *SmallVocabulary(), R"({"a": [1, {"b": null}]})"));
  CHECK_FALSE(Accepts(**object, *SmallVocabulary(), "[]"));
  // Deep texts end at the stack's bound, not in a corner.
  const auto matcher = (*object)->Begin();
  int depth = 0;
  const auto take = [&](char c) { return matcher->Take(1 + static_cast<uint8_t>(c)); };
  REQUIRE(take('{'));
  REQUIRE(take('"'));
  REQUIRE(take('"'));
  REQUIRE(take(':'));
  while (take('[')) {
    ++depth;
  }
  CHECK(depth >= 60);
  for (; depth > 0; --depth) {
    REQUIRE(take(']'));
  }
  REQUIRE(take('}'));
  CHECK(matcher->MayEnd());
}

TEST_CASE("undone tokens leave no trace") {
  const auto constraint = Compiler().JsonObject();
  REQUIRE(constraint.ok());
  const auto matcher = (*constraint)->Begin();
  Random random(5);
  std::vector<std::vector<uint64_t>> masks;
  for (int i = 0; i < 2000; ++i) {
    const auto mask = matcher->Allowed();
    if (!masks.empty() && random.Int(0, 3) == 0) {
      const int64_t back = random.Int(1, std::min<int64_t>(4, static_cast<int64_t>(masks.size())));
      matcher->Undo(back);
      const auto before = matcher->Allowed();
      masks.resize(masks.size() - static_cast<size_t>(back) + 1);
      CHECK(std::vector<uint64_t>(before.begin(), before.end()) == masks.back());
      masks.pop_back();
      continue;
    }
    const auto id = static_cast<int32_t>(random.Int(1, SmallVocabulary()->size() - 1));
    const bool allowed = IsSet(mask, id);
    REQUIRE(matcher->Take(id) == allowed);
    if (allowed) {
      masks.emplace_back(mask.begin(), mask.end());
    }
  }
}

namespace {

std::vector<std::string> ExplosiveSchemas() {
  std::vector<std::string> schemas = {
      R"({"type":"string","pattern":"(a|b)*a(a|b){18}"})",
      R"({"type":"string","pattern":"((a{1,100}){1,100}){1,100}"})",
      R"({"type":"string","pattern":"(\\p{L}{1,500}){1,500}"})",
      R"({"type":"string","pattern":"a.{2000}b","minLength":9000,"maxLength":90000})",
      R"({"type":"integer","multipleOf":9973,"minimum":-1e30,"maximum":1e30})"};
  std::string product = R"({"allOf":[)";
  for (int i = 0; i < 30; ++i) {
    product += fmt::format(
        R"({}{{"anyOf":[{{"minLength":{}}},{{"maxLength":{}}}]}})", i > 0 ? "," : "", i, i + 100);
  }
  schemas.push_back(product + "]}");
  std::string patterns = R"({"type":"object","patternProperties":{)";
  for (int i = 0; i < 20; ++i) {
    patterns += fmt::format(R"({}"{}":true)", i > 0 ? "," : "", static_cast<char>('a' + i));
  }
  schemas.push_back(patterns + "}}");
  std::string one_of = R"({"oneOf":[)";
  for (int i = 0; i < 400; ++i) {
    one_of += fmt::format(R"({}{{"type":"string","pattern":"a{}.*b"}})", i > 0 ? "," : "", i);
  }
  schemas.push_back(one_of + "]}");
  std::string wide = R"({"type":"object","properties":{)";
  for (int i = 0; i < 3000; ++i) {
    wide += fmt::format(R"({}"{}":true)", i > 0 ? "," : "", i);
  }
  schemas.push_back(wide + "}}");
  schemas.push_back(fmt::format(R"({{"const":[{}1]}})", Repeated("1,", 100'000)));
  return schemas;
}

// The most that is asked for at once, after which nothing is done any more.
constexpr int64_t kMaxSpentAtOnce = 100'000;

// What compiling it came to.
Budget CompiledSchema(const std::string& schema, bool* ok) {
  static const JsonTerminals terminals = MakeJsonTerminals(SmallVocabulary());
  Budget budget;
  const auto grammar = CompileSchema(schema, terminals, SmallVocabulary(), &budget);
  INFO(schema.substr(0, 100) << " " << grammar.status());
  *ok = grammar.ok();
  CHECK((grammar.ok() || absl::IsInvalidArgument(grammar.status())));
  return budget;
}

Budget CompiledPattern(const std::string& pattern, bool* ok) {
  Budget budget;
  const auto dfa = PatternDfa(pattern, Match::kWhole, TextForm::kPlain, &budget);
  INFO(pattern.substr(0, 100) << " " << dfa.status());
  *ok = dfa.ok();
  CHECK((dfa.ok() || absl::IsInvalidArgument(dfa.status())));
  return budget;
}

}  // namespace

TEST_CASE("explosive constraints are refused before more work than the budget is done") {
  bool ok = false;
  for (const std::string& schema : ExplosiveSchemas()) {
    INFO(schema.substr(0, 100));
    const Budget budget = CompiledSchema(schema, &ok);
    CHECK_FALSE(ok);
    CHECK(budget.spent() <= Budget::kWork + kMaxSpentAtOnce);
  }
  for (const std::string& pattern : {Repeated("\\W", 8000),
                                     fmt::format("[{}]", Repeated("\\W\\D", 4000)),
                                     fmt::format("[^{}]{{100}}", Repeated("\\w\\d", 4000)),
                                     Repeated("[^\\w]", 2700),
                                     Repeated("\\p{L}*", 2500),
                                     std::string("(a?){5000}a{5000}"),
                                     std::string("((a?){50}){50}"),
                                     std::string("((((a{0,30}){0,30}){0,30}))"),
                                     std::string("(a|aa|aaa|aaaa){500}")}) {
    INFO(pattern.substr(0, 100));
    const Budget budget = CompiledPattern(pattern, &ok);
    CHECK_FALSE(ok);
    CHECK(budget.spent() > Budget::kWork);  // that was the reason
    CHECK(budget.spent() <= Budget::kWork + kMaxSpentAtOnce);
  }
}

TEST_CASE("what makes a constraint grow is counted") {
  bool ok = false;
  const std::vector<std::function<std::string(int)>> patterns = {
      [](int n) { return Repeated("\\W", n); },
      [](int n) { return fmt::format("[{}]", Repeated("\\W", n)); },
      [](int n) { return fmt::format("[^{}]", Repeated("\\w", n)); },
      [](int n) { return fmt::format("[{}]", Repeated("\\p{L}", n)); },
      [](int n) { return Repeated("[^a]", n); },
      [](int n) { return Repeated("a*", n); },
      [](int n) { return fmt::format("(ab|cd){{{}}}", n); }};
  const auto check_growth = [&ok](const auto& spent) {
    const int64_t first = spent(20) - spent(10);
    REQUIRE(ok);
    const int64_t second = spent(30) - spent(20);
    REQUIRE(ok);
    CHECK(first >= 10);
    CHECK(10 * second >= 9 * first);
  };
  for (const auto& pattern : patterns) {
    INFO(pattern(3));
    check_growth([&](int n) { return CompiledPattern(pattern(n), &ok).spent(); });
  }
  const auto of_items = [](const std::string& keyword, const std::string& item, int n) {
    return fmt::format(
        R"({{"{}":[{}{}]}})", keyword, item, Repeated(fmt::format(",{}", item), n - 1));
  };
  const std::vector<std::function<std::string(int)>> schemas = {
      // A pattern is read where it stands, whether or not it is needed.
      [&](int n) {
        return fmt::format(R"({{"$defs":{{"a":{}}},"items":{{"$ref":"#/$defs/a"}}}})",
                           of_items("anyOf", R"({"pattern":"[\\W\\D]"})", n));
      },
      [&](int n) { return of_items("allOf", R"({"minLength":3})", n); },
      [&](int n) { return of_items("const", "[1]", n); }};
  for (const auto& schema : schemas) {
    INFO(schema(3));
    check_growth([&](int n) { return CompiledSchema(schema(n), &ok).spent(); });
  }
}

}  // namespace ringserve
