#include "engine/chat/python_case.h"

#include <algorithm>
#include <array>
#include <clocale>
#include <cwctype>
#include <span>

#include "engine/base/check.h"
#include "engine/chat/python_text.h"
#include "engine/text/char_set.h"
#include "engine/text/utf8.h"

namespace ringserve::jinja {
namespace {

struct SpecialCase {
  char32_t from;
  std::u32string_view to;
};

// Where a capital is more than one character (Unicode's SpecialCasing.txt, without languages).
constexpr std::array<SpecialCase, 102> kSpecialUpper = {{
    {U'\u00df', U"SS"},
    {U'\u0149', U"\u02bcN"},
    {U'\u01f0', U"J\u030c"},
    {U'\u0390', U"\u0399\u0308\u0301"},
    {U'\u03b0', U"\u03a5\u0308\u0301"},
    {U'\u0587', U"\u0535\u0552"},
    {U'\u1e96', U"H\u0331"},
    {U'\u1e97', U"T\u0308"},
    {U'\u1e98', U"W\u030a"},
    {U'\u1e99', U"Y\u030a"},
    {U'\u1e9a', U"A\u02be"},
    {U'\u1f50', U"\u03a5\u0313"},
    {U'\u1f52', U"\u03a5\u0313\u0300"},
    {U'\u1f54', U"\u03a5\u0313\u0301"},
    {U'\u1f56', U"\u03a5\u0313\u0342"},
    {U'\u1f80', U"\u1f08\u0399"},
    {U'\u1f81', U"\u1f09\u0399"},
    {U'\u1f82', U"\u1f0a\u0399"},
    {U'\u1f83', U"\u1f0b\u0399"},
    {U'\u1f84', U"\u1f0c\u0399"},
    {U'\u1f85', U"\u1f0d\u0399"},
    {U'\u1f86', U"\u1f0e\u0399"},
    {U'\u1f87', U"\u1f0f\u0399"},
    {U'\u1f88', U"\u1f08\u0399"},
    {U'\u1f89', U"\u1f09\u0399"},
    {U'\u1f8a', U"\u1f0a\u0399"},
    {U'\u1f8b', U"\u1f0b\u0399"},
    {U'\u1f8c', U"\u1f0c\u0399"},
    {U'\u1f8d', U"\u1f0d\u0399"},
    {U'\u1f8e', U"\u1f0e\u0399"},
    {U'\u1f8f', U"\u1f0f\u0399"},
    {U'\u1f90', U"\u1f28\u0399"},
    {U'\u1f91', U"\u1f29\u0399"},
    {U'\u1f92', U"\u1f2a\u0399"},
    {U'\u1f93', U"\u1f2b\u0399"},
    {U'\u1f94', U"\u1f2c\u0399"},
    {U'\u1f95', U"\u1f2d\u0399"},
    {U'\u1f96', U"\u1f2e\u0399"},
    {U'\u1f97', U"\u1f2f\u0399"},
    {U'\u1f98', U"\u1f28\u0399"},
    {U'\u1f99', U"\u1f29\u0399"},
    {U'\u1f9a', U"\u1f2a\u0399"},
    {U'\u1f9b', U"\u1f2b\u0399"},
    {U'\u1f9c', U"\u1f2c\u0399"},
    {U'\u1f9d', U"\u1f2d\u0399"},
    {U'\u1f9e', U"\u1f2e\u0399"},
    {U'\u1f9f', U"\u1f2f\u0399"},
    {U'\u1fa0', U"\u1f68\u0399"},
    {U'\u1fa1', U"\u1f69\u0399"},
    {U'\u1fa2', U"\u1f6a\u0399"},
    {U'\u1fa3', U"\u1f6b\u0399"},
    {U'\u1fa4', U"\u1f6c\u0399"},
    {U'\u1fa5', U"\u1f6d\u0399"},
    {U'\u1fa6', U"\u1f6e\u0399"},
    {U'\u1fa7', U"\u1f6f\u0399"},
    {U'\u1fa8', U"\u1f68\u0399"},
    {U'\u1fa9', U"\u1f69\u0399"},
    {U'\u1faa', U"\u1f6a\u0399"},
    {U'\u1fab', U"\u1f6b\u0399"},
    {U'\u1fac', U"\u1f6c\u0399"},
    {U'\u1fad', U"\u1f6d\u0399"},
    {U'\u1fae', U"\u1f6e\u0399"},
    {U'\u1faf', U"\u1f6f\u0399"},
    {U'\u1fb2', U"\u1fba\u0399"},
    {U'\u1fb3', U"\u0391\u0399"},
    {U'\u1fb4', U"\u0386\u0399"},
    {U'\u1fb6', U"\u0391\u0342"},
    {U'\u1fb7', U"\u0391\u0342\u0399"},
    {U'\u1fbc', U"\u0391\u0399"},
    {U'\u1fc2', U"\u1fca\u0399"},
    {U'\u1fc3', U"\u0397\u0399"},
    {U'\u1fc4', U"\u0389\u0399"},
    {U'\u1fc6', U"\u0397\u0342"},
    {U'\u1fc7', U"\u0397\u0342\u0399"},
    {U'\u1fcc', U"\u0397\u0399"},
    {U'\u1fd2', U"\u0399\u0308\u0300"},
    {U'\u1fd3', U"\u0399\u0308\u0301"},
    {U'\u1fd6', U"\u0399\u0342"},
    {U'\u1fd7', U"\u0399\u0308\u0342"},
    {U'\u1fe2', U"\u03a5\u0308\u0300"},
    {U'\u1fe3', U"\u03a5\u0308\u0301"},
    {U'\u1fe4', U"\u03a1\u0313"},
    {U'\u1fe6', U"\u03a5\u0342"},
    {U'\u1fe7', U"\u03a5\u0308\u0342"},
    {U'\u1ff2', U"\u1ffa\u0399"},
    {U'\u1ff3', U"\u03a9\u0399"},
    {U'\u1ff4', U"\u038f\u0399"},
    {U'\u1ff6', U"\u03a9\u0342"},
    {U'\u1ff7', U"\u03a9\u0342\u0399"},
    {U'\u1ffc', U"\u03a9\u0399"},
    {U'\ufb00', U"FF"},
    {U'\ufb01', U"FI"},
    {U'\ufb02', U"FL"},
    {U'\ufb03', U"FFI"},
    {U'\ufb04', U"FFL"},
    {U'\ufb05', U"ST"},
    {U'\ufb06', U"ST"},
    {U'\ufb13', U"\u0544\u0546"},
    {U'\ufb14', U"\u0544\u0535"},
    {U'\ufb15', U"\u0544\u053b"},
    {U'\ufb16', U"\u054e\u0546"},
    {U'\ufb17', U"\u0544\u053d"},
}};

// Beyond what one character can say.
constexpr std::array<SpecialCase, 48> kSpecialTitle = {{
    {U'\u00df', U"Ss"},
    {U'\u0149', U"\u02bcN"},
    {U'\u01f0', U"J\u030c"},
    {U'\u0390', U"\u0399\u0308\u0301"},
    {U'\u03b0', U"\u03a5\u0308\u0301"},
    {U'\u0587', U"\u0535\u0582"},
    {U'\u1e96', U"H\u0331"},
    {U'\u1e97', U"T\u0308"},
    {U'\u1e98', U"W\u030a"},
    {U'\u1e99', U"Y\u030a"},
    {U'\u1e9a', U"A\u02be"},
    {U'\u1f50', U"\u03a5\u0313"},
    {U'\u1f52', U"\u03a5\u0313\u0300"},
    {U'\u1f54', U"\u03a5\u0313\u0301"},
    {U'\u1f56', U"\u03a5\u0313\u0342"},
    {U'\u1fb2', U"\u1fba\u0345"},
    {U'\u1fb4', U"\u0386\u0345"},
    {U'\u1fb6', U"\u0391\u0342"},
    {U'\u1fb7', U"\u0391\u0342\u0345"},
    {U'\u1fc2', U"\u1fca\u0345"},
    {U'\u1fc4', U"\u0389\u0345"},
    {U'\u1fc6', U"\u0397\u0342"},
    {U'\u1fc7', U"\u0397\u0342\u0345"},
    {U'\u1fd2', U"\u0399\u0308\u0300"},
    {U'\u1fd3', U"\u0399\u0308\u0301"},
    {U'\u1fd6', U"\u0399\u0342"},
    {U'\u1fd7', U"\u0399\u0308\u0342"},
    {U'\u1fe2', U"\u03a5\u0308\u0300"},
    {U'\u1fe3', U"\u03a5\u0308\u0301"},
    {U'\u1fe4', U"\u03a1\u0313"},
    {U'\u1fe6', U"\u03a5\u0342"},
    {U'\u1fe7', U"\u03a5\u0308\u0342"},
    {U'\u1ff2', U"\u1ffa\u0345"},
    {U'\u1ff4', U"\u038f\u0345"},
    {U'\u1ff6', U"\u03a9\u0342"},
    {U'\u1ff7', U"\u03a9\u0342\u0345"},
    {U'\ufb00', U"Ff"},
    {U'\ufb01', U"Fi"},
    {U'\ufb02', U"Fl"},
    {U'\ufb03', U"Ffi"},
    {U'\ufb04', U"Ffl"},
    {U'\ufb05', U"St"},
    {U'\ufb06', U"St"},
    {U'\ufb13', U"\u0544\u0576"},
    {U'\ufb14', U"\u0544\u0565"},
    {U'\ufb15', U"\u0544\u056b"},
    {U'\ufb16', U"\u054e\u0576"},
    {U'\ufb17', U"\u0544\u056d"},
}};

// The C library's own tables for UTF-8, whatever the process's locale.
locale_t Utf8Locale() {
  static const locale_t locale = [] {
    const locale_t made = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
    RS_CHECK(made != nullptr);  // part of glibc since 2.35, of Debian long before
    return made;
  }();
  return locale;
}

char32_t Lower(char32_t c) {
  return towlower_l(static_cast<wint_t>(c), Utf8Locale());
}

void AppendMapped(std::span<const SpecialCase> special,
                  char32_t c,
                  char32_t simple,
                  std::string* out) {
  const auto found =
      std::lower_bound(special.begin(), special.end(), c, [](const SpecialCase& entry, char32_t x) {
        return entry.from < x;
      });
  if (found == special.end() || found->from != c) {
    AppendUtf8(simple, out);
    return;
  }
  for (const char32_t part : found->to) {
    AppendUtf8(part, out);
  }
}

void AppendUpper(char32_t c, std::string* out) {
  AppendMapped(kSpecialUpper, c, towupper_l(static_cast<wint_t>(c), Utf8Locale()), out);
}

void AppendTitle(char32_t c, std::string* out) {
  static const wctrans_t title = wctrans_l("totitle", Utf8Locale());
  const wint_t simple = title != nullptr ? towctrans_l(static_cast<wint_t>(c), title, Utf8Locale())
                                         : towupper_l(static_cast<wint_t>(c), Utf8Locale());
  AppendMapped(kSpecialTitle, c, simple, out);
}

std::u32string Decode(std::string_view text) {
  std::u32string characters;
  for (size_t at = 0; at < text.size();) {
    characters.push_back(DecodeUtf8(text, &at));
  }
  return characters;
}

const CharSet& Category(std::string_view name) {
  static const CharSet letters = *GeneralCategory("L");
  static const CharSet decimals = *GeneralCategory("Nd");
  static const CharSet titles = *GeneralCategory("Lt");
  return name == "L" ? letters : name == "Nd" ? decimals : titles;
}

bool IsCased(char32_t c) {
  return iswupper_l(static_cast<wint_t>(c), Utf8Locale()) != 0 ||
         iswlower_l(static_cast<wint_t>(c), Utf8Locale()) != 0 || Category("Lt").Contains(c);
}

// What stands between a sigma and its word without ending it (Case_Ignorable, near enough: marks,
// format characters and the apostrophes).
bool IsCaseIgnorable(char32_t c) {
  static const CharSet set = GeneralCategory("Mn")
                                 ->Union(*GeneralCategory("Me"))
                                 .Union(*GeneralCategory("Cf"))
                                 .Union(*GeneralCategory("Lm"))
                                 .Union(*GeneralCategory("Sk"));
  return set.Contains(c) || c == '\'' || c == '.' || c == ':' || c == 0xb7 || c == 0x2019;
}

bool IsFinalSigma(std::u32string_view text, size_t at) {
  size_t before = at;
  while (before > 0 && IsCaseIgnorable(text[before - 1])) {
    --before;
  }
  if (before == 0 || !IsCased(text[before - 1])) {
    return false;
  }
  size_t after = at + 1;
  while (after < text.size() && IsCaseIgnorable(text[after])) {
    ++after;
  }
  return after == text.size() || !IsCased(text[after]);
}

void AppendLower(std::u32string_view text, size_t at, std::string* out) {
  if (text[at] == 0x130) {  // the one that becomes two
    AppendUtf8('i', out);
    AppendUtf8(0x307, out);
  } else if (text[at] == 0x3a3) {
    AppendUtf8(IsFinalSigma(text, at) ? 0x3c2 : 0x3c3, out);
  } else {
    AppendUtf8(Lower(text[at]), out);
  }
}

template <typename Predicate>
bool AllOf(std::string_view text, Predicate predicate) {
  const std::u32string characters = Decode(text);
  return !characters.empty() && std::all_of(characters.begin(), characters.end(), predicate);
}

bool IsUpperCharacter(char32_t c) {
  return iswupper_l(static_cast<wint_t>(c), Utf8Locale()) != 0;
}

bool IsLowerCharacter(char32_t c) {
  return iswlower_l(static_cast<wint_t>(c), Utf8Locale()) != 0;
}

}  // namespace

std::string ToLower(std::string_view text) {
  const std::u32string characters = Decode(text);
  std::string out;
  for (size_t i = 0; i < characters.size(); ++i) {
    AppendLower(characters, i, &out);
  }
  return out;
}

std::string ToUpper(std::string_view text) {
  std::string out;
  for (const char32_t c : Decode(text)) {
    AppendUpper(c, &out);
  }
  return out;
}

std::string ToTitle(std::string_view text) {
  const std::u32string characters = Decode(text);
  std::string out;
  for (size_t i = 0; i < characters.size(); ++i) {
    if (i > 0 && IsCased(characters[i - 1])) {
      AppendLower(characters, i, &out);
    } else {
      AppendTitle(characters[i], &out);
    }
  }
  return out;
}

std::string Capitalize(std::string_view text) {
  const std::u32string characters = Decode(text);
  std::string out;
  for (size_t i = 0; i < characters.size(); ++i) {
    if (i == 0) {
      AppendTitle(characters[i], &out);
    } else {
      AppendLower(characters, i, &out);
    }
  }
  return out;
}

std::string SwapCase(std::string_view text) {
  const std::u32string characters = Decode(text);
  std::string out;
  for (size_t i = 0; i < characters.size(); ++i) {
    if (IsUpperCharacter(characters[i])) {
      AppendLower(characters, i, &out);
    } else {
      AppendUpper(characters[i], &out);
    }
  }
  return out;
}

bool IsAlpha(std::string_view text) {
  return AllOf(text, [](char32_t c) { return Category("L").Contains(c); });
}

bool IsAlnum(std::string_view text) {
  return AllOf(text,
               [](char32_t c) { return Category("L").Contains(c) || Category("Nd").Contains(c); });
}

bool IsAscii(std::string_view text) {
  return CountCodePoints(text) == text.size() && std::all_of(text.begin(), text.end(), [](char c) {
           return static_cast<unsigned char>(c) < 0x80;
         });
}

bool IsDecimal(std::string_view text) {
  return AllOf(text, [](char32_t c) { return Category("Nd").Contains(c); });
}

bool IsSpaces(std::string_view text) {
  return AllOf(text, IsSpace);
}

bool IsLower(std::string_view text) {
  const std::u32string characters = Decode(text);
  return std::any_of(characters.begin(), characters.end(), IsLowerCharacter) &&
         std::none_of(characters.begin(), characters.end(), [](char32_t c) {
           return IsUpperCharacter(c) || Category("Lt").Contains(c);
         });
}

bool IsUpper(std::string_view text) {
  const std::u32string characters = Decode(text);
  return std::any_of(characters.begin(), characters.end(), IsUpperCharacter) &&
         std::none_of(characters.begin(), characters.end(), [](char32_t c) {
           return IsLowerCharacter(c) || Category("Lt").Contains(c);
         });
}

}  // namespace ringserve::jinja
