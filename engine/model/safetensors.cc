#include "engine/model/safetensors.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <map>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"

namespace ringserve {
namespace {

constexpr int64_t kMaxIndexBytes = 64 << 20;
constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

absl::Status Invalid(const std::string& message) {
  return absl::InvalidArgumentError(message);
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}

  ~Descriptor() {
    if (fd_ >= 0) {
      close(fd_);
    }
  }

  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }

 private:
  int fd_;
};

absl::Status SystemError(const std::string& path, std::string_view call) {
  const int error = errno;
  const std::string message =
      fmt::format("{}: {}: {}", path, call, std::generic_category().message(error));
  return error == ENOENT ? absl::NotFoundError(message) : absl::PermissionDeniedError(message);
}

void Advise(std::span<const std::byte> data, int advice) {
  if (data.empty()) {
    return;
  }
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t into_page = reinterpret_cast<uintptr_t>(data.data()) & (page - 1);
  auto* begin = const_cast<std::byte*>(data.data() - into_page);
  // Only advice: what fails costs speed or memory, no result.
  static_cast<void>(madvise(begin, into_page + data.size(), advice));
}

// A shard's name must be that of a file in the model's own folder.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  const Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));

  struct stat status {};

  if (fd.get() < 0 || fstat(fd.get(), &status) != 0) {
    return SystemError(path, "open");
  }
  if (!S_ISREG(status.st_mode)) {
    return Invalid(fmt::format("{}: not a regular file", path));
  }
  const auto file_bytes = static_cast<uint64_t>(status.st_size);
  uint64_t header_bytes = 0;
  if (file_bytes < sizeof(header_bytes)) {
    return Invalid(fmt::format("{}: {} bytes, too short for a header", path, file_bytes));
  }
  void* map = mmap(nullptr, file_bytes, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (map == MAP_FAILED) {
    return SystemError(path, "mmap");
  }
  auto file = std::unique_ptr<SafetensorsFile>(new SafetensorsFile());
  file->path_ = path;
  file->map_ = static_cast<std::byte*>(map);
  file->map_bytes_ = file_bytes;
  // Little-endian, as every machine that this runs on.
  std::memcpy(&header_bytes, map, sizeof(header_bytes));
  if (header_bytes > kMaxSafetensorsHeader) {
    return Invalid(fmt::format("{}: header of {} bytes, more than the limit of {}",
                               path,
                               header_bytes,
                               kMaxSafetensorsHeader));
  }
  if (header_bytes > file_bytes - sizeof(header_bytes)) {
    return Invalid(
        fmt::format("{}: header of {} bytes in a file of {}", path, header_bytes, file_bytes));
  }
  const std::string_view header(static_cast<const char*>(map) + sizeof(header_bytes), header_bytes);
  file->data_ = file->map_ + sizeof(header_bytes) + header_bytes;
  const uint64_t data_bytes = file_bytes - sizeof(header_bytes) - header_bytes;
  ASSIGN_OR_RETURN(file->tensors_, ParseSafetensorsHeader(header, data_bytes, path));
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (map_ != nullptr) {
    munmap(map_, map_bytes_);
  }
}

FileTensor SafetensorsFile::tensor(size_t index) const {
  const TensorEntry& entry = tensors_[index];
  return {.name = entry.name,
          .dtype = entry.dtype,
          .shape = entry.shape,
          .data = {data_ + entry.begin, entry.end - entry.begin},
          .file = path_};
}

void SafetensorsFile::Prefetch(std::span<const std::byte> data) {
  Advise(data, MADV_WILLNEED);
}

void SafetensorsFile::Release(std::span<const std::byte> data) {
  Advise(data, MADV_DONTNEED);
}

absl::Status Checkpoint::OpenShards(const std::string& index_path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(index_path, kMaxIndexBytes));
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, index_path));
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return Invalid(fmt::format("{}: weight_map is not an object", index_path));
  }
  // Tensor names by shard, so that every shard is opened once.
  std::map<std::string, std::vector<std::string_view>> shards;
  for (const auto& [name, shard] : json["weight_map"].items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get_ref<const std::string&>())) {
      return Invalid(
          fmt::format("{}: weight_map: tensor \"{}\": {} is not the name of a file in the folder",
                      index_path,
                      name,
                      shard.dump()));
    }
    shards[shard.get<std::string>()].push_back(name);
  }
  for (const auto& [shard, names] : shards) {
    const std::string path = (std::filesystem::path(dir_) / shard).string();
    ASSIGN_OR_RETURN(files_.emplace_back(), SafetensorsFile::Open(path));
    const SafetensorsFile& file = *files_.back();
    std::map<std::string_view, FileTensor> there;
    for (size_t i = 0; i < file.size(); ++i) {
      there.emplace(file.tensor(i).name, file.tensor(i));
    }
    for (const std::string_view name : names) {
      const auto found = there.find(name);
      if (found == there.end()) {
        return Invalid(fmt::format(
            "{}: tensor \"{}\": missing, though {} says it is there", path, name, index_path));
      }
      tensors_.push_back(found->second);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& model_dir) {
  auto checkpoint = std::unique_ptr<Checkpoint>(new Checkpoint());
  checkpoint->dir_ = model_dir;
  const std::filesystem::path dir(model_dir);
  std::error_code error;
  if (!std::filesystem::is_directory(dir, error)) {
    return absl::NotFoundError(fmt::format("{}: not a folder", model_dir));
  }
  if (std::filesystem::exists(dir / kSingleFile, error)) {
    ASSIGN_OR_RETURN(checkpoint->files_.emplace_back(),
                     SafetensorsFile::Open((dir / kSingleFile).string()));
    const SafetensorsFile& file = *checkpoint->files_.back();
    for (size_t i = 0; i < file.size(); ++i) {
      checkpoint->tensors_.push_back(file.tensor(i));
    }
  } else if (std::filesystem::exists(dir / kIndexFile, error)) {
    RETURN_IF_ERROR(checkpoint->OpenShards((dir / kIndexFile).string()));
  } else {
    const bool pickle = std::filesystem::exists(dir / "pytorch_model.bin", error) ||
                        std::filesystem::exists(dir / "pytorch_model.bin.index.json", error);
    return absl::NotFoundError(
        fmt::format("{}: neither {} nor {} is there{}",
                    model_dir,
                    kSingleFile,
                    kIndexFile,
                    pickle ? " (pytorch_model.bin is pickle and never read)" : ""));
  }
  std::sort(checkpoint->tensors_.begin(),
            checkpoint->tensors_.end(),
            [](const FileTensor& a, const FileTensor& b) { return a.name < b.name; });
  return checkpoint;
}

const FileTensor* Checkpoint::Find(std::string_view name) const {
  const auto found = std::lower_bound(
      tensors_.begin(),
      tensors_.end(),
      name,
      [](const FileTensor& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

}  // namespace ringserve
