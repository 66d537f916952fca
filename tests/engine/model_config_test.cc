#include "engine/model/model_config.h"

#include <cmath>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/catch.h"
#include "tests/support/temp_dir.h"

namespace ringserve {
namespace {

using Json = nlohmann::json;

const std::string kSource = RINGSERVE_SOURCE_DIR;

Json Sound() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": [2, 3]})");
}

Json With(std::string_view key, const Json& value) {
  Json json = Sound();
  json[std::string(key)] = value;
  return json;
}

Json Without(std::string_view key) {
  Json json = Sound();
  json.erase(std::string(key));
  return json;
}

ModelConfig Parse(const Json& json, std::string_view generation = "") {
  const auto config = ParseModelConfig(json.dump(), generation);
  INFO(config.status().ToString());
  REQUIRE(config.ok());
  return *config;
}

std::string Error(const Json& json, std::string_view generation = "") {
  const auto config = ParseModelConfig(json.dump(), generation);
  REQUIRE_FALSE(config.ok());
  CHECK(config.status().code() == absl::StatusCode::kInvalidArgument);
  return std::string(config.status().message());
}

TEST_CASE("A sound config is read") {
  const ModelConfig config = Parse(Sound());
  CHECK(config.architecture == "LlamaForCausalLM");
  CHECK(config.vocab_size == 128);
  CHECK(config.hidden_dim == 64);
  CHECK(config.ffn_dim == 96);
  CHECK(config.num_layers == 2);
  CHECK(config.num_heads == 4);
  CHECK(config.num_kv_heads == 2);
  CHECK(config.head_dim == 16);
  CHECK(config.max_positions == 256);
  CHECK(config.rms_norm_eps == 1e-5F);
  CHECK_FALSE(config.tied_embeddings);
  CHECK(config.rope.kind == RopeConfig::Kind::kDefault);
  CHECK(config.rope.theta == 10000.0);
  CHECK(config.bos_token_ids == std::vector<int32_t>{1});
  CHECK(config.eos_token_ids == std::vector<int32_t>{2, 3});
  CHECK(config.file_dtype == DType::kBf16);
}

TEST_CASE("What may be missing defaults as in transformers") {
  CHECK(Parse(Without("num_key_value_heads")).num_kv_heads == 4);
  CHECK(Parse(Without("model_type")).vocab_size == 128);
  CHECK(Parse(Without("rms_norm_eps")).rms_norm_eps == 1e-6F);
  CHECK(Parse(Without("max_position_embeddings")).max_positions == 2048);
  CHECK(Parse(Without("rope_theta")).rope.theta == 10000.0);
  CHECK(Parse(Without("dtype")).file_dtype == DType::kF32);
  CHECK(Parse(Without("bos_token_id")).bos_token_ids == std::vector<int32_t>{1});
  CHECK(Parse(Without("eos_token_id")).eos_token_ids == std::vector<int32_t>{2});
  CHECK(Parse(With("eos_token_id", nullptr)).eos_token_ids.empty());
  CHECK(Parse(With("bos_token_id", nullptr)).bos_token_ids.empty());
  CHECK(Parse(With("head_dim", 32)).head_dim == 32);
  CHECK(Parse(With("head_dim", nullptr)).head_dim == 16);
  CHECK(Parse(With("tie_word_embeddings", true)).tied_embeddings);
  CHECK(Parse(With("rope_scaling", nullptr)).rope.theta == 10000.0);
  Json tiny = Without("eos_token_id");
  tiny["vocab_size"] = 2;
  CHECK(Parse(tiny).eos_token_ids.empty());
}

TEST_CASE("Both spellings of the dtype are read") {
  Json json = Without("dtype");
  json["torch_dtype"] = "float16";
  CHECK(Parse(json).file_dtype == DType::kF16);
  CHECK(Parse(With("dtype", "float32")).file_dtype == DType::kF32);
  CHECK(Error(With("dtype", "float8")) ==
        "config.json: dtype: \"float8\" is not one of: bfloat16, float16, float32");
}

TEST_CASE("Keys that say nothing about the result are let pass") {
  Json json = Sound();
  json.update(Json::parse(R"({
    "attention_bias": false, "mlp_bias": false, "attention_dropout": 0.0, "hidden_act": "silu",
    "initializer_range": 0.02, "use_cache": true, "pad_token_id": null, "pretraining_tp": 1,
    "transformers_version": "5.17.0", "quantization_config": null, "sliding_window": null,
    "layer_types": ["full_attention", "full_attention"], "_name_or_path": "x", "anything": {}})"));
  CHECK(Parse(json).hidden_dim == 64);
}

