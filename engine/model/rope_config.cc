#include "engine/model/rope_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/check.h"

namespace ringserve {
namespace {

constexpr DoubleRange kThetaRange = {1.0, 1e15};
constexpr DoubleRange kFactorRange = {1e-3, 1e6};
constexpr DoubleRange kScalingRange = {1.0, 1e6};
constexpr IntRange kOriginalRange = {1, 1 << 30};

// Reads the keys of one "rope_parameters" object.
class RopeReader {
 public:
  RopeReader(const RopeContext& context, JsonReader& reader, RopeConfig& rope, Problems& problems)
      : context_(context), reader_(reader), rope_(rope), problems_(problems) {}

  void Read();

 private:
  void ReadFactor(bool required);
  void ReadOriginal();
  void ReadLlama3();
  void ReadYarn();
  void ReadLongRope();
  void ReadFactors(const char* key, std::vector<double>& factors);

  const RopeContext& context_;
  JsonReader& reader_;
  RopeConfig& rope_;
  Problems& problems_;
};

// "type" is the older spelling of "rope_type"; files with both say the same in both.
std::string ReadType(JsonReader& reader, Problems& problems) {
  std::string type = "default";
  if (reader.Has("rope_type")) {
    problems.Take(reader.String("rope_type"), type);
  }
  std::string legacy;
  if (reader.Has("type") && problems.Take(reader.String("type"), legacy)) {
    if (reader.Has("rope_type") && legacy != type) {
      problems.Add(reader.Error("type", fmt::format("\"{}\" contradicts rope_type", legacy)));
    }
    type = legacy;
  }
  reader.Ignore("rope_type");
  reader.Ignore("type");
  return type;
}

// Stored as the number of dimensions that are rotated.
void ReadPartial(JsonReader& reader,
                 const RopeContext& context,
                 RopeConfig& rope,
                 Problems& problems) {
  double partial = 1.0;
  if (!reader.Has("partial_rotary_factor") ||
      !problems.Take(reader.Double("partial_rotary_factor"), partial)) {
    return;
  }
  const auto dim = static_cast<int32_t>(context.head_dim * partial);
  if (partial != 1.0 && !context.partial) {
    problems.Add(
        reader.Error("partial_rotary_factor", fmt::format("{} is not supported, only 1", partial)));
  } else if (!(partial > 0) || partial > 1 || dim < 2 || dim % 2 != 0) {
    problems.Add(reader.Error(
        "partial_rotary_factor",
        fmt::format(
            "{} of head_dim {} is no even number of dimensions", partial, context.head_dim)));
  } else {
    rope.rotary_dim = partial == 1.0 ? 0 : dim;
  }
}

void RopeReader::Read() {
  std::string type = ReadType(reader_, problems_);
  if (context_.yarn_means_longrope && (type == "su" || type == "yarn")) {
    type = "longrope";
  }
  if (reader_.Has("rope_theta")) {
    problems_.Take(reader_.Double("rope_theta", kThetaRange), rope_.theta);
  }
  ReadPartial(reader_, context_, rope_, problems_);
  if (type == "linear") {
    rope_.kind = RopeConfig::Kind::kLinear;
    ReadFactor(true);
  } else if (type == "dynamic") {
    // Up to max_position_embeddings, beyond which no context grows here, it is the default.
    rope_.kind = RopeConfig::Kind::kDynamic;
    ReadFactor(true);
    reader_.Ignore("original_max_position_embeddings");
  } else if (type == "llama3") {
    ReadLlama3();
  } else if (type == "yarn") {
    ReadYarn();
  } else if (type == "longrope") {
    ReadLongRope();
  } else if (type != "default") {
    problems_.Add(reader_.Error("rope_type",
                                fmt::format("\"{}\" is not supported, only: default, linear, "
                                            "dynamic, llama3, yarn, longrope",
                                            type)));
    return;
  }
  for (const std::string& key : reader_.UnknownKeys()) {
    problems_.Add(reader_.Error(key, fmt::format("not supported for rope_type \"{}\"", type)));
  }
}

void RopeReader::ReadFactor(bool required) {
  if (required || reader_.Has("factor")) {
    problems_.Take(reader_.Double("factor", kScalingRange), rope_.factor);
  } else {
    rope_.factor = static_cast<double>(context_.max_positions) /
                   static_cast<double>(std::max<int64_t>(rope_.original_max_position, 1));
  }
}

void RopeReader::ReadOriginal() {
  if (!reader_.Has("original_max_position_embeddings") && context_.original_max_positions > 0) {
    rope_.original_max_position = context_.original_max_positions;
    return;
  }
  problems_.Take(reader_.Int64("original_max_position_embeddings", kOriginalRange),
                 rope_.original_max_position);
}

void RopeReader::ReadLlama3() {
  rope_.kind = RopeConfig::Kind::kLlama3;
  ReadFactor(true);
  ReadOriginal();
  const bool low =
      problems_.Take(reader_.Double("low_freq_factor", kFactorRange), rope_.low_freq_factor);
  const bool high =
      problems_.Take(reader_.Double("high_freq_factor", kFactorRange), rope_.high_freq_factor);
  if (low && high && rope_.high_freq_factor <= rope_.low_freq_factor) {
    problems_.Add(reader_.Error(
        "high_freq_factor",
        fmt::format(
            "{} is not above low_freq_factor {}", rope_.high_freq_factor, rope_.low_freq_factor)));
  }
}

void RopeReader::ReadYarn() {
  rope_.kind = RopeConfig::Kind::kYarn;
  if (reader_.Has("original_max_position_embeddings") || context_.original_max_positions > 0) {
    ReadOriginal();
  } else {
    reader_.Ignore("original_max_position_embeddings");
    rope_.original_max_position = context_.max_positions;
  }
  ReadFactor(reader_.Has("factor"));
  for (const auto& [key, value] :
       {std::pair{"beta_fast", &rope_.beta_fast}, std::pair{"beta_slow", &rope_.beta_slow}}) {
    if (reader_.Has(key)) {
      problems_.Take(reader_.Double(key, kFactorRange), *value);
    }
  }
  if (reader_.Has("truncate")) {
    problems_.Take(reader_.Bool("truncate"), rope_.truncate);
  }
  double mscale = 0;
  double mscale_all = 0;
  for (const auto& [key, value] :
       {std::pair{"mscale", &mscale}, std::pair{"mscale_all_dim", &mscale_all}}) {
    if (reader_.Has(key)) {
      problems_.Take(reader_.Double(key, {0, 1e3}), *value);
    }
  }
  const auto magnitude = [&](double by) {
    return rope_.factor <= 1 ? 1.0 : 0.1 * by * std::log(rope_.factor) + 1.0;
  };
  if (reader_.Has("attention_factor")) {
    problems_.Take(reader_.Double("attention_factor", kFactorRange), rope_.attention_factor);
  } else if (mscale != 0 && mscale_all != 0) {
    rope_.attention_factor = magnitude(mscale) / magnitude(mscale_all);
  } else {
    rope_.attention_factor = magnitude(1.0);
  }
}

void RopeReader::ReadLongRope() {
  rope_.kind = RopeConfig::Kind::kLongRope;
  ReadOriginal();
  ReadFactor(false);
  ReadFactors("short_factor", rope_.short_factors);
  ReadFactors("long_factor", rope_.long_factors);
  if (reader_.Has("attention_factor")) {
    problems_.Take(reader_.Double("attention_factor", kFactorRange), rope_.attention_factor);
  } else if (rope_.factor > 1.0 && rope_.original_max_position > 1) {
    rope_.attention_factor = std::sqrt(
        1 + std::log(rope_.factor) / std::log(static_cast<double>(rope_.original_max_position)));
  }
}

void RopeReader::ReadFactors(const char* key, std::vector<double>& factors) {
  const nlohmann::json* list = nullptr;
  if (!problems_.Take(reader_.Any(key), list)) {
    return;
  }
  const int32_t pairs = (rope_.rotary_dim == 0 ? context_.head_dim : rope_.rotary_dim) / 2;
  const bool sound =
      list->is_array() && list->size() == static_cast<size_t>(pairs) &&
      std::all_of(list->begin(), list->end(), [](const nlohmann::json& value) {
        return value.is_number() && value.get<double>() > 0 && value.get<double>() < 1e9;
      });
  if (!sound) {
    problems_.Add(reader_.Error(key, fmt::format("not a list of {} positive numbers", pairs)));
    return;
  }
  factors = list->get<std::vector<double>>();
}

double YarnDimension(const RopeConfig& rope, double dim, double rotations) {
  const auto original = static_cast<double>(rope.original_max_position);
  return dim * std::log(original / (rotations * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
}

void ScaleYarn(const RopeConfig& rope, int32_t dim, std::vector<double>& frequencies) {
  double low = YarnDimension(rope, dim, rope.beta_fast);
  double high = YarnDimension(rope, dim, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) {
    high += 0.001;
  }
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / rope.factor * ramp + frequencies[i] * (1 - ramp);
  }
}

void ScaleLlama3(const RopeConfig& rope, std::vector<double>& frequencies) {
  const auto original = static_cast<double>(rope.original_max_position);
  for (double& frequency : frequencies) {
    const double wavelength = 2.0 * std::numbers::pi / frequency;
    if (wavelength < original / rope.high_freq_factor) {
      continue;
    }
    if (wavelength > original / rope.low_freq_factor) {
      frequency /= rope.factor;
      continue;
    }
    const double smooth = (original / wavelength - rope.low_freq_factor) /
                          (rope.high_freq_factor - rope.low_freq_factor);
    frequency = (1.0 - smooth) * frequency / rope.factor + smooth * frequency;
  }
}

}  // namespace

void ReadRopeParameters(JsonReader& reader,
                        const RopeContext& context,
                        RopeConfig& rope,
                        Problems& problems) {
  RopeReader(context, reader, rope, problems).Read();
}

RopeConfig ReadRopeConfig(JsonReader& reader, const RopeContext& context, Problems& problems) {
  RopeConfig rope;
  rope.theta = context.default_theta;
  bool has_theta = false;
  if (reader.Has("rope_theta")) {
    has_theta = problems.Take(reader.Double("rope_theta", kThetaRange), rope.theta);
  }
  if (context.partial) {
    ReadPartial(reader, context, rope, problems);
  }
  const bool both = reader.Has("rope_parameters") && reader.Has("rope_scaling");
  if (both && **reader.Any("rope_parameters") != **reader.Any("rope_scaling")) {
    problems.Add(reader.Error("rope_scaling", "contradicts rope_parameters"));
    return rope;
  }
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!reader.Has(key)) {
      reader.Ignore(key);
      continue;
    }
    const double outer_theta = rope.theta;
    auto inner = reader.Object(key);
    if (!inner.ok()) {
      problems.Add(inner.status());
      continue;
    }
    ReadRopeParameters(*inner, context, rope, problems);
    if (has_theta && rope.theta != outer_theta) {
      problems.Add(inner->Error(
          "rope_theta",
          fmt::format("{} contradicts rope_theta {} outside", rope.theta, outer_theta)));
    }
  }
  return rope;
}

