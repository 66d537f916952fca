// Case and character classes of Python's str, over valid UTF-8.
#pragma once

#include <string>
#include <string_view>

namespace ringserve::jinja {

std::string ToLower(std::string_view text);
std::string ToUpper(std::string_view text);
std::string ToTitle(std::string_view text);  // str.title: each run of letters
std::string Capitalize(std::string_view text);
std::string SwapCase(std::string_view text);

bool IsAlnum(std::string_view text);
bool IsAlpha(std::string_view text);
bool IsAscii(std::string_view text);
bool IsDecimal(std::string_view text);
bool IsSpaces(std::string_view text);
bool IsLower(std::string_view text);
bool IsUpper(std::string_view text);

}  // namespace ringserve::jinja
