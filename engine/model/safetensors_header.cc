// The header of a safetensors file: an event handler that accepts exactly the format's grammar (so
// that a hostile header cannot make the parser build anything but tensor entries), then the checks
// of each entry and of all together.
#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/model/safetensors.h"

namespace ringserve {
namespace {

constexpr size_t kMaxRank = 16;
constexpr size_t kMaxErrorBytes = 300;
constexpr size_t kMaxQuotedBytes = 160;

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(message);
}

// A name from the file, safe to print.
std::string Quote(std::string_view name) {
  const nlohmann::json text = std::string(name.substr(0, kMaxQuotedBytes));
  return text.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) +
         (name.size() > kMaxQuotedBytes ? "..." : "");
}

// Bytes of an element; 0 if the dtype is not known.
uint64_t ElementBytes(std::string_view dtype) {
  constexpr std::pair<std::string_view, uint64_t> kSizes[] = {
      {"BOOL", 1},
      {"U8", 1},
      {"I8", 1},
      {"F8_E4M3", 1},
      {"F8_E5M2", 1},
      {"I16", 2},
      {"U16", 2},
      {"F16", 2},
      {"BF16", 2},
      {"I32", 4},
      {"U32", 4},
      {"F32", 4},
      {"C64", 8},
      {"F64", 8},
      {"I64", 8},
      {"U64", 8},
      {"F8_E8M0", 1},
  };
  for (const auto& [name, bytes] : kSizes) {
    if (name == dtype) {
      return bytes;
    }
  }
  return 0;
}

// {"__metadata__": {text: text}, name: {"dtype": text, "shape": [int...], "data_offsets": [int,
// int]}}
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return Fail("null has no place here"); }

  bool boolean(bool /*value*/) override { return Fail("true or false has no place here"); }

  bool number_integer(number_integer_t value) override {
    return Fail(fmt::format("{} is negative", value));
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::kShape) {
      if (entry_.shape.size() == kMaxRank) {
        return Fail(fmt::format("more than {} dimensions", kMaxRank));
      }
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Fail(fmt::format("dimension {} is out of range", value));
      }
      entry_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::kOffsets) {
      if (num_offsets_ == 2) {
        return Fail("not two offsets");
      }
      (num_offsets_ == 0 ? entry_.begin : entry_.end) = value;
      ++num_offsets_;
      return true;
    }
    return Fail("a number has no place here");
  }

  bool number_float(number_float_t /*value*/, const string_t& text) override {
    return Fail(fmt::format("{} is not an integer", text.substr(0, kMaxQuotedBytes)));
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      return true;
    }
    if (place_ == Place::kTensor && field_ == "dtype") {
      entry_.dtype = std::move(value);
      return true;
    }
    return Fail("a string has no place here");
  }

  bool binary(binary_t& /*value*/) override { return false; }

  bool start_object(size_t /*size*/) override {
    if (place_ == Place::kStart) {
      place_ = Place::kRoot;
      return true;
    }
    if (place_ == Place::kRoot) {
      place_ = entry_.name == "__metadata__" ? Place::kMetadata : Place::kTensor;
      has_dtype_ = has_shape_ = has_offsets_ = false;
      return true;
    }
    return Fail("an object has no place here");
  }

  bool start_array(size_t /*size*/) override {
    if (place_ == Place::kTensor && field_ == "shape") {
      place_ = Place::kShape;
      return true;
    }
    if (place_ == Place::kTensor && field_ == "data_offsets") {
      place_ = Place::kOffsets;
      num_offsets_ = 0;
      return true;
    }
    return Fail("a list has no place here");
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && num_offsets_ != 2) {
      return Fail("not two offsets");
    }
    place_ = Place::kTensor;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      field_.clear();
      if (!has_dtype_ || !has_shape_ || !has_offsets_) {
        return Fail(fmt::format("{} is missing",
                                !has_dtype_   ? "dtype"
                                : !has_shape_ ? "shape"
                                              : "data_offsets"));
      }
      entries_.push_back(std::exchange(entry_, {}));
    }
    place_ = place_ == Place::kRoot ? Place::kEnd : Place::kRoot;
    return true;
  }

  bool key(string_t& name) override {
    if (place_ == Place::kRoot) {
      field_.clear();
      entry_ = {};
      entry_.name = std::move(name);
      if (entry_.name == "__metadata__" && std::exchange(has_metadata_, true)) {
        return Fail("duplicate name");
      }
      return true;
    }
    if (place_ == Place::kMetadata) {
      return true;
    }
    field_ = std::move(name);
    bool* seen = field_ == "dtype"          ? &has_dtype_
                 : field_ == "shape"        ? &has_shape_
                 : field_ == "data_offsets" ? &has_offsets_
                                            : nullptr;
    if (seen == nullptr) {
      return Fail("unknown key");
    }
    return !std::exchange(*seen, true) || Fail("duplicate key");
  }

  bool parse_error(size_t position,
                   const std::string& /*last_token*/,
                   const nlohmann::detail::exception& exception) override {
    error_ = fmt::format("header byte {}: {}",
                         position,
                         std::string_view(exception.what()).substr(0, kMaxErrorBytes));
    return false;
  }

  const std::string& error() const { return error_; }

  std::vector<TensorEntry> Take() { return std::move(entries_); }

 private:
  enum class Place { kStart, kRoot, kMetadata, kTensor, kShape, kOffsets, kEnd };

  bool Fail(const std::string& message) {
    if (place_ == Place::kStart) {
      error_ = "header is not a JSON object";
      return false;
    }
    error_ = fmt::format("tensor {}: {}{}{}",
                         Quote(entry_.name),
                         field_.empty() ? "" : Quote(field_),
                         field_.empty() ? "" : ": ",
                         message);
    return false;
  }

  Place place_ = Place::kStart;
  TensorEntry entry_;
  std::string field_;
  int num_offsets_ = 0;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  bool has_metadata_ = false;
  std::vector<TensorEntry> entries_;
  std::string error_;
};

