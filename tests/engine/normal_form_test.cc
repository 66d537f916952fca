#include "engine/text/normal_form.h"

#include <string>

#include "engine/text/grapheme.h"
#include "tests/support/catch.h"

namespace ringserve {
namespace {

std::string Nfc(const std::string& text) {
  return Normalize(NormalForm::kNfc, text);
}

TEST_CASE("NFC composes what composes") {
  CHECK(Nfc("e\u0327\u0301") == "\u0229\u0301");
  CHECK(Nfc("e\u0301\u0327") == "\u0229\u0301");   // marks are ordered first
  CHECK(Nfc("e\u030d\u0301") == "e\u030d\u0301");  // a mark of the same class blocks
  CHECK(Nfc("a\u0315\u0300") == "\u00e0\u0315");
  CHECK(Nfc("\u1112\u1161\u11ab") == "\ud55c");
  CHECK(Nfc("\uac00\u11a8") == "\uac01");
  CHECK(Nfc("\u212b") == "\u00c5");
  CHECK(Nfc("\u0958") == "\u0915\u093c");  // excluded from composition
  CHECK(Nfc("\u0344") == "\u0308\u0301");
  CHECK(Nfc("plain \u00e9 \u65e5\ud55c") == "plain \u00e9 \u65e5\ud55c");
}

TEST_CASE("the other forms") {
  const std::string text = "x\ufb01\u00e9\u1e9b\u0323\uac01\u2460y";
  CHECK(Normalize(NormalForm::kNfd, text) ==
        "x\ufb01e\u0301\u017f\u0323\u0307\u1100\u1161\u11a8\u2460y");
  CHECK(Normalize(NormalForm::kNfkd, text) == "xfie\u0301s\u0323\u0307\u1100\u1161\u11a81y");
  CHECK(Normalize(NormalForm::kNfkc, text) == "xfi\u00e9\u1e69\uac011y");
  CHECK(Normalize(NormalForm::kNfkc, "\u3131\u1161") == "\uac00");  // of two steps
}

TEST_CASE("a piece that changes takes along only the character before it") {
  const std::string stable(1000, 'a');
  for (const std::string before : {"", "a", "\u00e9", "\u0301", "\uac00"}) {
    for (const std::string after : {"", "a", "\u00e9", "\u0301"}) {
      const std::string middle = before + "\u0323\u11a8" + after;
      CHECK(Nfc(stable + middle + "b") == stable.substr(1) + Nfc("a" + middle + "b"));
    }
  }
}

TEST_CASE("lower case is character by character") {
  CHECK(ToLower("ABC xyz \u00c9\u0130\u03a3\u1e9e\U0001d400") ==
        "abc xyz \u00e9i\u0307\u03c3\u00df\U0001d400");
}

TEST_CASE("graphemes end where nothing joins") {
  const auto first = [](const std::string& text) { return text.substr(0, GraphemeEnd(text, 0)); };
  CHECK(first("ab") == "a");
  CHECK(first("a\u0301\u0302b") == "a\u0301\u0302");
  CHECK(first("\r\n\n") == "\r\n");
  CHECK(first("\n\u0301") == "\n");
  CHECK(first("\u0600a\u0301") == "\u0600a\u0301");
  CHECK(first("\u1100\u1161\u11a8\u1100") == "\u1100\u1161\u11a8");
  CHECK(first("\U0001f469\u200d\U0001f467x") == "\U0001f469\u200d\U0001f467");
  CHECK(first("a\u200d\U0001f467") == "a\u200d");
}

}  // namespace
}  // namespace ringserve
