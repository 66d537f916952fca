#include "engine/text/stream_decoder.h"

#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/text/utf8.h"
#include "tests/support/catch.h"

namespace ringserve {
namespace {

const Tokenizer& Fairytale() {
  static const auto tokenizer =
      Tokenizer::Load(std::string(RINGSERVE_SOURCE_DIR) + "/models/fairytale-5m");
  REQUIRE(tokenizer.ok());
  return **tokenizer;
}

std::vector<int32_t> IdsOf(std::string_view text) {
  return *Fairytale().Encode(text, {});
}

// Ids of single bytes, of which every third belongs to a character above U+007F or to none.
std::vector<int32_t> RandomBytes(std::mt19937& random, size_t count) {
  static const std::vector<int32_t> by_byte = [] {
    std::vector<int32_t> ids(256);
    for (int32_t id = 0; id < Fairytale().vocab_size(); ++id) {
      if (Fairytale().TokenBytes(id, false).size() == 1) {
        ids[static_cast<uint8_t>(Fairytale().TokenBytes(id, false)[0])] = id;
      }
    }
    return ids;
  }();
  // Leads of all lengths, continuations at all bounds, and bytes that never occur.
  constexpr uint8_t kOdd[] = {0x80,
                              0x8f,
                              0x90,
                              0x9f,
                              0xa0,
                              0xbf,
                              0xc0,
                              0xc3,
                              0xe0,
                              0xe2,
                              0xed,
                              0xef,
                              0xf0,
                              0xf3,
                              0xf4,
                              0xf5,
                              0xff};
  std::vector<int32_t> ids;
  for (size_t i = 0; i < count; ++i) {
    ids.push_back(by_byte[random() % 3 == 0 ? 'a' + random() % 3 : kOdd[random() % 17]]);
  }
  return ids;
}

TEST_CASE("StreamDecoder says in pieces what Decode says at once") {
  std::mt19937 random(1);
  const auto vocab_size = static_cast<uint32_t>(Fairytale().vocab_size());
  for (int round = 0; round < 2000; ++round) {
    std::vector<int32_t> ids = RandomBytes(random, random() % 40);
    for (int i = 0; i < 5; ++i) {
      ids.insert(ids.begin() + static_cast<std::ptrdiff_t>(random() % (ids.size() + 1)),
                 static_cast<int32_t>(random() % vocab_size));
    }
    const bool skip_special = round % 2 == 0;
    StreamDecoder decoder(Fairytale(), {}, skip_special);
    std::string streamed;
    for (const int32_t id : ids) {
      const std::string piece = decoder.Push(id);
      CHECK(ValidUtf8Prefix(piece) == piece.size());
      streamed += piece;
    }
    streamed += decoder.Finish();
    CHECK(streamed == *Fairytale().Decode(ids, skip_special));
  }
}

TEST_CASE("StreamDecoder holds a character back until it is whole") {
  StreamDecoder decoder(Fairytale(), {}, true);
  std::vector<std::string> pieces;
  for (const int32_t id : IdsOf("\xf0\x9f\x99\x82")) {
    pieces.push_back(decoder.Push(id));
  }
  REQUIRE(pieces.size() == 4);
  CHECK(pieces == std::vector<std::string>{"", "", "", "\xf0\x9f\x99\x82"});
  const std::vector<int32_t> euro = IdsOf("\xe2\x82\xac");
  CHECK(decoder.Push(euro[0]).empty());
  CHECK(decoder.Finish() == "\xef\xbf\xbd");
}

TEST_CASE("special tokens are text only if asked for") {
  CHECK(StreamDecoder(Fairytale(), {}, true).Push(0).empty());
  CHECK(StreamDecoder(Fairytale(), {}, false).Push(0) == "<|endoftext|>");
  CHECK(StreamDecoder(Fairytale(), {"<|end"}, true).Push(0).empty());
  StreamDecoder decoder(Fairytale(), {"|end"}, false);
  CHECK(decoder.Push(0) == "<");
  CHECK(decoder.stop_index() == 0);
}

struct Stopped {
  std::string text;
  std::optional<int32_t> stop_index;
  bool operator==(const Stopped&) const = default;
};

Stopped Stream(const std::vector<int32_t>& ids, const std::vector<std::string>& stops) {
  StreamDecoder decoder(Fairytale(), stops, true);
  const auto condition = MakeStopCondition(Fairytale(), stops, true);
  CHECK((condition == nullptr) == stops.empty());
  Stopped result;
  for (const int32_t id : ids) {
    const bool was_stopped = decoder.stop_index().has_value();
    const std::string piece = decoder.Push(id);
    CHECK((!was_stopped || piece.empty()));
    result.text += piece;
    if (condition != nullptr && !was_stopped) {
      CHECK(condition->OnToken(id) == decoder.stop_index());
    }
  }
  result.text += decoder.Finish();
  result.stop_index = decoder.stop_index();
  return result;
}

// The rule of stream_decoder.h, looked up at every byte.
Stopped Model(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t i = 0; i < stops.size(); ++i) {
      const std::string& stop = stops[i];
      const bool ends_here =
          stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0;
      if (ends_here && (!best || stop.size() > stops[*best].size())) {
        best = i;
      }
    }
    if (best) {
      return {text.substr(0, end - stops[*best].size()), static_cast<int32_t>(*best)};
    }
  }
  return {text, std::nullopt};
}