TEST_CASE("generation_config.json has the last word on eos and bos") {
  CHECK(Parse(Sound(), R"({"eos_token_id": 7})").eos_token_ids == std::vector<int32_t>{7});
  CHECK(Parse(Sound(), R"({"eos_token_id": [8, 9], "bos_token_id": 5})").bos_token_ids ==
        std::vector<int32_t>{5});
  CHECK(Parse(Sound(), R"({"eos_token_id": null})").eos_token_ids == std::vector<int32_t>{2, 3});
  CHECK(Parse(Sound(), R"({"temperature": 0.6})").eos_token_ids == std::vector<int32_t>{2, 3});
  CHECK(Error(Sound(), R"({"eos_token_id": 128})") ==
        "generation_config.json: eos_token_id: 128 is not a token id in [0, 127]");
  CHECK(Error(Sound(), "[]") == "generation_config.json: (root): array is not an object");
}

// As GenerationConfig of transformers: do_sample decides.
TEST_CASE("generation_config.json says how answers are made by default") {
  CHECK(Parse(Sound()).generation.temperature == 0.0F);
  const GenerationDefaults greedy =
      Parse(Sound(), R"({"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1})").generation;
  CHECK(greedy.temperature == 0.0F);
  CHECK(greedy.top_k == 20);
  CHECK(greedy.repetition_penalty == 1.1F);
  CHECK(Parse(Sound(), R"({"do_sample": false, "temperature": 2})").generation.temperature == 0.0F);
  const GenerationDefaults sampled =
      Parse(Sound(),
            R"({"do_sample": true, "temperature": 0.6, "top_k": 1000, "top_p": 0.95, "min_p": 0.05,
                "max_new_tokens": 2048, "max_length": 20, "pad_token_id": 3, "num_beams": 1,
                "cache_implementation": "hybrid", "typical_p": 1.0, "suppress_tokens": [],
                "bad_words_ids": null})")
          .generation;
  CHECK(sampled.temperature == 0.6F);
  CHECK(sampled.top_k == 128);  // of a vocabulary of 128
  CHECK(sampled.top_p == 0.95F);
  CHECK(sampled.min_p == 0.05F);
  CHECK(sampled.max_tokens == 2048);
  CHECK_FALSE(sampled.repetition_penalty.has_value());
  CHECK_FALSE(Parse(Sound(), R"({"do_sample": true})").generation.temperature.has_value());
  const auto error = [](std::string_view generation) {
    const std::string file = "generation_config.json: ";
    const std::string message = Error(Sound(), generation);
    CHECK(message.starts_with(file));
    return message.substr(file.size());
  };
  CHECK(error(R"({"do_sample": 1})") == "do_sample: 1 is not true or false");
  CHECK(error(R"({"temperature": -1})") == "temperature: -1 is not in [0, 100]");
  CHECK(error(R"({"top_p": 0})") == "top_p: 0 is not in (0, 1]");
  CHECK(error(R"({"top_k": 2.5})") == "top_k: 2.5 is not an integer");
  CHECK(error(R"({"max_new_tokens": 0})") == "max_new_tokens: 0 is not in [1, 2147483647]");
  CHECK(error(R"({"num_beams": 4})") == "num_beams: 4 is not supported");
  CHECK(error(R"({"typical_p": 0.9})") == "typical_p: 0.9 is not supported");
  CHECK(error(R"({"suppress_tokens": [1]})") == "suppress_tokens: [1] is not supported");
  CHECK(error(R"({"no_repeat_ngram_size": 3})") == "no_repeat_ngram_size: 3 is not supported");
}

