#include "engine/constraint/string_format.h"

#include <array>
#include <utility>

#include <fmt/format.h>

namespace ringserve {
namespace {

// RFC 3339, in years 0001 to 9999 of the Gregorian calendar.
std::string Date() {
  const std::string year = "([1-9]\\d{3}|0[1-9]\\d{2}|00[1-9]\\d|000[1-9])";
  const std::string leap_in_century = "(0[48]|[2468][048]|[13579][26])";
  const std::string leap_year =
      fmt::format("(\\d\\d{0}|(0[48]|[2468][048]|[13579][26])00)", leap_in_century);
  return fmt::format(
      "({0}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|"
      "02-(0[1-9]|1\\d|2[0-8]))|{1}-02-29)",
      year,
      leap_year);
}

std::string Time() {
  return "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)";
}

std::string Label() {
  return "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
}

std::string Hostname() {
  return fmt::format("{0}(\\.{0}){{0,3}}", Label());
}

std::string Email() {
  const std::string atom = "[A-Za-z0-9_%+-]";
  const std::string label = "[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?";
  return fmt::format(
      "{0}{{1,32}}(\\.{0}{{1,31}})?@{1}(\\.{1}){{0,2}}\\.[A-Za-z]{{2,12}}", atom, label);
}

std::string Ipv4() {
  const std::string part = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
  return fmt::format("{0}(\\.{0}){{3}}", part);
}

// RFC 4291, without the form that ends in an IPv4 address.
std::string Ipv6() {
  const std::string part = "[0-9A-Fa-f]{1,4}";
  std::string all = fmt::format("({0}:){{7}}{0}|::({0}(:{0}){{0,6}})?", part);
  for (int before = 1; before <= 7; ++before) {
    const std::string left = fmt::format("{0}(:{0}){{{1}}}::", part, before - 1);
    all +=
        before == 7 ? "|" + left : fmt::format("|{0}({1}(:{1}){{0,{2}}})?", left, part, 6 - before);
  }
  return "(" + all + ")";
}

// RFC 3986, without user names, ports and addresses for hosts.
std::string Uri() {
  const std::string character = "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})";
  return fmt::format(
      "[A-Za-z][A-Za-z0-9+.-]{{0,15}}:(//{0}(\\.{0})*(/{1}*)*|{1}+)(\\?({1}|[/?])*)?(#({1}|[/"
      "?])*)?",
      "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?",
      character);
}

// ISO 8601 as RFC 3339 has it in its appendix.
std::string Duration() {
  const std::string n = "\\d{1,6}";
  const std::string time = fmt::format("T({0}H({0}M({0}S)?)?|{0}M({0}S)?|{0}S)", n);
  return fmt::format("P({0}W|({0}Y({0}M({0}D)?)?|{0}M({0}D)?|{0}D)({1})?|{1})", n, time);
}

std::string Uuid() {
  return "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}";
}

std::string JsonPointer() {
  return "(/([^/~]|~[01])*)*";
}

constexpr std::array<std::pair<std::string_view, std::string (*)()>, 11> kFormats = {{
    {"date", &Date},
    {"time", &Time},
    {"date-time", [] { return Date() + "T" + Time(); }},
    {"duration", &Duration},
    {"email", &Email},
    {"hostname", &Hostname},
    {"ipv4", &Ipv4},
    {"ipv6", &Ipv6},
    {"uri", &Uri},
    {"uuid", &Uuid},
    {"json-pointer", &JsonPointer},
}};

}  // namespace

std::optional<std::string> FormatPattern(std::string_view format) {
  for (const auto& [name, pattern] : kFormats) {
    if (name == format) {
      return pattern();
    }
  }
  return std::nullopt;
}

std::string KnownFormats() {
  std::string names;
  for (const auto& [name, pattern] : kFormats) {
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  return names;
}

}  // namespace ringserve
