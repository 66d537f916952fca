// A folder that is gone when the test ends.
#pragma once

#include <filesystem>
#include <fstream>
#include <stdlib.h>
#include <string>
#include <string_view>

#include "engine/base/check.h"

namespace ringserve {

class TempDir {
 public:
  TempDir() : path_((std::filesystem::temp_directory_path() / "ringserve_test.XXXXXX").string()) {
    RS_CHECK(mkdtemp(path_.data()) != nullptr);
  }

  ~TempDir() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }

  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }

  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

  // Writes a file; returns its path.
  std::string Write(std::string_view name, std::string_view contents) const {
    std::string path = *this / name;
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(contents.data(), static_cast<std::streamsize>(contents.size()));
    RS_CHECK(file.good());
    return path;
  }

 private:
  std::string path_;
};

}  // namespace ringserve
