// A file that is written to as any other and whose bytes stay in memory.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "engine/base/check.h"

namespace ringserve {

class MemoryFile {
 public:
  MemoryFile() : file_(open_memstream(&text_, &size_), &std::fclose) { RS_CHECK(file_ != nullptr); }

  ~MemoryFile() {
    file_.reset();  // which writes to the text for the last time
    const std::unique_ptr<char, void (*)(void*)> text(text_, &std::free);
  }

  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::FILE* file() { return file_.get(); }

  // What was written since the last call.
  std::string Take() {
    std::fflush(file_.get());
    std::string out(text_ + taken_, size_ - taken_);
    taken_ = size_;
    return out;
  }

 private:
  char* text_ = nullptr;
  size_t size_ = 0;
  size_t taken_ = 0;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

}  // namespace ringserve
