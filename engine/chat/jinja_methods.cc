// Methods of Python's str, list, tuple and dict.
#include <algorithm>
#include <array>
#include <span>

#include <fmt/format.h>

#include "engine/chat/jinja_arguments.h"
#include "engine/chat/jinja_objects.h"
#include "engine/chat/python_case.h"
#include "engine/chat/python_format.h"
#include "engine/chat/python_text.h"

namespace ringserve::jinja {
namespace {

Value ListOf(Interpreter& interpreter, const std::vector<std::string_view>& parts) {
  List elements;
  for (const std::string_view part : parts) {
    elements.push_back(interpreter.String(std::string(part)));
  }
  return Value::MakeList(std::move(elements));
}

// str.strip and its two halves.
template <auto kStrip>
absl::StatusOr<Value> CallStrip(Interpreter& interpreter,
                                const Value& self,
                                const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound, BoundArguments::Bind("strip", arguments, {"chars"}));
  std::optional<std::string_view> characters;
  if (bound.NotNone(0)) {
    ASSIGN_OR_RETURN(characters, bound.String(0, ""));
  }
  return interpreter.String(std::string(kStrip(self.bytes(), characters)));
}

template <auto kSplit>
absl::StatusOr<Value> CallSplit(Interpreter& interpreter,
                                const Value& self,
                                const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("split", arguments, {"sep", "maxsplit"}));
  std::optional<std::string_view> separator;
  if (bound.NotNone(0)) {
    ASSIGN_OR_RETURN(separator, bound.String(0, ""));
    if (separator->empty()) {
      return TypeError("split(): empty separator");
    }
  }
  ASSIGN_OR_RETURN(const int64_t limit, bound.Int(1, -1));
  const std::vector<std::string_view> parts = kSplit(self.bytes(), separator, limit);
  RETURN_IF_ERROR(interpreter.budget()->Spend(static_cast<int64_t>(parts.size())));
  return ListOf(interpreter, parts);
}

absl::StatusOr<Value> CallSplitLines(Interpreter& interpreter,
                                     const Value& self,
                                     const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("splitlines", arguments, {"keepends"}));
  return ListOf(interpreter, SplitLines(self.bytes(), bound.Bool(0, false)));
}

template <bool kFromRight>
absl::StatusOr<Value> CallPartition(Interpreter& interpreter,
                                    const Value& self,
                                    const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("partition", arguments, {"sep"}, 1));
  ASSIGN_OR_RETURN(const std::string_view separator, bound.String(0, ""));
  if (separator.empty()) {
    return TypeError("partition(): empty separator");
  }
  const std::string_view text = self.bytes();
  const size_t at = kFromRight ? text.rfind(separator) : text.find(separator);
  std::array<std::string_view, 3> parts = {text, "", ""};
  if (at != std::string_view::npos) {
    parts = {text.substr(0, at), separator, text.substr(at + separator.size())};
  } else if (kFromRight) {
    std::swap(parts[0], parts[2]);
  }
  List elements;
  for (const std::string_view part : parts) {
    elements.push_back(interpreter.String(std::string(part)));
  }
  return Value::MakeTuple(std::move(elements));
}

// The part of a text that (text, start, end) names, and where it begins.
struct Part {
  std::string_view text;
  int64_t start = 0;
  bool is_valid = true;  // start lies within the text
};

absl::StatusOr<Part> PartOf(const Value& self, const BoundArguments& bound) {
  const int64_t length = *self.Length();
  const auto clamp = [length](int64_t index) {
    return std::clamp<int64_t>(index < 0 ? index + length : index, 0, length);
  };
  int64_t start = 0;
  int64_t end = length;
  if (bound.NotNone(1)) {
    ASSIGN_OR_RETURN(start, bound.Int(1, 0));
  }
  if (bound.NotNone(2)) {
    ASSIGN_OR_RETURN(end, bound.Int(2, length));
  }
  const bool is_valid = start <= length && clamp(start) <= clamp(end);
  start = clamp(start);
  end = std::max(clamp(end), start);
  const size_t begin = ByteOffset(self.bytes(), static_cast<size_t>(start));
  const std::string_view rest = std::string_view(self.bytes()).substr(begin);
  return Part{rest.substr(0, ByteOffset(rest, static_cast<size_t>(end - start))), start, is_valid};
}

