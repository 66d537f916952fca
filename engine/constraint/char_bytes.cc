#include "engine/constraint/char_bytes.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <absl/container/flat_hash_map.h>
#include <fmt/format.h>

#include "engine/text/utf8.h"

namespace ringserve {
namespace {

using Sequences = std::vector<std::vector<ByteRange>>;

// The last characters of one, two, three and four bytes.
constexpr char32_t kLastOfLength[] = {0x7f, 0x7ff, 0xffff, kMaxCodePoint};

void AddSpan(const std::string& first, const std::string& last, Sequences* out) {
  std::vector<ByteRange> sequence;
  for (size_t i = 0; i < first.size(); ++i) {
    sequence.push_back({static_cast<uint8_t>(first[i]), static_cast<uint8_t>(last[i])});
  }
  out->push_back(std::move(sequence));
}

// Splits until all bytes but a leading common part run over everything that may follow.
void AddRange(char32_t first, char32_t last, Sequences* out) {
  for (const char32_t end : kLastOfLength) {
    if (first <= end && last > end) {
      AddRange(first, end, out);
      AddRange(end + 1, last, out);
      return;
    }
  }
  for (int shift = 6; shift <= 18; shift += 6) {
    const char32_t low = (char32_t{1} << shift) - 1;
    if (last <= 0x7f || (first & ~low) == (last & ~low)) {
      break;
    }
    if ((first & low) != 0) {
      AddRange(first, first | low, out);
      AddRange((first | low) + 1, last, out);
      return;
    }
    if ((last & low) != low) {
      AddRange(first, (last & ~low) - 1, out);
      AddRange(last & ~low, last, out);
      return;
    }
  }
  std::string from;
  std::string to;
  AppendUtf8(first, &from);
  AppendUtf8(last, &to);
  AddSpan(from, to, out);
}

class GraphBuilder {
 public:
  GraphBuilder(const Sequences& sequences, ByteGraph* graph)
      : sequences_(sequences), graph_(*graph) {}

  // The node of what follows the first `depth` ranges, which are equal in these sequences.
  int32_t Add(size_t begin, size_t end, size_t depth) {
    std::vector<ByteGraph::Edge> edges;
    while (begin < end) {
      const ByteRange range = sequences_[begin][depth];
      size_t same = begin + 1;
      while (same < end && sequences_[same][depth].first == range.first) {
        ++same;
      }
      const bool is_last = sequences_[begin].size() == depth + 1;
      const int32_t to = is_last ? ByteGraph::kEnd : Add(begin, same, depth + 1);
      if (!edges.empty() && edges.back().to == to && edges.back().range.last + 1 == range.first) {
        edges.back().range.last = range.last;
      } else {
        edges.push_back({range, to});
      }
      begin = same;
    }
    std::string key;
    for (const ByteGraph::Edge& edge : edges) {
      key += fmt::format("{},{},{};", edge.range.first, edge.range.last, edge.to);
    }
    const auto [found, is_new] =
        ids_.try_emplace(std::move(key), static_cast<int32_t>(graph_.nodes.size()));
    if (is_new) {
      graph_.nodes.push_back(std::move(edges));
    }
    return found->second;
  }

 private:
  const Sequences& sequences_;
  ByteGraph& graph_;
  absl::flat_hash_map<std::string, int32_t> ids_;
};

bool NeedsEscape(char32_t c) {
  return c < 0x20 || c == '"' || c == '\\';
}

std::string Escape(char32_t c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
  }
}

}  // namespace

std::vector<std::vector<ByteRange>> ByteSequences(const CharSet& set, TextForm form) {
  static const CharSet surrogates = CharSet::Of(0xd800, 0xdfff);
  static const CharSet escaped = CharSet::FromRanges({{0, 0x1f}, {'"', '"'}, {'\\', '\\'}});
  CharSet plain = set.Intersection(surrogates.Complement());
  Sequences sequences;
  if (form == TextForm::kJsonString) {
    const CharSet to_escape = plain.Intersection(escaped);
    for (const CharSet::Range& range : to_escape.ranges()) {
      for (char32_t c = range.first; c <= range.last; ++c) {
        const std::string escape = Escape(c);
        AddSpan(escape, escape, &sequences);
      }
    }
    plain = plain.Intersection(escaped.Complement());
  }
  for (const CharSet::Range& range : plain.ranges()) {
    AddRange(range.first, range.last, &sequences);
  }
  return sequences;
}

ByteGraph ByteGraphOf(const CharSet& set, TextForm form) {
  Sequences sequences = ByteSequences(set, form);
  std::sort(sequences.begin(), sequences.end(), [](const auto& a, const auto& b) {
    return std::lexicographical_compare(
        a.begin(), a.end(), b.begin(), b.end(), [](const ByteRange& x, const ByteRange& y) {
          return x.first < y.first;
        });
  });
  ByteGraph graph;
  if (!sequences.empty()) {
    graph.start = GraphBuilder(sequences, &graph).Add(0, sequences.size(), 0);
  }
  return graph;
}

std::string InForm(std::string_view text, TextForm form) {
  if (form == TextForm::kPlain) {
    return std::string(text);
  }
  std::string out;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = DecodeUtf8(text, &position);
    if (NeedsEscape(c)) {
      out += Escape(c);
    } else {
      AppendUtf8(c, &out);
    }
  }
  return out;
}

}  // namespace ringserve