TEST_CASE("Values out of range and of wrong type are named") {
  CHECK(Error(Without("vocab_size")) == "config.json: vocab_size: missing");
  CHECK(Error(Without("hidden_size")) == "config.json: hidden_size: missing");
  CHECK(Error(Without("num_attention_heads")) == "config.json: num_attention_heads: missing");
  CHECK(Error(With("vocab_size", 0)) == "config.json: vocab_size: 0 is not in [1, 16777216]");
  CHECK(Error(With("vocab_size", "128")) == "config.json: vocab_size: \"128\" is not an integer");
  CHECK(Error(With("hidden_size", 4294967360)) ==
        "config.json: hidden_size: 4294967360 is not in [1, 65536]");
  CHECK(Error(With("hidden_size", 64.5)) == "config.json: hidden_size: 64.5 is not an integer");
  CHECK(Error(With("intermediate_size", -1)) ==
        "config.json: intermediate_size: -1 is not in [1, 1048576]");
  CHECK(Error(With("num_hidden_layers", 1025)) ==
        "config.json: num_hidden_layers: 1025 is not in [1, 1024]");
  CHECK(Error(With("num_key_value_heads", 5)) ==
        "config.json: num_key_value_heads: 5 is not in [1, 4]");
  CHECK(Error(With("num_key_value_heads", 3)) ==
        "config.json: num_key_value_heads: 3 does not divide num_attention_heads 4");
  Json three_heads = With("num_attention_heads", 3);
  three_heads["num_key_value_heads"] = 1;
  CHECK(Error(three_heads) ==
        "config.json: num_attention_heads: 3 does not divide hidden_size 64 and head_dim is "
        "missing");
  CHECK(Error(With("head_dim", 15)) == "config.json: head_dim: 15 is odd");
  CHECK(Error(With("head_dim", 1024)) == "config.json: head_dim: 1024 is not in [2, 512]");
  CHECK(Error(With("hidden_size", 4096)) ==
        "config.json: head_dim: hidden_size / num_attention_heads is 1024, not in [2, 512]");
  CHECK(Error(With("max_position_embeddings", int64_t{1} << 40)) ==
        "config.json: max_position_embeddings: 1099511627776 is not in [1, 1073741824]");
  CHECK(Error(With("rms_norm_eps", 0)) == "config.json: rms_norm_eps: 0 is not in [1e-12, 0.1]");
  CHECK(Error(With("tie_word_embeddings", 1)) ==
        "config.json: tie_word_embeddings: 1 is not true or false");
  CHECK(Error(With("eos_token_id", -1)) ==
        "config.json: eos_token_id: -1 is not a token id in [0, 127]");
  CHECK(Error(With("eos_token_id", {2, "x"})) ==
        "config.json: eos_token_id: \"x\" is not a token id in [0, 127]");
  CHECK(Error(With("bos_token_id", {1, 2})) == "config.json: bos_token_id: 2 ids are more than 1");
  CHECK(Error(With("eos_token_id", std::vector<int>(65, 2))) ==
        "config.json: eos_token_id: 65 ids are more than 64");
}

TEST_CASE("What is not supported is refused by name") {
  CHECK(Error(With("architectures", {"OPTForCausalLM"})) ==
        "config.json: architectures: \"OPTForCausalLM\" is not supported, only: LlamaForCausalLM, "
        "MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM, "
        "MixtralForCausalLM, Gemma2ForCausalLM, Gemma3ForCausalLM, Phi3ForCausalLM, "
        "GPT2LMHeadModel, GptOssForCausalLM, T5ForConditionalGeneration, "
        "MT5ForConditionalGeneration");
  CHECK(Error(Without("architectures")) == "config.json: architectures: missing");
  CHECK(Error(With("architectures", Json::array())) ==
        "config.json: architectures: not a list of one string");
  CHECK(Error(With("architectures", "LlamaForCausalLM")) ==
        "config.json: architectures: not a list of one string");
  CHECK(Error(With("model_type", "mistral")) ==
        "config.json: model_type: \"mistral\" is not one of: llama");
  CHECK(Error(With("hidden_act", "gelu")) ==
        "config.json: hidden_act: \"gelu\" is not one of: silu, swish");
  CHECK(Error(With("attention_bias", 1)) == "config.json: attention_bias: 1 is not true or false");
  CHECK(Error(With("num_local_experts", 8)) ==
        "config.json: num_local_experts: 8 is not supported");
  CHECK(Error(With("sliding_window", 4096)) ==
        "config.json: sliding_window: 4096 is not supported");
  CHECK(Error(With("quantization_config", {{"bits", 4}})) ==
        "config.json: quantization_config: {\"bits\":4} is not supported");
  CHECK(Error(With("layer_types", {"full_attention", "sliding_attention"})) ==
        "config.json: layer_types: only full_attention is supported");
  CHECK(Error(With("final_logit_softcapping", 30.0)) ==
        "config.json: final_logit_softcapping: 30.0 is not supported");
  CHECK(Error(With("auto_map", {{"AutoModel", "x.y"}})) ==
        "config.json: auto_map: {\"AutoModel\":\"x.y\"} is not supported");
}