template <bool kAtEnd>
absl::StatusOr<Value> CallStartsWith(Interpreter& /*interpreter*/,
                                     const Value& self,
                                     const Arguments& arguments) {
  ASSIGN_OR_RETURN(
      const BoundArguments bound,
      BoundArguments::Bind(
          kAtEnd ? "endswith" : "startswith", arguments, {"prefix", "start", "end"}, 1));
  ASSIGN_OR_RETURN(const Part part, PartOf(self, bound));
  const List affixes = bound[0].is_tuple() ? bound[0].elements() : List{bound[0]};
  for (const Value& affix : affixes) {
    if (!affix.is_string()) {
      return TypeError(fmt::format("startswith and endswith take a str or a tuple of str, not {}",
                                   affix.type_name()));
    }
    const std::string_view bytes = affix.bytes();
    if (part.is_valid && part.text.size() >= bytes.size() &&
        part.text.substr(kAtEnd ? part.text.size() - bytes.size() : 0, bytes.size()) == bytes) {
      return Value::Bool(true);
    }
  }
  return Value::Bool(false);
}

template <bool kFromRight, bool kMustBeThere>
absl::StatusOr<Value> CallFind(Interpreter& /*interpreter*/,
                               const Value& self,
                               const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("find", arguments, {"sub", "start", "end"}, 1));
  ASSIGN_OR_RETURN(const std::string_view what, bound.String(0, ""));
  ASSIGN_OR_RETURN(const Part part, PartOf(self, bound));
  const size_t at = !part.is_valid ? std::string_view::npos
                    : kFromRight   ? part.text.rfind(what)
                                   : part.text.find(what);
  if (at == std::string_view::npos) {
    if (kMustBeThere) {
      return TypeError("substring not found");
    }
    return Value::Int(-1);
  }
  return Value::Int(part.start + static_cast<int64_t>(CountCodePoints(part.text.substr(0, at))));
}

absl::StatusOr<Value> CallCountText(Interpreter& /*interpreter*/,
                                    const Value& self,
                                    const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("count", arguments, {"sub", "start", "end"}, 1));
  ASSIGN_OR_RETURN(const std::string_view what, bound.String(0, ""));
  ASSIGN_OR_RETURN(const Part part, PartOf(self, bound));
  return Value::Int(part.is_valid ? static_cast<int64_t>(CountOccurrences(part.text, what)) : 0);
}

absl::StatusOr<Value> CallReplace(Interpreter& interpreter,
                                  const Value& self,
                                  const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("replace", arguments, {"old", "new", "count"}, 2));
  ASSIGN_OR_RETURN(const std::string_view from, bound.String(0, ""));
  ASSIGN_OR_RETURN(const std::string_view to, bound.String(1, ""));
  ASSIGN_OR_RETURN(const int64_t limit, bound.Int(2, -1));
  RETURN_IF_ERROR(interpreter.budget()->CheckSize(
      static_cast<double>(self.bytes().size()) +
      static_cast<double>(CountOccurrences(self.bytes(), from)) * static_cast<double>(to.size())));
  return interpreter.String(Replace(self.bytes(), from, to, limit));
}

absl::StatusOr<Value> CallJoin(Interpreter& interpreter,
                               const Value& self,
                               const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("join", arguments, {"iterable"}, 1));
  ASSIGN_OR_RETURN(const List elements, interpreter.Elements(bound[0]));
  RETURN_IF_ERROR(interpreter.budget()->CheckSize(static_cast<double>(self.bytes().size()) *
                                                  static_cast<double>(elements.size())));
  std::string text;
  for (size_t i = 0; i < elements.size(); ++i) {
    if (!elements[i].is_string()) {
      return TypeError(fmt::format("join(): expected a str, not {}", elements[i].type_name()));
    }
    text.append(i > 0 ? self.bytes() : "").append(elements[i].bytes());
    RETURN_IF_ERROR(interpreter.budget()->CheckSize(static_cast<double>(text.size())));
  }
  return interpreter.String(std::move(text));
}

template <auto kConvert>
absl::StatusOr<Value> CallConvert(Interpreter& interpreter,
                                  const Value& self,
                                  const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("the method", arguments, {}).status());
  return interpreter.String(kConvert(self.bytes()));
}

template <auto kPredicate>
absl::StatusOr<Value> CallPredicate(Interpreter& /*interpreter*/,
                                    const Value& self,
                                    const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("the method", arguments, {}).status());
  return Value::Bool(kPredicate(self.bytes()));
}

