#include "engine/text/utf8.h"

namespace ringserve {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

// What may follow a lead byte. length 0: it cannot lead.
struct Lead {
  size_t length;
  uint8_t low, high;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) {
    return {1, 0, 0};
  }
  if (byte >= 0xc2 && byte <= 0xdf) {
    return {2, 0x80, 0xbf};
  }
  if (byte >= 0xe0 && byte <= 0xef) {
    return {3,
            static_cast<uint8_t>(byte == 0xe0 ? 0xa0 : 0x80),
            static_cast<uint8_t>(byte == 0xed ? 0x9f : 0xbf)};
  }
  if (byte >= 0xf0 && byte <= 0xf4) {
    return {4,
            static_cast<uint8_t>(byte == 0xf0 ? 0x90 : 0x80),
            static_cast<uint8_t>(byte == 0xf4 ? 0x8f : 0xbf)};
  }
  return {0, 0, 0};
}

}  // namespace

size_t ValidUtf8Prefix(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    const auto byte = static_cast<uint8_t>(text[position]);
    if (byte < 0x80) {
      ++position;
      continue;
    }
    const Lead lead = LeadOf(byte);
    if (lead.length == 0 || text.size() - position < lead.length) {
      return position;
    }
    const auto second = static_cast<uint8_t>(text[position + 1]);
    if (second < lead.low || second > lead.high) {
      return position;
    }
    for (size_t i = 2; i < lead.length; ++i) {
      if ((static_cast<uint8_t>(text[position + i]) & 0xc0) != 0x80) {
        return position;
      }
    }
    position += lead.length;
  }
  return position;
}

char32_t DecodeUtf8(std::string_view text, size_t* position) {
  const auto byte = [&](size_t i) {
    return static_cast<char32_t>(static_cast<uint8_t>(text[*position + i]));
  };
  const char32_t lead = byte(0);
  const size_t length = Utf8Length(text[*position]);
  char32_t code_point = lead;
  if (length == 2) {
    code_point = (lead & 0x1f) << 6 | (byte(1) & 0x3f);
  } else if (length == 3) {
    code_point = (lead & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
  } else if (length == 4) {
    code_point =
        (lead & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
  }
  *position += length;
  return code_point;
}

void AppendUtf8(char32_t code_point, std::string* out) {
  const auto continuation = [&](int shift) {
    out->push_back(static_cast<char>(0x80 | (code_point >> shift & 0x3f)));
  };
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out->push_back(static_cast<char>(0xc0 | code_point >> 6));
    continuation(0);
  } else if (code_point < 0x10000) {
    out->push_back(static_cast<char>(0xe0 | code_point >> 12));
    continuation(6);
    continuation(0);
  } else {
    out->push_back(static_cast<char>(0xf0 | code_point >> 18));
    continuation(12);
    continuation(6);
    continuation(0);
  }
}

void Utf8Repair::Push(std::string_view bytes, std::string* out) {
  size_t position = 0;
  while (position < bytes.size()) {
    if (pending_.empty()) {
      const size_t valid = ValidUtf8Prefix(bytes.substr(position));
      out->append(bytes.substr(position, valid));
      position += valid;
      if (position == bytes.size()) {
        return;
      }
    }
    PushByte(bytes[position++], out);
  }
}

void Utf8Repair::PushByte(char c, std::string* out) {
  const auto byte = static_cast<uint8_t>(c);
  if (!pending_.empty()) {
    if (byte >= low_ && byte <= high_) {
      pending_.push_back(c);
      low_ = 0x80;
      high_ = 0xbf;
      if (pending_.size() == expected_) {
        out->append(pending_);
        pending_.clear();
      }
      return;
    }
    out->append(kReplacement);
    pending_.clear();
  }
  const Lead lead = LeadOf(byte);
  if (lead.length == 0) {
    out->append(kReplacement);
  } else if (lead.length == 1) {
    out->push_back(c);
  } else {
    pending_.push_back(c);
    expected_ = lead.length;
    low_ = lead.low;
    high_ = lead.high;
  }
}

void Utf8Repair::Finish(std::string* out) {
  if (!pending_.empty()) {
    out->append(kReplacement);
    pending_.clear();
  }
}

}  // namespace ringserve