// Empty if the entry is sound by itself.
std::string EntryProblem(const TensorEntry& entry, uint64_t header_bytes, uint64_t data_bytes) {
  const uint64_t element = ElementBytes(entry.dtype);
  if (element == 0) {
    return fmt::format("dtype {} is not known", Quote(entry.dtype));
  }
  uint64_t bytes = element;
  for (const int64_t size : entry.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) {
      return "shape times element size overflows";
    }
  }
  if (entry.begin > entry.end) {
    return fmt::format("begins at offset {}, after its end {}", entry.begin, entry.end);
  }
  if (entry.end > data_bytes) {
    return fmt::format(
        "ends at offset {} of {} bytes of data: the file is cut or lies", entry.end, data_bytes);
  }
  if (entry.end - entry.begin != bytes) {
    return fmt::format(
        "has {} bytes where dtype and shape need {}", entry.end - entry.begin, bytes);
  }
  if ((sizeof(uint64_t) + header_bytes + entry.begin) % element != 0) {
    return fmt::format("begins at byte {} of the file, no multiple of its element size {}",
                       sizeof(uint64_t) + header_bytes + entry.begin,
                       element);
  }
  return "";
}

absl::Status CheckNames(const std::vector<TensorEntry>& entries, std::string_view what) {
  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const TensorEntry& entry : entries) {
    names.push_back(entry.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  return twice == names.end()
             ? absl::OkStatus()
             : Invalid(fmt::format("{}: tensor {}: duplicate name", what, Quote(*twice)));
}

// Sorted entries must follow each other without overlap or hole up to the last byte.
absl::Status CheckCover(const std::vector<TensorEntry>& entries,
                        uint64_t data_bytes,
                        std::string_view what) {
  uint64_t covered = 0;
  const TensorEntry* before = nullptr;
  for (const TensorEntry& entry : entries) {
    if (entry.begin < covered) {
      return Invalid(
          fmt::format("{}: tensor {}: begins at offset {}, inside tensor {}, which ends at {}",
                      what,
                      Quote(entry.name),
                      entry.begin,
                      Quote(before->name),
                      covered));
    }
    if (entry.begin > covered) {
      return Invalid(fmt::format(
          "{}: tensor {}: begins at offset {}, the {} bytes before it belong to no tensor",
          what,
          Quote(entry.name),
          entry.begin,
          entry.begin - covered));
    }
    covered = entry.end;
    before = &entry;
  }
  if (covered != data_bytes) {
    return Invalid(fmt::format(
        "{}: the last {} bytes of data belong to no tensor", what, data_bytes - covered));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<TensorEntry>> ParseSafetensorsHeader(std::string_view header,
                                                                uint64_t data_bytes,
                                                                std::string_view what) {
  if (!header.starts_with('{')) {
    return Invalid(fmt::format("{}: header does not begin with {{", what));
  }
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(header, &handler)) {
    return Invalid(fmt::format("{}: {}", what, handler.error()));
  }
  std::vector<TensorEntry> entries = handler.Take();
  for (const TensorEntry& entry : entries) {
    const std::string problem = EntryProblem(entry, header.size(), data_bytes);
    if (!problem.empty()) {
      return Invalid(fmt::format("{}: tensor {}: {}", what, Quote(entry.name), problem));
    }
  }
  RETURN_IF_ERROR(CheckNames(entries, what));
  std::sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  RETURN_IF_ERROR(CheckCover(entries, data_bytes, what));
  return entries;
}

}  // namespace ringserve
