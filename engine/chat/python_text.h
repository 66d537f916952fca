// Python's view of a string over UTF-8: code points, white space, case, repr.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ringserve::jinja {

// All texts are valid UTF-8.

size_t CountCodePoints(std::string_view text);
// One piece per code point; they point into `text`.
std::vector<std::string_view> SplitCodePoints(std::string_view text);
// The byte where the code point with this index begins; text.size() past the end.
size_t ByteOffset(std::string_view text, size_t code_point);

// str.isspace of one code point.
bool IsSpace(char32_t code_point);

// str.strip, lstrip, rstrip. Without `characters`: white space; else every code point in it.
std::string_view StripLeft(std::string_view text, std::optional<std::string_view> characters = {});
std::string_view StripRight(std::string_view text, std::optional<std::string_view> characters = {});
std::string_view Strip(std::string_view text, std::optional<std::string_view> characters = {});

// str.split(separator, limit): limit < 0 is none. Without a separator: runs of white space.
std::vector<std::string_view> Split(std::string_view text,
                                    std::optional<std::string_view> separator,
                                    int64_t limit);
// The same from the right; the pieces are in the order of the text.
std::vector<std::string_view> SplitFromRight(std::string_view text,
                                             std::optional<std::string_view> separator,
                                             int64_t limit);
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends);

size_t CountOccurrences(std::string_view text, std::string_view part);
// At most `limit` replacements; < 0: all.
std::string Replace(std::string_view text,
                    std::string_view from,
                    std::string_view to,
                    int64_t limit);

// repr(): in single quotes unless that needs escapes that double quotes do not.
std::string StringRepr(std::string_view text);

}  // namespace ringserve::jinja
