// The template engine against what jinja2 made of the same templates
// (tests/e2e/template_peers.py --write-fixture), and against templates that mean harm.
#include "engine/chat/jinja_template.h"

#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/catch.h"

namespace ringserve::jinja {
namespace {

using Json = nlohmann::ordered_json;

const std::string kRoot = RINGSERVE_SOURCE_DIR;

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  REQUIRE(file.good());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

const Json& Fixture() {
  static const Json fixture = Json::parse(ReadText(kRoot + "/tests/fixtures/chat_templates.json"));
  return fixture;
}

absl::StatusOr<std::string> Render(const std::string& source,
                                   const Json& context,
                                   const Limits& limits = {}) {
  ASSIGN_OR_RETURN(const Template parsed, Template::Parse(source));
  return parsed.Render(context,
                       {.limits = limits,
                        .now = absl::FromUnixSeconds(Fixture()["now"].get<int64_t>()),
                        .zone = absl::UTCTimeZone()});
}

// `expected` is null where jinja2 fails.
void CheckEqual(const std::string& source, const Json& context, const Json& expected) {
  const absl::StatusOr<std::string> text = Render(source, context);
  INFO(source);
  if (expected.is_null()) {
    CHECK_FALSE(text.ok());
  } else {
    INFO(text.status().ToString());
    REQUIRE(text.ok());
    CHECK(*text == expected.get<std::string>());
  }
}

TEST_CASE("templates render as jinja2 renders them") {
  for (const Json& snippet : Fixture()["snippets"]) {
    CheckEqual(snippet[0].get<std::string>(), Fixture()["context"], snippet[1]);
  }
}

TEST_CASE("chat templates of well-known families render as jinja2 renders them") {
  for (const Json& conversation : Fixture()["conversations"]) {
    const std::string name = conversation["template"].get<std::string>();
    INFO(name);
    CheckEqual(ReadText(kRoot + "/tests/e2e/chat_templates/" + name),
               conversation["context"],
               conversation["text"]);
  }
}

TEST_CASE("one template renders on several threads at a time") {
  const auto parsed = Template::Parse("{% for x in l %}{{ loop.index }}{{ x|upper }}{% endfor %}");
  REQUIRE(parsed.ok());
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  for (std::string& text : texts) {
    threads.emplace_back([&parsed, &text] {
      for (int i = 0; i < 50; ++i) {
        text = parsed->Render({{"l", {"a", "b"}}}, {}).value_or("failed");
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK(texts == std::vector<std::string>(4, "1A2B"));
}

TEST_CASE("what a template raises is told with its line") {
  const auto text = Render("a\nb\n{{ raise_exception('roles must alternate') }}", Json::object());
  CHECK(text.status() == absl::InvalidArgumentError("line 3: roles must alternate"));
  CHECK(Render("{% if x %}\n{{ y", Json::object()).status() ==
        absl::InvalidArgumentError("line 2: a tag has no end"));
  CHECK(Render("{% include 'secrets' %}", Json::object()).status() ==
        absl::InvalidArgumentError("line 1: unknown tag 'include'"));
  CHECK(Render("{{ ''.__class__ }}", Json::object()).value_or("failed").empty());
  CHECK_FALSE(Render("{{ ''.__class__.__mro__ }}", Json::object()).ok());
}

// Each would run, grow or recurse without end.
const std::vector<std::string>& HostileTemplates() {
  // NOLINTBEGIN(bugprone-suspicious-missing-comma): some take two lines.
  static const std::vector<std::string> templates = {
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
      "{{ 'x' * 1000000000000 }}",
      "{{ [0] * 1000000000000 }}",
      "{{ range(100000000) | list }}",
      "{% set ns = namespace(t='x') %}{% for i in range(100) %}{% set ns.t = ns.t ~ ns.t %}{% "
      "endfor %}",
      "{% set ns = namespace(t='x') %}{% for i in range(100) %}{% set ns.t = ns.t + ns.t %}{% "
      "endfor %}",
      "{% set ns = namespace(t=[1]) %}{% for i in range(100) %}{% set ns.t = ns.t + ns.t %}{% "
      "endfor %}",
      "{% set ns = namespace(t='xx') %}{% for i in range(100) %}{% set ns.t = ns.t|replace('x', "
      "ns.t) "
      "%}{% endfor %}",
      "{% set ns = namespace(t='xx') %}{% for i in range(100) %}{% set ns.t = ns.t|list|join(ns.t) "
      "%}{% endfor %}",
      "{% set ns = namespace(t=[1]) %}{% for i in range(64) %}{% set ns.t = [ns.t, ns.t] %}{% "
      "endfor "
      "%}{{ ns.t }}",
      "{% set ns = namespace(t=[1]) %}{% for i in range(64) %}{% set ns.t = [ns.t, ns.t] %}{% "
      "endfor "
      "%}{{ ns.t | tojson }}",
      "{% set ns = namespace(t=[1]) %}{% for i in range(64) %}{% set ns.t = [ns.t, ns.t] %}{% "
      "endfor "
      "%}{{ ns.t == ns.t|string }}",
      "{% set ns = namespace(t=[1]) %}{% for i in range(20000) %}{% set ns.t = [ns.t] %}{% endfor "
      "%}"
      "{{ ns.t }}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(n) %}{{ n }}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
      "{% for x in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
      "{{ '%1000000000d' % 1 }}",
      "{{ '{:>1000000000}'.format(1) }}",
      "{{ 'x'.center(1000000000000) }}",
      "{{ 'x'|indent(1000000000000, true) }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ 2 ** 63 }}",
      "{{ 1 // 0 }}",
      "{{ " + std::string(100000, '(') + "1",
      "{{ " + std::string(100000, '[') + "1",
      "{{ " + std::string(100000, '-') + "1 }}",
      "{{ 1" + std::string(100000, '+') + "1 }}",
      [] {
        std::string sum = "{{ 1";
        for (int i = 0; i < 100000; ++i) {
          sum += "+1";
        }
        return sum + " }}";
      }(),
      [] {
        std::string nested;
        for (int i = 0; i < 10000; ++i) {
          nested += "{% if x %}";
        }
        return nested;
      }(),
      std::string(2 << 20, 'x'),
  };
  // NOLINTEND(bugprone-suspicious-missing-comma)
  return templates;
}

TEST_CASE("hostile templates end with an error") {
  for (const std::string& source : HostileTemplates()) {
    INFO(source.substr(0, 200));
    const absl::StatusOr<std::string> text = Render(source, Json::object());
    CHECK_FALSE(text.ok());
    CHECK_FALSE(text.status().message().empty());
  }
}

TEST_CASE("limits are exact where they can be") {
  const Json context = Json::object();
  const Limits limits = {.steps = 1000, .live_bytes = 1000, .output_bytes = 10, .depth = 20};
  CHECK(Render("0123456789", context, limits).ok());
  CHECK(Render("0123456789x", context, limits).status() ==
        absl::ResourceExhaustedError("line 1: output of more than 10 bytes"));
  CHECK(Render("{% set x = 'a' * 900 %}", context, limits).ok());
  CHECK(Render("{% set x = 'a' * 1001 %}", context, limits).status() ==
        absl::ResourceExhaustedError("line 1: values of more than 1000 bytes"));
  CHECK(Render("{% for i in range(2000) %}{% endfor %}", context, limits).status() ==
        absl::ResourceExhaustedError("line 1: more than 1000 steps"));
}

TEST_CASE("what a macro and a namespace hold of each other is let go") {  // for LeakSanitizer
  CHECK(
      Render("{% macro f() %}{% endmacro %}{% set ns = namespace(a=1) %}{% set ns.f = f %}"
             "{% set ns.ns = ns %}{% for x in [1] %}{% macro g() %}{% endmacro %}{% set ns.loop = "
             "loop %}{% endfor %}",
             Json::object())
          .ok());
}

}  // namespace
}  // namespace ringserve::jinja
