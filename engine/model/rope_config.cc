#include "engine/model/rope_config.h"

#include <cmath>
#include <numbers>
#include <string>

#include <fmt/format.h>

#include "engine/base/check.h"

namespace ringserve {
namespace {

constexpr DoubleRange kThetaRange = {1.0, 1e15};
constexpr DoubleRange kFactorRange = {1e-3, 1e6};

void ReadLlama3(JsonReader& reader, RopeConfig& rope, Problems& problems) {
  rope.kind = RopeConfig::Kind::kLlama3;
  problems.Take(reader.Double("factor", {1.0, 1e6}), rope.factor);
  problems.Take(reader.Int64("original_max_position_embeddings", {1, 1 << 30}),
                rope.original_max_position);
  const bool low =
      problems.Take(reader.Double("low_freq_factor", kFactorRange), rope.low_freq_factor);
  const bool high =
      problems.Take(reader.Double("high_freq_factor", kFactorRange), rope.high_freq_factor);
  if (low && high && rope.high_freq_factor <= rope.low_freq_factor) {
    problems.Add(reader.Error(
        "high_freq_factor",
        fmt::format(
            "{} is not above low_freq_factor {}", rope.high_freq_factor, rope.low_freq_factor)));
  }
}

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

void ReadParameters(JsonReader& reader, RopeConfig& rope, Problems& problems) {
  const std::string type = ReadType(reader, problems);
  if (reader.Has("rope_theta")) {
    problems.Take(reader.Double("rope_theta", kThetaRange), rope.theta);
  }
  if (reader.Has("partial_rotary_factor")) {
    double partial = 1.0;
    if (problems.Take(reader.Double("partial_rotary_factor"), partial) && partial != 1.0) {
      problems.Add(reader.Error("partial_rotary_factor",
                                fmt::format("{} is not supported, only 1", partial)));
    }
  }
  if (type == "llama3") {
    ReadLlama3(reader, rope, problems);
  } else if (type != "default") {
    problems.Add(reader.Error("rope_type",
                              fmt::format("\"{}\" is not supported, only: default, llama3", type)));
    return;
  }
  for (const std::string& key : reader.UnknownKeys()) {
    problems.Add(reader.Error(key, fmt::format("not supported for rope_type \"{}\"", type)));
  }
}

}  // namespace

RopeConfig ReadRopeConfig(JsonReader& reader, Problems& problems) {
  RopeConfig rope;
  bool has_theta = false;
  if (reader.Has("rope_theta")) {
    has_theta = problems.Take(reader.Double("rope_theta", kThetaRange), rope.theta);
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
    ReadParameters(*inner, rope, problems);
    if (has_theta && rope.theta != outer_theta) {
      problems.Add(inner->Error(
          "rope_theta",
          fmt::format("{} contradicts rope_theta {} outside", rope.theta, outer_theta)));
    }
  }
  return rope;
}

std::vector<double> RopeFrequencies(const RopeConfig& rope, int32_t head_dim) {
  RS_CHECK(head_dim > 0 && head_dim % 2 == 0);
  std::vector<double> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / head_dim;
    frequencies[i] = 1.0 / std::pow(rope.theta, exponent);
  }
  if (rope.kind == RopeConfig::Kind::kDefault) {
    return frequencies;
  }
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
  return frequencies;
}

}  // namespace ringserve