// kLeft and kRight: on which sides the padding goes.
template <bool kLeft, bool kRight>
absl::StatusOr<Value> CallJustify(Interpreter& interpreter,
                                  const Value& self,
                                  const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("justify", arguments, {"width", "fillchar"}, 1));
  ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 0));
  ASSIGN_OR_RETURN(const std::string_view fill, bound.String(1, " "));
  if (CountCodePoints(fill) != 1) {
    return TypeError("the fill must be one character");
  }
  const int64_t length = *self.Length();
  const int64_t padding = std::max<int64_t>(width - length, 0);
  RETURN_IF_ERROR(interpreter.budget()->CheckSize(static_cast<double>(padding) * 4));
  // As CPython centers: the odd one goes left if the width is odd.
  const int64_t left = kLeft && kRight ? padding / 2 + (padding & width & 1) : kLeft ? padding : 0;
  std::string text;
  for (int64_t i = 0; i < left; ++i) {
    text += fill;
  }
  text += self.bytes();
  for (int64_t i = left; i < padding; ++i) {
    text += fill;
  }
  return interpreter.String(std::move(text));
}

absl::StatusOr<Value> CallZfill(Interpreter& interpreter,
                                const Value& self,
                                const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("zfill", arguments, {"width"}, 1));
  ASSIGN_OR_RETURN(const int64_t width, bound.Int(0, 0));
  const int64_t padding = std::max<int64_t>(width - *self.Length(), 0);
  RETURN_IF_ERROR(interpreter.budget()->CheckSize(static_cast<double>(padding)));
  std::string text = self.bytes();
  const bool has_sign = !text.empty() && (text.front() == '-' || text.front() == '+');
  text.insert(has_sign ? 1 : 0, static_cast<size_t>(padding), '0');
  return interpreter.String(std::move(text));
}

template <bool kSuffix>
absl::StatusOr<Value> CallRemoveAffix(Interpreter& interpreter,
                                      const Value& self,
                                      const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("remove", arguments, {"affix"}, 1));
  ASSIGN_OR_RETURN(const std::string_view affix, bound.String(0, ""));
  std::string_view text = self.bytes();
  const size_t at = kSuffix ? text.size() - std::min(affix.size(), text.size()) : 0;
  if (text.substr(at, affix.size()) == affix) {
    kSuffix ? text.remove_suffix(affix.size()) : text.remove_prefix(affix.size());
  }
  return interpreter.String(std::string(text));
}

absl::StatusOr<Value> CallFormat(Interpreter& interpreter,
                                 const Value& self,
                                 const Arguments& arguments) {
  ASSIGN_OR_RETURN(std::string text, BraceFormat(interpreter, self.bytes(), arguments));
  return interpreter.String(std::move(text));
}

absl::StatusOr<Value> CallIndex(Interpreter& /*interpreter*/,
                                const Value& self,
                                const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("index", arguments, {"value"}, 1));
  const auto found =
      std::find_if(self.elements().begin(), self.elements().end(), [&bound](const Value& element) {
        return Equal(element, bound[0]);
      });
  if (found == self.elements().end()) {
    return TypeError(fmt::format("{} is not in the {}", Repr(bound[0]), self.type_name()));
  }
  return Value::Int(found - self.elements().begin());
}

absl::StatusOr<Value> CallCountElements(Interpreter& /*interpreter*/,
                                        const Value& self,
                                        const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("count", arguments, {"value"}, 1));
  return Value::Int(
      std::count_if(self.elements().begin(), self.elements().end(), [&bound](const Value& element) {
        return Equal(element, bound[0]);
      }));
}

absl::StatusOr<Value> CallCopy(Interpreter& /*interpreter*/,
                               const Value& self,
                               const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("copy", arguments, {}).status());
  return self;  // nothing can change either
}

absl::StatusOr<Value> CallGet(Interpreter& /*interpreter*/,
                              const Value& self,
                              const Arguments& arguments) {
  ASSIGN_OR_RETURN(const BoundArguments bound,
                   BoundArguments::Bind("get", arguments, {"key", "default"}, 1));
  const Value* found = self.dict().Find(bound[0]);
  return found != nullptr ? *found : bound.Has(1) ? bound[1] : Value::None();
}

enum class DictPart { kItems, kKeys, kValues };

template <DictPart kPart>
absl::StatusOr<Value> CallDictView(Interpreter& interpreter,
                                   const Value& self,
                                   const Arguments& arguments) {
  RETURN_IF_ERROR(BoundArguments::Bind("the method", arguments, {}).status());
  RETURN_IF_ERROR(interpreter.budget()->Spend(*self.Length()));
  List elements;
  for (const auto& [key, value] : self.dict().entries()) {
    elements.push_back(kPart == DictPart::kItems  ? Value::MakeTuple({key, value})
                       : kPart == DictPart::kKeys ? key
                                                  : value);
  }
  const std::string_view name = kPart == DictPart::kItems  ? "dict_items"
                                : kPart == DictPart::kKeys ? "dict_keys"
                                                           : "dict_values";
  return Value::FromObject(std::make_shared<DictView>(name, std::move(elements)));
}

