// Makes safetensors files, sound ones and lying ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace ringserve {

// A file of any header, any data and any claimed header length.
inline std::string SafetensorsBytes(std::string_view header,
                                    std::string_view data,
                                    uint64_t header_bytes) {
  std::string file(sizeof(header_bytes), '\0');
  std::memcpy(file.data(), &header_bytes, sizeof(header_bytes));
  return file.append(header).append(data);
}

inline std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  return SafetensorsBytes(header, data, header.size());
}

struct TestTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;
};

// A sound file, padded as the format's own writer pads.
inline std::string SafetensorsBytes(const std::vector<TestTensor>& tensors) {
  std::string header = "{";
  std::string data;
  for (const TestTensor& tensor : tensors) {
    header += fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          data.empty() && header.size() == 1 ? "" : ",",
                          tensor.name,
                          tensor.dtype,
                          fmt::join(tensor.shape, ","),
                          data.size(),
                          data.size() + tensor.data.size());
    data += tensor.data;
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  return SafetensorsBytes(header, data);
}

}  // namespace ringserve
