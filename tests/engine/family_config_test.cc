// What each family's config.json says, and what it means where it says nothing.
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/model/model_config.h"
#include "tests/support/catch.h"

namespace ringserve {
namespace {

using Json = nlohmann::json;

ModelConfig Parse(const Json& json) {
  const auto config = ParseModelConfig(json.dump(), "");
  INFO(config.status().ToString());
  REQUIRE(config.ok());
  return *config;
}

ModelConfig Family(std::string_view architecture, const Json& keys) {
  Json json = Json::parse(R"({
    "dtype": "bfloat16", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "eos_token_id": [2, 3]})");
  json["architectures"] = {std::string(architecture)};
  json.update(keys);
  return Parse(json);
}

TEST_CASE("Families say what sets them apart") {
  const Json none = Json::object();
  const ModelConfig qwen2 = Family("Qwen2ForCausalLM", none);
  CHECK(qwen2.qkv_bias);
  CHECK_FALSE(qwen2.o_bias);
  CHECK(LayerGroups(qwen2).size() == 1);
  CHECK(LayerGroups(qwen2)[0].window == kNoWindow);
  CHECK(Family("Qwen2ForCausalLM", {{"sliding_window", 5}}).local_layers.empty());
  const ModelConfig windowed =
      Family("Qwen2ForCausalLM",
             {{"sliding_window", 5}, {"use_sliding_window", true}, {"max_window_layers", 1}});
  CHECK(windowed.window == 5);
  CHECK(windowed.local_layers == std::vector<bool>{false, true});
  const ModelConfig qwen3 = Family("Qwen3ForCausalLM", none);
  CHECK(qwen3.qk_norm);
  CHECK(qwen3.head_dim == 128);
  CHECK(Family("Qwen3ForCausalLM", {{"head_dim", 16}}).head_dim == 16);

  const ModelConfig mistral = Family("MistralForCausalLM", none);
  REQUIRE(LayerGroups(mistral).size() == 1);
  CHECK(LayerGroups(mistral)[0].window == 4096);
  CHECK(Family("MistralForCausalLM", {{"sliding_window", nullptr}}).local_layers.empty());

  const ModelConfig gemma3 = Family("Gemma3ForCausalLM",
                                    {{"sliding_window_pattern", 2},
                                     {"rope_theta", 5e5},
                                     {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}}});
  CHECK(gemma3.local_layers == std::vector<bool>{true, false});
  CHECK(gemma3.embedding_scale == 8.0F);
  CHECK(gemma3.attention_scale == 1.0F / 16);
  CHECK(gemma3.rope.theta == 5e5);
  CHECK(gemma3.rope.factor == 8.0);
  CHECK(gemma3.local_rope.theta == 10000.0);
  CHECK(gemma3.local_rope.kind == RopeConfig::Kind::kDefault);
  CHECK(gemma3.attention_softcap == 0);
  const ModelConfig gemma2 = Family("Gemma2ForCausalLM", none);
  CHECK(gemma2.attention_softcap == 50.0F);
  CHECK(gemma2.logits_softcap == 30.0F);
  CHECK(Family("Gemma2ForCausalLM", {{"final_logit_softcapping", nullptr}}).logits_softcap == 0);
  CHECK(gemma2.eos_token_ids == std::vector<int32_t>{2, 3});

  const ModelConfig moe =
      Family("Qwen3MoeForCausalLM", {{"num_experts", 16}, {"decoder_sparse_step", 2}});
  CHECK(moe.moe.IsDense(0));
  CHECK_FALSE(moe.moe.IsDense(1));
  CHECK(moe.moe.experts_per_token == 8);
  CHECK_FALSE(moe.moe.normalize);
}

TEST_CASE("GPT-2 says nothing and means much") {
  const ModelConfig gpt2 = Parse(Json::parse(R"({"architectures": ["GPT2LMHeadModel"]})"));
  CHECK(gpt2.vocab_size == 50257);
  CHECK(gpt2.ffn_dim == 3072);
  CHECK(gpt2.head_dim == 64);
  CHECK(gpt2.tied_embeddings);
  CHECK(gpt2.learned_positions);
  CHECK(gpt2.activation == Activation::kGeluTanh);
  CHECK(gpt2.eos_token_ids == std::vector<int32_t>{50256});
  CHECK(RopeFrequencies(gpt2.rope, 4) == std::vector<double>{0, 0});
}

TEST_CASE("Heads that are rotated in part pair the rotated rows") {
  const RopeConfig rope = {.theta = 100.0, .rotary_dim = 4};
  CHECK(RopeRowOrder(rope, 8) == std::vector<int32_t>{0, 1, 4, 5, 2, 3, 6, 7});
  CHECK(RopeFrequencies(rope, 8) == std::vector<double>{1.0, 0.1, 0, 0});
  CHECK(RopeRowOrder({}, 8).empty());
}

}  // namespace
}  // namespace ringserve