TEST_CASE("a stop string ends the text where it begins, wherever tokens are cut") {
  const std::string text = "Once upon a time there lived a king.\n\nThe end";
  CHECK(Stream(IdsOf(text), {}) == Stopped{text, std::nullopt});
  CHECK(Stream(IdsOf(text), {"n a t"}) == Stopped{"Once upo", 0});
  CHECK(Stream(IdsOf(text), {"nowhere", "lived a queen", "\n\n"}) ==
        Stopped{"Once upon a time there lived a king.", 2});
  // The one that completes first, even inside one that began before it.
  CHECK(Stream(IdsOf(text), {"upon a time", "on"}) == Stopped{"Once up", 1});
  // Of those completing together the one that starts first, then the first of equal ones.
  CHECK(Stream(IdsOf(text), {"on", "upon", "upon"}) == Stopped{"Once ", 1});
  CHECK(Stream(IdsOf(text), {"O"}) == Stopped{"", 0});
  CHECK(Stream(IdsOf(text), {"end"}) == Stopped{text.substr(0, text.size() - 3), 0});
  CHECK(Stream(IdsOf(text), {"", "end, not"}) == Stopped{text, std::nullopt});
}

TEST_CASE("what may become a stop string is held back, and nothing else") {
  StreamDecoder decoder(Fairytale(), {"abcabd"}, true);
  std::string streamed;
  std::vector<std::string> pieces;
  for (const char c : std::string("xabcabcabcx")) {
    pieces.push_back(decoder.Push(IdsOf(std::string(1, c))[0]));
  }
  CHECK(pieces == std::vector<std::string>{"x", "", "", "", "", "", "abc", "", "", "abc", "abcx"});
  CHECK(decoder.Finish().empty());
  for (const char c : std::string("yabca")) {
    streamed += decoder.Push(IdsOf(std::string(1, c))[0]);
  }
  CHECK(streamed == "y");
  CHECK(decoder.Finish() == "abca");
}

TEST_CASE("stop strings agree with the rule on random texts") {
  std::mt19937 random(2);
  const auto random_text = [&](size_t max_length) {
    static constexpr const char* kLetters[] = {"a", "b", "\xc3\xa9", "\xc3\xa8", "\xef\xbf\xbd"};
    std::string text;
    for (size_t i = random() % (max_length + 1); i > 0; --i) {
      text += kLetters[random() % 5];
    }
    return text;
  };
  size_t num_stopped = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops(random() % 64);
    for (std::string& stop : stops) {
      stop = random_text(round % 2 == 0 ? 4 : 12).append("b");
    }
    // Pieces of random lengths: bytes, or the tokens of a text.
    const std::vector<int32_t> ids =
        round % 3 == 0 ? RandomBytes(random, 60) : IdsOf(random_text(60));
    const Stopped got = Stream(ids, stops);
    // An incomplete end becomes U+FFFD in Finish only, where stop strings are not looked for.
    const std::string text = *Fairytale().Decode(ids, true);
    const Stopped whole = Model(text, stops);
    const bool at_end = whole.stop_index && !got.stop_index && got.text == text;
    CHECK((got == whole || (at_end && text.ends_with("\xef\xbf\xbd"))));
    num_stopped += got.stop_index.has_value() ? 1 : 0;
  }
  CHECK(num_stopped > 1000);
  CHECK(num_stopped < 4900);
}

TEST_CASE("a stream costs the same whatever the stop strings") {
  // 2^18 bytes against stop strings that nearly match at every byte: quadratic work would be 10^9
  // steps for each stop string.
  const std::vector<int32_t> a = IdsOf("a");
  std::vector<std::string> stops;
  for (size_t i = 0; i < 64; ++i) {
    stops.push_back(std::string(4000 - i, 'a') + "b");
  }
  StreamDecoder decoder(Fairytale(), stops, true);
  size_t length = 0;
  for (int i = 0; i < 1 << 18; ++i) {
    length += decoder.Push(a[0]).size();
  }
  CHECK(length == (1 << 18) - 4000);
  CHECK(decoder.Finish().size() == 4000);
}

}  // namespace
}  // namespace ringserve
