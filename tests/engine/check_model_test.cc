#include "engine/check_model.h"

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "engine/base/json_reader.h"
#include "tests/support/catch.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

using Json = nlohmann::json;

const std::string kSource = RINGSERVE_SOURCE_DIR;

TEST_CASE("The embedded model is sound") {
  const CheckReport report = CheckConfigFile(kSource + "/configs/fairytale-5m.json");
  CHECK(report.problems.empty());
  CHECK(report.notes.empty());
  CHECK(FormatCheckReport(report) ==
        "fairytale-5m: LlamaForCausalLM, 5.5 million parameters in bf16, context 1024 of 1024 "
        "tokens, no chat template: sound\n"
        "answers by default: sampled, temperature 1, top_k 0\n");
  CHECK(CheckModelFolder(kSource + "/models/fairytale-5m").problems.empty());
}

// A folder like the embedded model's, to be spoilt, and a config for it.
class Copy {
 public:
  Copy() {
    std::filesystem::create_directory(dir / "m");
    for (const char* name :
         {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}) {
      std::filesystem::create_symlink(kSource + "/models/fairytale-5m/" + name,
                                      dir / (std::string("m/") + name));
    }
    config = Json::parse(*ReadFile(kSource + "/configs/fairytale-5m.json", 10000));
    config["model"]["path"] = "m";
    model = Json::parse(*ReadFile(dir / "m/config.json", 10000));
  }

  CheckReport Check() const {
    std::filesystem::remove(dir / "m/config.json");
    dir.Write("m/config.json", model.dump());
    return CheckConfigFile(dir.Write("c.json", config.dump()));
  }

  TempDir dir;
  Json config;
  Json model;
};

TEST_CASE("Everything that is wrong is told at once") {
  Copy copy;
  CHECK(copy.Check().problems.empty());
  copy.config["rings"]["buffer_size"] = 1000;
  copy.config["device"] = "tpu";
  copy.model["hidden_size"] = "256";
  copy.model["sliding_window"] = 7;
  std::filesystem::remove(copy.dir / "m/model.safetensors");
  copy.dir.Write("m/model.safetensors", SafetensorsBytes("{}", "x"));
  std::filesystem::remove(copy.dir / "m/tokenizer.json");
  copy.dir.Write("m/tokenizer.json", "{");
  copy.dir.Write("m/chat_template.jinja", "{% for %}");
  const CheckReport report = copy.Check();
  const std::string config = copy.dir / "c.json: ";
  const std::string folder = copy.dir / "m/";
  REQUIRE(report.problems.size() == 7);
  CHECK(report.problems[0] ==
        config + "rings.buffer_size: 1000 is not a multiple of block_size 64");
  CHECK(report.problems[1] == config + "device: \"tpu\" is not one of: auto, cpu, cuda");
  CHECK(report.problems[2] == folder + "config.json: hidden_size: \"256\" is not an integer");
  CHECK(report.problems[3] == folder + "config.json: sliding_window: 7 is not supported");
  CHECK(report.problems[4] ==
        folder + "model.safetensors: the last 1 bytes of data belong to no tensor");
  CHECK(report.problems[5].starts_with(folder + "tokenizer.json: "));
  CHECK(report.problems[6] == folder + "chat_template.jinja: line 1: expected a name, got '%}'");
  CHECK(FormatCheckReport(report).ends_with("got '%}'\n7 problems\n"));
}

TEST_CASE("Tensors, tokenizer and context are held to the model's config") {
  Copy copy;
  copy.model["num_hidden_layers"] = 7;
  CHECK(copy.Check().problems.size() == 9);
  copy.model["num_hidden_layers"] = 5;
  CHECK(copy.Check().problems.size() == 9);
  copy.model["num_hidden_layers"] = 6;
  copy.model["vocab_size"] = 4000;
  CHECK(copy.Check().problems ==
        std::vector<std::string>{
            copy.dir / "m/model.safetensors: tensor \"model.embed_tokens.weight\": shape [4096, "
                       "256] where config.json needs [4000, 256]",
            copy.dir / "m/tokenizer.json: token id 4095 is not in the model's vocabulary of 4000"});
  copy.model["vocab_size"] = 4096;
  copy.config["rings"]["buffer_size"] = 2048;
  copy.config["attention"]["head_tile_size"] = 3;
  CHECK(copy.Check().problems ==
        std::vector<std::string>{
            copy.dir / "c.json: rings.buffer_size: 2048 exceeds the model's "
                       "max_position_embeddings 1024",
            copy.dir / "c.json: attention.head_tile_size: 3 exceeds the 2 query heads that share a "
                       "KV head"});
}

TEST_CASE("A folder without a tokenizer serves ids, with a note") {
  Copy copy;
  std::filesystem::remove(copy.dir / "m/tokenizer.json");
  const CheckReport report = copy.Check();
  CHECK(report.problems.empty());
  CHECK(report.notes ==
        std::vector<std::string>{copy.dir / "m: neither tokenizer.json nor tokenizer.model: only "
                                            "token ids go in and out"});
}

TEST_CASE("Device and pool are held to the plan") {
  Copy copy;
  copy.config["device"] = "cpu";
  copy.config["memory"]["device_bytes"] = 1000;
  CHECK(copy.Check().problems ==
        std::vector<std::string>{
            copy.dir / "c.json: memory.device_bytes: 1000 hold 0 blocks of 196608 bytes; one "
                       "session of rings.buffer_size 1024 needs 16 blocks, 3145728 bytes"});
  copy.config["memory"]["device_bytes"] = int64_t{1} << 48;
  const CheckReport report = copy.Check();
  REQUIRE(report.problems.size() == 1);
  CHECK(report.problems[0].starts_with(copy.dir / "c.json: the plan needs "));
}

TEST_CASE("What is not there is said once") {
  Copy copy;
  copy.config["model"]["path"] = "nowhere";
  CHECK(copy.Check().problems ==
        std::vector<std::string>{copy.dir / "c.json: model.path: " + (copy.dir / "nowhere") +
                                 ": not a folder"});
  CHECK(CheckConfigFile("/none.json").problems ==
        std::vector<std::string>{"/none.json: no such file"});
  CHECK(CheckModelFolder("/none").problems == std::vector<std::string>{"/none: not a folder"});
}

TEST_CASE("A model that never ends a text is sound, with a note") {
  Copy copy;
  copy.model["eos_token_id"] = nullptr;
  std::filesystem::remove(copy.dir / "m/generation_config.json");
  const CheckReport report = copy.Check();
  CHECK(report.problems.empty());
  CHECK(FormatCheckReport(report).starts_with(
      "note: " + (copy.dir / "m") +
      ": no eos_token_id: only max_tokens and stop strings end a text\n"));
}

}  // namespace
}  // namespace ringserve
