// Reads safetensors files: 8 bytes of header length, a JSON header (name -> dtype, shape, offsets),
// then the data. The file is mapped, never copied; the header is believed in nothing: every length,
// shape, offset and name is checked before a tensor is handed out, so that a hostile file ends in
// an error that names file and tensor. What the format forbids is refused: duplicate names,
// overlapping tensors, holes, bytes that belong to no tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/status.h"

namespace ringserve {

inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;  // bytes, as the format's own reader

// Where a tensor lies, offsets from the end of the header.
struct TensorEntry {
  std::string name;
  std::string dtype;  // as the format spells it: "F32", "BF16", ...
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// Checks the header of a file that has `data_bytes` bytes after it. The result is in order of
// `begin`. `what` names the file in errors.
absl::StatusOr<std::vector<TensorEntry>> ParseSafetensorsHeader(std::string_view header,
                                                                uint64_t data_bytes,
                                                                std::string_view what);

// A tensor in a mapped file, row-major, aligned to its element size. Borrowed.
struct FileTensor {
  std::string_view name;
  std::string_view dtype;
  std::span<const int64_t> shape;
  std::span<const std::byte> data;
  std::string_view file;  // path, for errors
};

// One mapped file. Immutable; any thread. A file that is cut while it is mapped kills the process
// (SIGBUS), as with every mapped file: replace model files by renaming.
class SafetensorsFile {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  size_t size() const { return tensors_.size(); }

  FileTensor tensor(size_t index) const;

  // Advice on the pages of `data`, which lies in some mapped file. Prefetch starts reading them;
  // Release gives them back to the page cache, from where they return when touched.
  static void Prefetch(std::span<const std::byte> data);
  static void Release(std::span<const std::byte> data);

 private:
  SafetensorsFile() = default;

  std::string path_;
  std::byte* map_ = nullptr;
  size_t map_bytes_ = 0;
  const std::byte* data_ = nullptr;
  std::vector<TensorEntry> tensors_;
};

// All tensors of a model folder: DIR/model.safetensors, or else DIR/model.safetensors.index.json
// and the shards that it names (files of that folder only; symbolic links are followed, as the
// Hugging Face cache needs). Immutable; any thread.
class Checkpoint {
 public:
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& model_dir);

  const std::string& dir() const { return dir_; }

  // Null if there is none.
  const FileTensor* Find(std::string_view name) const;

  // By name.
  const std::vector<FileTensor>& tensors() const { return tensors_; }

 private:
  Checkpoint() = default;
  absl::Status OpenShards(const std::string& index_path);

  std::string dir_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<FileTensor> tensors_;
};

}  // namespace ringserve
