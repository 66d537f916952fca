#include "engine/text/regex.h"

#include <string>
#include <vector>

#include "tests/support/catch.h"

namespace ringserve {
namespace {

// The text with a bar at every place where the matches cut it.
std::string Cut(std::string_view pattern, const std::string& text) {
  const auto regex = Regex::Compile(pattern);
  REQUIRE(regex.status().ToString() == "OK");
  RegexScratch scratch;
  std::vector<Regex::Match> matches;
  REQUIRE(regex->FindAll(text, &scratch, &matches).ok());
  std::string cut;
  for (size_t i = 0; i < text.size(); ++i) {
    for (const Regex::Match& match : matches) {
      if (i > 0 && (match.begin == i || match.end == i)) {
        cut.push_back('|');
        break;
      }
    }
    cut.push_back(text[i]);
  }
  return cut;
}

// Every expectation is what `tokenizers` 0.23 answers.
TEST_CASE("patterns mean what they mean to Oniguruma") {
  CHECK(Cut(R"((?<=\d)(?=(?:\d{3})+(?!\d)))", "x1234567y12") == "x1|234|567y12");
  CHECK(Cut(R"(\w+)", "a\u00b2b\u00bd-\u24d0\u203f\u00e9\u00bc") ==
        "a\u00b2b\u00bd|-|\u24d0\u203f\u00e9\u00bc");
  // In brackets superscripts and fractions are no word.
  CHECK(Cut(R"([\w.]+)", "a\u00b2b\u00bd-\u00e9\u00bc.") == "a|\u00b2|b|\u00bd-|\u00e9|\u00bc|.");
  CHECK(Cut(R"([^\W_]+)", "a\u00b2b\u00bd-_\u00e9") == "a|\u00b2|b|\u00bd-_|\u00e9");
  CHECK(Cut(R"([\W]+)", "a\u00b2b\u00bd-_\u00e9") == "a|\u00b2|b|\u00bd-|_\u00e9");
  CHECK(Cut(R"(\s+)", "a\u180eb\u00a0\u200bc") == "a\u180eb|\u00a0|\u200bc");
  CHECK(Cut(R"(\p{N}{1,3}+)", "1234567 12") == "1234567| |12");  // not possessive: repeated
  CHECK(Cut("(?i:k|s)+", "sk\u017f\u212axS") == "sk\u017f\u212a|x|S");
  CHECK(Cut("^.|.$", "ab\ncd\n") == "a|b|\n|c|d|\n");
  CHECK(Cut("a*?b", "aab") == "aab");
}

TEST_CASE("empty matches count unless they touch the match before") {
  const auto regex = Regex::Compile("a*");
  REQUIRE(regex.ok());
  RegexScratch scratch;
  std::vector<Regex::Match> matches;
  REQUIRE(regex->FindAll("aa\u00e9b", &scratch, &matches).ok());
  std::vector<std::pair<size_t, size_t>> got;
  for (const Regex::Match& match : matches) {
    got.emplace_back(match.begin, match.end);
  }
  CHECK(got == std::vector<std::pair<size_t, size_t>>{{0, 2}, {4, 4}, {5, 5}});
}

TEST_CASE("letters are those of Unicode 16 with any PCRE2") {
  CHECK(Cut(R"(\p{L}+)", "-\U00010d50\u1c89\U00031350-") == "-|\U00010d50\u1c89\U00031350|-");
  CHECK(Cut(R"(\p{Nd}+)", "-\U0001ccf0-") == "-|\U0001ccf0|-");
}

}  // namespace
}  // namespace ringserve
