#include "engine/text/pretokenizer.h"

#include <fmt/format.h>

#include "engine/base/json_reader.h"

namespace ringserve {
namespace {

constexpr size_t kMaxStages = 16;
// What ByteLevel splits by unless told not to (GPT-2's).
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

absl::Status Invalid(const std::string& path, std::string_view message) {
  return absl::InvalidArgumentError(fmt::format("{}: {}", path, message));
}

absl::StatusOr<Regex> CompileAt(std::string_view pattern, const std::string& path) {
  auto regex = Regex::Compile(pattern);
  if (!regex.ok()) {
    return Invalid(path, std::string(regex.status().message()));
  }
  return regex;
}

PreTokenizer::Behavior BehaviorOf(const std::string& name) {
  using Behavior = PreTokenizer::Behavior;
  return name == "Removed"              ? Behavior::kRemoved
         : name == "Isolated"           ? Behavior::kIsolated
         : name == "MergedWithPrevious" ? Behavior::kMergedWithPrevious
         : name == "MergedWithNext"     ? Behavior::kMergedWithNext
                                        : Behavior::kContiguous;
}

void FindLiteral(std::string_view text,
                 std::string_view literal,
                 std::vector<Regex::Match>* matches) {
  matches->clear();
  for (size_t at = text.find(literal); at != std::string_view::npos;
       at = text.find(literal, at + literal.size())) {
    matches->push_back({at, at + literal.size()});
  }
}

struct Span {
  size_t begin, end;
  bool is_match;
};

// Matches and what lies between them, in order.
std::vector<Span> Spans(size_t size, const std::vector<Regex::Match>& matches, bool invert) {
  std::vector<Span> spans;
  size_t done = 0;
  for (const Regex::Match& match : matches) {
    if (done != match.begin) {
      spans.push_back({done, match.begin, invert});
    }
    spans.push_back({match.begin, match.end, !invert});
    done = match.end;
  }
  if (done != size) {
    spans.push_back({done, size, invert});
  }
  return spans;
}

// Joins spans from the left: each is either added to the one before it or begins a new one.
template <typename Joins>
std::vector<Span> JoinSpans(const std::vector<Span>& spans, Joins joins) {
  std::vector<Span> joined;
  bool previous_match = false;
  for (const Span& span : spans) {
    if (!joined.empty() && joins(span.is_match, previous_match)) {
      joined.back().end = span.end;
    } else {
      joined.push_back(span);
    }
    previous_match = span.is_match;
  }
  return joined;
}

// The same from the right, where a match that is followed by no other match joins what follows.
std::vector<Span> JoinWithNext(const std::vector<Span>& spans) {
  std::vector<Span> joined;
  bool next_match = false;
  for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
    if (!joined.empty() && span->is_match && !next_match) {
      joined.back().begin = span->begin;
    } else {
      joined.push_back(*span);
    }
    next_match = span->is_match;
  }
  return {joined.rbegin(), joined.rend()};
}

void AppendWords(std::string_view text,
                 std::vector<Span> spans,
                 PreTokenizer::Behavior behavior,
                 std::vector<std::string_view>* words) {
  using Behavior = PreTokenizer::Behavior;
  if (behavior == Behavior::kMergedWithPrevious) {
    spans = JoinSpans(spans, [](bool match, bool previous) { return match && !previous; });
  } else if (behavior == Behavior::kContiguous) {
    spans = JoinSpans(spans, [](bool match, bool previous) { return match == previous; });
  } else if (behavior == Behavior::kMergedWithNext) {
    spans = JoinWithNext(spans);
  }
  for (const Span& span : spans) {
    if (span.end > span.begin && !(behavior == Behavior::kRemoved && span.is_match)) {
      words->push_back(text.substr(span.begin, span.end - span.begin));
    }
  }
}

// The frequent case: nothing is removed or joined.
void AppendIsolated(std::string_view text,
                    const std::vector<Regex::Match>& matches,
                    std::vector<std::string_view>* words) {
  size_t done = 0;
  const auto append = [&](size_t end) {
    if (end > done) {
      words->push_back(text.substr(done, end - done));
      done = end;
    }
  };
  for (const Regex::Match& match : matches) {
    append(match.begin);
    append(match.end);
  }
  append(text.size());
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const nlohmann::json& value,
                                                    const std::string& path) {
  PreTokenizer result;
  RETURN_IF_ERROR(result.Add(value, path, /*is_last=*/true));
  return result;
}

absl::Status PreTokenizer::Add(const nlohmann::json& value, const std::string& path, bool is_last) {
  ASSIGN_OR_RETURN(JsonReader reader, JsonReader::Create(value, path));
  ASSIGN_OR_RETURN(const std::string type, reader.Enum("type", {"ByteLevel", "Split", "Sequence"}));
  if (stages_.size() >= kMaxStages) {
    return Invalid(path, fmt::format("more than {} stages in all", kMaxStages));
  }
  if (type == "Split") {
    return is_last ? reader.Error("type", "a Split that no ByteLevel follows is not supported")
                   : AddSplit(value, path);
  }
  if (type == "ByteLevel") {
    return is_last ? AddByteLevel(value, path)
                   : reader.Error("type", "ByteLevel is only supported at the end");
  }
  ASSIGN_OR_RETURN(const nlohmann::json* list, reader.Any("pretokenizers"));
  RETURN_IF_ERROR(reader.Finish());
  if (!list->is_array() || list->empty() || list->size() > kMaxStages) {
    return reader.Error("pretokenizers", fmt::format("not an array of 1 to {}", kMaxStages));
  }
  for (size_t i = 0; i < list->size(); ++i) {
    RETURN_IF_ERROR(Add((*list)[i],
                        fmt::format("{}.pretokenizers[{}]", path, i),
                        is_last && i + 1 == list->size()));
  }
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddSplit(const nlohmann::json& value, const std::string& path) {
  ASSIGN_OR_RETURN(JsonReader reader, JsonReader::Create(value, path));
  reader.Ignore("type");
  ASSIGN_OR_RETURN(JsonReader pattern, reader.Object("pattern"));
  ASSIGN_OR_RETURN(
      const std::string behavior,
      reader.Enum("behavior",
                  {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"}));
  Stage stage;
  stage.behavior = BehaviorOf(behavior);
  ASSIGN_OR_RETURN(stage.invert, reader.Bool("invert"));
  RETURN_IF_ERROR(reader.Finish());
  if (pattern.Has("String")) {
    ASSIGN_OR_RETURN(stage.literal, pattern.String("String"));
    if (stage.literal.empty()) {
      return pattern.Error("String", "empty");
    }
  } else {
    ASSIGN_OR_RETURN(const std::string regex, pattern.String("Regex"));
    ASSIGN_OR_RETURN(Regex compiled, CompileAt(regex, pattern.path() + ".Regex"));
    stage.regex.push_back(std::move(compiled));
  }
  RETURN_IF_ERROR(pattern.Finish());
  stages_.push_back(std::move(stage));
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddByteLevel(const nlohmann::json& value, const std::string& path) {
  ASSIGN_OR_RETURN(JsonReader reader, JsonReader::Create(value, path));
  reader.Ignore("type");
  reader.Ignore("trim_offsets");  // offsets are not computed
  ASSIGN_OR_RETURN(const bool add_prefix_space, reader.Bool("add_prefix_space"));
  bool use_regex = true;
  if (reader.Has("use_regex")) {
    ASSIGN_OR_RETURN(use_regex, reader.Bool("use_regex"));
  }
  RETURN_IF_ERROR(reader.Finish());
  if (add_prefix_space) {
    Stage stage;
    stage.add_prefix_space = true;
    stages_.push_back(std::move(stage));
  }
  if (use_regex) {
    Stage stage;
    ASSIGN_OR_RETURN(Regex regex, CompileAt(kByteLevelPattern, path));
    stage.regex.push_back(std::move(regex));
    stages_.push_back(std::move(stage));
  }
  return absl::OkStatus();
}

absl::Status PreTokenizer::Split(std::string_view text, Scratch* scratch) const {
  scratch->owned.clear();
  scratch->words.assign(1, text);
  for (const Stage& stage : stages_) {
    RETURN_IF_ERROR(RunStage(stage, scratch));
  }
  return absl::OkStatus();
}

absl::Status PreTokenizer::RunStage(const Stage& stage, Scratch* scratch) {
  if (stage.add_prefix_space) {
    for (std::string_view& word : scratch->words) {
      if (word[0] != ' ') {
        word = scratch->owned.emplace_back(1, ' ').append(word);
      }
    }
    return absl::OkStatus();
  }
  scratch->next.clear();
  for (const std::string_view word : scratch->words) {
    if (stage.regex.empty()) {
      FindLiteral(word, stage.literal, &scratch->matches);
    } else {
      RETURN_IF_ERROR(stage.regex[0].FindAll(word, &scratch->regex, &scratch->matches));
    }
    if (stage.behavior == Behavior::kIsolated) {
      AppendIsolated(word, scratch->matches, &scratch->next);
    } else {
      AppendWords(
          word, Spans(word.size(), scratch->matches, stage.invert), stage.behavior, &scratch->next);
    }
  }
  scratch->words.swap(scratch->next);
  return absl::OkStatus();
}

}  // namespace ringserve
