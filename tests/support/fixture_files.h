// Readers of the models and references in tests/fixtures.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/status.h"
#include "engine/model/safetensors.h"
#include "kernels/types.h"
#include "tests/support/catch.h"

namespace ringserve {

template <typename T>
T Get(absl::StatusOr<T> result) {
  INFO(result.status().ToString());
  REQUIRE(result.ok());
  return *std::move(result);
}

inline std::vector<float> Floats(const FileTensor& tensor) {
  std::vector<float> values;
  if (tensor.dtype == "F32") {
    values.resize(tensor.data.size() / sizeof(float));
    std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
    return values;
  }
  REQUIRE(tensor.dtype == "BF16");
  std::vector<Bf16> halves(tensor.data.size() / sizeof(Bf16));
  std::memcpy(halves.data(), tensor.data.data(), tensor.data.size());
  for (const Bf16 half : halves) {
    values.push_back(ToFloat(half));
  }
  return values;
}

inline std::vector<int32_t> Ints(const FileTensor& tensor) {
  REQUIRE(tensor.dtype == "I32");
  std::vector<int32_t> values(tensor.data.size() / sizeof(int32_t));
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

inline std::map<std::string, FileTensor> References(const SafetensorsFile& file) {
  std::map<std::string, FileTensor> reference;
  for (size_t i = 0; i < file.size(); ++i) {
    reference[std::string(file.tensor(i).name)] = file.tensor(i);
  }
  return reference;
}

}  // namespace ringserve