const Json kLlama3 = Json::parse(R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64})");

TEST_CASE("Both spellings of rope give one config") {
  Json old_way = With("rope_scaling", kLlama3);
  old_way["rope_theta"] = 500000.0;
  Json legacy_type = old_way;
  legacy_type["rope_scaling"].erase("rope_type");
  legacy_type["rope_scaling"]["type"] = "llama3";
  Json new_way = Without("rope_theta");
  new_way["rope_parameters"] = kLlama3;
  new_way["rope_parameters"]["rope_theta"] = 500000.0;
  Json theta_outside = With("rope_parameters", kLlama3);
  theta_outside["rope_theta"] = 500000.0;
  for (const Json& json : {old_way, legacy_type, new_way, theta_outside}) {
    const RopeConfig rope = Parse(json).rope;
    CHECK(rope.kind == RopeConfig::Kind::kLlama3);
    CHECK(rope.theta == 500000.0);
    CHECK(rope.factor == 8.0);
    CHECK(rope.low_freq_factor == 1.0);
    CHECK(rope.high_freq_factor == 4.0);
    CHECK(rope.original_max_position == 64);
  }
}

TEST_CASE("Rope that is unknown, contradicts itself or lacks a key is refused") {
  const auto error = [](std::string_view key, const Json& value) {
    Json rope = kLlama3;
    if (value.is_discarded()) {
      rope.erase(std::string(key));
    } else {
      rope[std::string(key)] = value;
    }
    return Error(With("rope_scaling", rope));
  };
  const Json none(Json::value_t::discarded);
  CHECK(error("factor", none) == "config.json: rope_scaling.factor: missing");
  CHECK(error("low_freq_factor", none) == "config.json: rope_scaling.low_freq_factor: missing");
  CHECK(error("original_max_position_embeddings", none) ==
        "config.json: rope_scaling.original_max_position_embeddings: missing");
  CHECK(error("factor", 0.5) == "config.json: rope_scaling.factor: 0.5 is not in [1, 1000000]");
  CHECK(error("high_freq_factor", 1.0) ==
        "config.json: rope_scaling.high_freq_factor: 1 is not above low_freq_factor 1");
  CHECK(error("rope_type", "axial") ==
        "config.json: rope_scaling.rope_type: \"axial\" is not supported, only: default, linear, "
        "dynamic, llama3, yarn, longrope");
  CHECK(error("type", "linear") ==
        "config.json: rope_scaling.type: \"linear\" contradicts rope_type");
  CHECK(error("beta_fast", 32) ==
        "config.json: rope_scaling.beta_fast: not supported for rope_type \"llama3\"");
  CHECK(error("partial_rotary_factor", 0.5) ==
        "config.json: rope_scaling.partial_rotary_factor: 0.5 is not supported, only 1");
  CHECK(error("rope_theta", 5000.0) ==
        "config.json: rope_scaling.rope_theta: 5000 contradicts rope_theta 10000 outside");
  CHECK(Error(With("rope_theta", 0)) ==
        "config.json: rope_theta: 0 is not in [1, 1000000000000000]");
  CHECK(Error(With("rope_scaling", 7)) == "config.json: rope_scaling: number is not an object");
  CHECK(Error(With("rope_scaling", {{"factor", 2.0}})) ==
        "config.json: rope_scaling.factor: not supported for rope_type \"default\"");
  Json both = With("rope_scaling", kLlama3);
  both["rope_parameters"] = {{"rope_type", "default"}};
  CHECK(Error(both) == "config.json: rope_scaling: contradicts rope_parameters");
}

TEST_CASE("Text that is no strict JSON object is refused") {
  const auto error = [](std::string_view text) {
    return std::string(ParseModelConfig(text, "").status().message());
  };
  CHECK(error("").starts_with("config.json: not strict JSON: byte 1: "));
  CHECK(error("{").starts_with("config.json: not strict JSON: byte 2: "));
  CHECK(error("[]") == "config.json: (root): array is not an object");
  CHECK(error(R"({"vocab_size": 1, "vocab_size": 2})") ==
        "config.json: not strict JSON: vocab_size: duplicate key");
  CHECK(error(R"({"vocab_size": NaN})").starts_with("config.json: not strict JSON: byte 16: "));
}

