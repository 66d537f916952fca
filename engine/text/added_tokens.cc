#include "engine/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "engine/text/char_set.h"
#include "engine/text/utf8.h"

namespace ringserve {
namespace {

// The character before `end`; requires end > 0. Sets *begin to where it starts.
char32_t CharacterBefore(std::string_view text, size_t end, size_t* begin) {
  *begin = end - 1;
  while ((static_cast<uint8_t>(text[*begin]) & 0xc0) == 0x80) {
    --*begin;
  }
  size_t position = *begin;
  return DecodeUtf8(text, &position);
}

size_t SkipSpaceBack(std::string_view text, size_t end) {
  size_t begin = 0;
  while (end > 0 && WhiteSpace().Contains(CharacterBefore(text, end, &begin))) {
    end = begin;
  }
  return end;
}

size_t SkipSpace(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    size_t position = begin;
    if (!WhiteSpace().Contains(DecodeUtf8(text, &position))) {
      break;
    }
    begin = position;
  }
  return begin;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    trie_.Add(tokens_[i].content, static_cast<int32_t>(i));
    may_begin_[static_cast<uint8_t>(tokens_[i].content[0])] = true;
  }
}

bool AddedTokens::StandsAlone(std::string_view text, size_t begin, size_t end) const {
  size_t position = 0;
  if (begin > 0 && AddedTokenWord().Contains(CharacterBefore(text, begin, &position))) {
    return false;
  }
  position = end;
  return end == text.size() || !AddedTokenWord().Contains(DecodeUtf8(text, &position));
}

std::vector<AddedTokens::Piece> AddedTokens::Cut(std::string_view text, bool parse_special) const {
  std::vector<Piece> pieces;
  size_t done = 0;  // text before it is in pieces
  for (size_t position = 0; position < text.size() && !tokens_.empty();) {
    if (!may_begin_[static_cast<uint8_t>(text[position])]) {
      ++position;
      continue;
    }
    const auto [index, length] = trie_.Longest(text.substr(position));
    if (index < 0) {
      ++position;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    size_t begin = position;
    size_t end = position + length;
    position = end;
    if ((token.special && !parse_special) ||
        (token.single_word && !StandsAlone(text, begin, end))) {
      continue;
    }
    if (token.lstrip) {
      begin = std::max(SkipSpaceBack(text, begin), done);
    }
    if (token.rstrip) {
      end = SkipSpace(text, end);
    }
    if (end < begin) {
      continue;  // white space that the token before it took along (Hugging Face aborts here)
    }
    if (done < begin) {
      pieces.push_back({text.substr(done, begin - done), -1});
    }
    if (begin < end) {
      pieces.push_back({text.substr(begin, end - begin), token.id});
    }
    done = end;
  }
  if (done < text.size()) {
    pieces.push_back({text.substr(done), -1});
  }
  return pieces;
}

}  // namespace ringserve