absl::StatusOr<Value> CallChange(Interpreter& /*interpreter*/,
                                 const Value& self,
                                 const Arguments& /*arguments*/) {
  return TypeError(fmt::format("a template may not change a {}", self.type_name()));
}

struct Method {
  std::string_view name;
  Native native;
};

constexpr std::array kStringMethods = {
    Method{"capitalize", CallConvert<Capitalize>},
    Method{"center", CallJustify<true, true>},
    Method{"count", CallCountText},
    Method{"endswith", CallStartsWith<true>},
    Method{"find", CallFind<false, false>},
    Method{"format", CallFormat},
    Method{"index", CallFind<false, true>},
    Method{"isalnum", CallPredicate<IsAlnum>},
    Method{"isalpha", CallPredicate<IsAlpha>},
    Method{"isascii", CallPredicate<IsAscii>},
    Method{"isdecimal", CallPredicate<IsDecimal>},
    Method{"isdigit", CallPredicate<IsDecimal>},
    Method{"islower", CallPredicate<IsLower>},
    Method{"isspace", CallPredicate<IsSpaces>},
    Method{"isupper", CallPredicate<IsUpper>},
    Method{"join", CallJoin},
    Method{"ljust", CallJustify<false, true>},
    Method{"lower", CallConvert<ToLower>},
    Method{"lstrip", CallStrip<StripLeft>},
    Method{"partition", CallPartition<false>},
    Method{"removeprefix", CallRemoveAffix<false>},
    Method{"removesuffix", CallRemoveAffix<true>},
    Method{"replace", CallReplace},
    Method{"rfind", CallFind<true, false>},
    Method{"rindex", CallFind<true, true>},
    Method{"rjust", CallJustify<true, false>},
    Method{"rpartition", CallPartition<true>},
    Method{"rsplit", CallSplit<SplitFromRight>},
    Method{"rstrip", CallStrip<StripRight>},
    Method{"split", CallSplit<Split>},
    Method{"splitlines", CallSplitLines},
    Method{"startswith", CallStartsWith<false>},
    Method{"strip", CallStrip<Strip>},
    Method{"swapcase", CallConvert<SwapCase>},
    Method{"title", CallConvert<ToTitle>},
    Method{"upper", CallConvert<ToUpper>},
    Method{"zfill", CallZfill},
};

constexpr std::array kTupleMethods = {
    Method{"count", CallCountElements},
    Method{"index", CallIndex},
};

constexpr std::array kListMethods = {
    Method{"append", CallChange},
    Method{"clear", CallChange},
    Method{"copy", CallCopy},
    Method{"count", CallCountElements},
    Method{"extend", CallChange},
    Method{"index", CallIndex},
    Method{"insert", CallChange},
    Method{"pop", CallChange},
    Method{"remove", CallChange},
    Method{"reverse", CallChange},
    Method{"sort", CallChange},
};

constexpr std::array kDictMethods = {
    Method{"clear", CallChange},
    Method{"copy", CallCopy},
    Method{"get", CallGet},
    Method{"items", CallDictView<DictPart::kItems>},
    Method{"keys", CallDictView<DictPart::kKeys>},
    Method{"pop", CallChange},
    Method{"popitem", CallChange},
    Method{"setdefault", CallChange},
    Method{"update", CallChange},
    Method{"values", CallDictView<DictPart::kValues>},
};

std::optional<Value> FindIn(std::span<const Method> methods,
                            const Value& value,
                            std::string_view name) {
  for (const Method& method : methods) {
    if (method.name == name) {
      return Value::FromObject(std::make_shared<Function>(method.name, method.native, value));
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<Value> FindMethod(const Value& value, std::string_view name) {
  switch (value.type()) {
    case Value::Type::kString:
      return FindIn(kStringMethods, value, name);
    case Value::Type::kTuple:
      return FindIn(kTupleMethods, value, name);
    case Value::Type::kList:
      return FindIn(kListMethods, value, name);
    case Value::Type::kDict:
      return FindIn(kDictMethods, value, name);
    default:
      return std::nullopt;
  }
}

}  // namespace ringserve::jinja