TEST_CASE("All problems of a folder's config are told at once") {
  const TempDir dir;
  Json json = With("hidden_act", "relu");
  json["vocab_size"] = 0;
  json["num_hidden_layers"] = "many";
  json["sliding_window"] = 5;
  dir.Write("config.json", json.dump());
  dir.Write("generation_config.json", "{");
  Problems problems;
  ReadModelConfig(dir.path(), problems);
  const std::string path = dir / "config.json";
  REQUIRE(problems.list().size() == 5);
  CHECK(problems.list()[0] == path + ": vocab_size: 0 is not in [1, 16777216]");
  CHECK(problems.list()[1] == path + ": num_hidden_layers: \"many\" is not an integer");
  CHECK(problems.list()[2] == path + ": hidden_act: \"relu\" is not one of: silu, swish");
  CHECK(problems.list()[3] == path + ": sliding_window: 5 is not supported");
  CHECK(problems.list()[4].starts_with(dir / "generation_config.json: not strict JSON: "));
  CHECK(LoadModelConfig(dir.path()).status().message() == problems.list().front());
  CHECK(LoadModelConfig(dir / "none").status().message() ==
        (dir / "none/config.json") + ": no such file");
}

TEST_CASE("The models at hand are read") {
  const auto fairytale = LoadModelConfig(kSource + "/models/fairytale-5m");
  REQUIRE(fairytale.ok());
  CHECK(fairytale->vocab_size == 4096);
  CHECK(fairytale->hidden_dim == 256);
  CHECK(fairytale->ffn_dim == 704);
  CHECK(fairytale->num_layers == 6);
  CHECK(fairytale->num_heads == 4);
  CHECK(fairytale->num_kv_heads == 2);
  CHECK(fairytale->head_dim == 64);
  CHECK(fairytale->max_positions == 1024);
  CHECK(fairytale->tied_embeddings);
  CHECK(fairytale->eos_token_ids == std::vector<int32_t>{0});
  const auto gqa = LoadModelConfig(kSource + "/tests/fixtures/zoo/llama-gqa");
  REQUIRE(gqa.ok());
  CHECK(gqa->num_heads == 8);
  CHECK(gqa->head_dim == 64);
  const auto llama3 = LoadModelConfig(kSource + "/tests/fixtures/zoo/llama3-rope");
  REQUIRE(llama3.ok());
  CHECK(llama3->rope.kind == RopeConfig::Kind::kLlama3);
  CHECK(llama3->rope.theta == 500000.0);
  CHECK(llama3->rope.original_max_position == 64);
}

TEST_CASE("Rope frequencies are those of transformers in float64") {
  const std::vector<double> plain = RopeFrequencies({.theta = 10000.0}, 64);
  REQUIRE(plain.size() == 32);
  for (int i = 0; i < 32; ++i) {
    CHECK(plain[static_cast<size_t>(i)] == Approx(std::pow(10000.0, -i / 32.0)).epsilon(1e-15));
  }
  // modeling_rope_utils' _compute_llama3_parameters, evaluated in Python floats.
  const RopeConfig llama3 = {.kind = RopeConfig::Kind::kLlama3,
                             .theta = 500000.0,
                             .factor = 8.0,
                             .low_freq_factor = 1.0,
                             .high_freq_factor = 4.0,
                             .original_max_position = 64};
  const std::vector<double> expected = {1.0,
                                        0.44036660267178046,
                                        0.0794030091792082,
                                        0.010674637535720701,
                                        0.004700753866357992,
                                        0.002070055010124306,
                                        0.0009115830921521386,
                                        0.0004014307493440739,
                                        0.00017677669529663688,
                                        7.78465527393245e-05,
                                        3.428102195952591e-05,
                                        1.509621717643313e-05,
                                        6.647869871181236e-06,
                                        2.9274998701761677e-06,
                                        1.2891731721515574e-06,
                                        5.677088100759837e-07};
  const std::vector<double> scaled = RopeFrequencies(llama3, 32);
  REQUIRE(scaled.size() == expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    CHECK(scaled[i] == Approx(expected[i]).epsilon(1e-14));
  }
}

}  // namespace
}  // namespace ringserve
