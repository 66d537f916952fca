#include "engine/constraint/json_terminals.h"

#include <utility>

#include "engine/base/check.h"
#include "engine/constraint/char_bytes.h"

namespace ringserve {
namespace {

constexpr int kMaxSpaces = 64;
constexpr int kMaxTabs = 16;
constexpr int64_t kAllWork = int64_t{1} << 40;

// Adds \b, \n, ..., \u0041 and pairs of surrogates from `from` to `to`.
void AddEscapes(DfaBuilder* builder, int32_t from, int32_t to) {
  const int32_t letter = builder->AddState(false);
  builder->AddEdge(from, '\\', '\\', letter);
  for (const char c : std::string("\"\\/bfnrt")) {
    builder->AddEdge(letter, static_cast<uint8_t>(c), static_cast<uint8_t>(c), to);
  }
  const auto hex = [builder](int32_t at, int32_t next) {
    builder->AddEdge(at, '0', '9', next);
    builder->AddEdge(at, 'A', 'F', next);
    builder->AddEdge(at, 'a', 'f', next);
  };
  const auto add = [builder] { return builder->AddState(false); };
  const int32_t first = add();
  const int32_t second = add();
  const int32_t third = add();
  const int32_t fourth = add();
  builder->AddEdge(letter, 'u', 'u', first);
  builder->AddEdge(first, '0', '9', second);
  for (const auto& [low, high] : {std::pair('A', 'C'), {'E', 'F'}, {'a', 'c'}, {'e', 'f'}}) {
    builder->AddEdge(first, static_cast<uint8_t>(low), static_cast<uint8_t>(high), second);
  }
  hex(second, third);
  hex(third, fourth);
  hex(fourth, to);
  // d0 to d7 are characters, d8 to db begin a pair that \udc to \udf end.
  const int32_t after_d = add();
  const int32_t high_third = add();
  const int32_t high_fourth = add();
  const int32_t high_end = add();
  const int32_t backslash = add();
  const int32_t u = add();
  const int32_t low = add();
  for (const uint8_t letter_d : {uint8_t{'D'}, uint8_t{'d'}}) {
    builder->AddEdge(first, letter_d, letter_d, after_d);
    builder->AddEdge(u, letter_d, letter_d, low);
  }
  builder->AddEdge(after_d, '0', '7', third);
  builder->AddEdge(after_d, '8', '9', high_third);
  builder->AddEdge(after_d, 'A', 'B', high_third);
  builder->AddEdge(after_d, 'a', 'b', high_third);
  hex(high_third, high_fourth);
  hex(high_fourth, high_end);
  builder->AddEdge(high_end, '\\', '\\', backslash);
  builder->AddEdge(backslash, 'u', 'u', u);
  builder->AddEdge(low, 'C', 'F', third);
  builder->AddEdge(low, 'c', 'f', third);
}

// From `body` any characters, back to it; a quote leads to `end`.
void AddBody(DfaBuilder* builder, int32_t body, int32_t end) {
  builder->AddEdge(body, '"', '"', end);
  AddEscapes(builder, body, body);
  const CharSet plain = CharSet::FromRanges({{0x20, 0x21}, {0x23, 0x5b}, {0x5d, kMaxCodePoint}});
  // Sequences that begin alike share the state after their first range, and so on.
  absl::flat_hash_map<std::pair<int32_t, int32_t>, int32_t> states;
  for (const std::vector<ByteRange>& sequence : ByteSequences(plain, TextForm::kPlain)) {
    int32_t at = body;
    for (size_t i = 0; i < sequence.size(); ++i) {
      const ByteRange& range = sequence[i];
      if (i + 1 == sequence.size()) {
        builder->AddEdge(at, range.first, range.last, body);
        continue;
      }
      const auto [found, is_new] =
          states.try_emplace({at, range.first << 8 | range.last}, builder->num_states());
      if (is_new) {
        builder->AddEdge(at, range.first, range.last, builder->AddState(false));
      }
      at = found->second;
    }
  }
}

Dfa StringDfa(bool opened) {
  DfaBuilder builder;
  const int32_t start = builder.AddState(false);
  const int32_t end = builder.AddState(true);
  int32_t body = start;
  if (!opened) {
    body = builder.AddState(false);
    builder.AddEdge(start, '"', '"', body);
  }
  AddBody(&builder, body, end);
  return builder.Build();
}

Dfa WhitespaceDfa() {
  DfaBuilder builder;
  const int32_t start = builder.AddState(true);
  builder.AddEdge(start, ' ', ' ', builder.AddState(true));
  const int32_t line = builder.AddState(true);
  builder.AddEdge(start, '\n', '\n', line);
  for (const auto& [byte, most] :
       {std::pair(uint8_t{' '}, kMaxSpaces), std::pair(uint8_t{'\t'}, kMaxTabs)}) {
    int32_t at = line;
    for (int i = 0; i < most; ++i) {
      const int32_t next = builder.AddState(true);
      builder.AddEdge(at, byte, byte, next);
      at = next;
    }
  }
  return builder.Build();
}

}  // namespace

Dfa Spellable(Dfa dfa, const Vocabulary& vocabulary) {
  DfaBuilder builder;
  const int32_t any = builder.AddState(true);
  bool is_all = true;
  for (int byte = 0; byte < 256; ++byte) {
    if (vocabulary.has_byte(static_cast<uint8_t>(byte))) {
      builder.AddEdge(any, static_cast<uint8_t>(byte), static_cast<uint8_t>(byte), any);
    } else {
      is_all = false;
    }
  }
  if (is_all) {
    return dfa;
  }
  Budget budget;
  absl::StatusOr<Dfa> kept = Intersect(dfa, builder.Build(), &budget);
  RS_CHECK(kept.ok());  // as large as `dfa` at most
  return *std::move(kept);
}

JsonTerminals MakeJsonTerminals(const std::shared_ptr<const Vocabulary>& vocabulary) {
  const auto index = [&vocabulary](Dfa dfa, bool counted) {
    auto made =
        std::make_shared<TokenIndex>(vocabulary, Spellable(std::move(dfa), *vocabulary), counted);
    made->Prepare(kAllWork);
    return made;
  };
  return {.string = index(StringDfa(/*opened=*/false), false),
          .counted_string = index(StringDfa(/*opened=*/true), true),
          .whitespace = index(WhitespaceDfa(), false)};
}

}  // namespace ringserve
