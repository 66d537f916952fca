// A Hugging Face folder of a Llama shape with random bf16 weights, for benchmarks that go through
// the whole engine. It is gone with its owner.
#pragma once

#include <string>

#include "engine/model/model_config.h"
#include "tests/support/temp_dir.h"

namespace ringserve {

class BenchFolder {
 public:
  // The shape's sizes alone count, and max_positions. No tokenizer: prompts are token ids.
  explicit BenchFolder(const ModelConfig& shape);

  const std::string& path() const { return folder_.path(); }

 private:
  TempDir folder_;
};

}  // namespace ringserve