std::vector<double> RopeFrequencies(const RopeConfig& rope, int32_t head_dim, int64_t context) {
  RS_CHECK(head_dim > 0 && head_dim % 2 == 0);
  const int32_t dim = rope.rotary_dim == 0 ? head_dim : rope.rotary_dim;
  std::vector<double> frequencies(static_cast<size_t>(dim / 2));
  if (rope.kind != RopeConfig::Kind::kNone) {
    for (size_t i = 0; i < frequencies.size(); ++i) {
      frequencies[i] = 1.0 / std::pow(rope.theta, 2.0 * static_cast<double>(i) / dim);
    }
  }
  switch (rope.kind) {
    case RopeConfig::Kind::kNone:
    case RopeConfig::Kind::kDefault:
    case RopeConfig::Kind::kDynamic:
      break;
    case RopeConfig::Kind::kLinear:
      for (double& frequency : frequencies) {
        frequency /= rope.factor;
      }
      break;
    case RopeConfig::Kind::kLlama3:
      ScaleLlama3(rope, frequencies);
      break;
    case RopeConfig::Kind::kYarn:
      ScaleYarn(rope, dim, frequencies);
      break;
    case RopeConfig::Kind::kLongRope: {
      const std::vector<double>& factors =
          context > rope.original_max_position ? rope.long_factors : rope.short_factors;
      for (size_t i = 0; i < frequencies.size(); ++i) {
        frequencies[i] /= factors[i];
      }
      break;
    }
  }
  frequencies.resize(static_cast<size_t>(head_dim / 2), 0.0);
  return frequencies;
}

std::vector<int32_t> RopeRowOrder(const RopeConfig& rope, int32_t head_dim) {
  std::vector<int32_t> order;
  if (rope.rotary_dim == 0 || rope.rotary_dim == head_dim) {
    return order;
  }
  const int32_t half = head_dim / 2;
  const int32_t rotated = rope.rotary_dim / 2;
  int32_t plain = rope.rotary_dim;
  for (int32_t i = 0; i < head_dim; ++i) {
    const int32_t in_half = i % half;
    order.push_back(in_half < rotated ? in_half + (i < half ? 0 : rotated) : plain++);
  }
  return order;
}

}  // namespace ringserve
