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

ModelConfig T5(const Json& keys) {
  Json json = Json::parse(R"({
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": 64, "d_kv": 40,
    "num_heads": 3, "num_layers": 2, "decoder_start_token_id": 0})");
  json.update(keys);
  return Parse(json);
}

std::string T5Error(const Json& keys) {
  Json json = {{"architectures", {"T5ForConditionalGeneration"}}, {"decoder_start_token_id", 0}};
  json.update(keys);
  return std::string(ParseModelConfig(json.dump(), "").status().message());
}

TEST_CASE("T5 has an encoder, biases by distance and scores without a scale") {
  const ModelConfig t5 = T5(Json::object());
  CHECK(t5.has_encoder());
  CHECK(t5.num_encoder_layers == 2);
  CHECK(t5.num_layers == 2);
  CHECK(t5.num_kv_heads == 3);
  CHECK(t5.head_dim == 40);
  CHECK(t5.ffn_dim == 2048);
  CHECK(t5.vocab_size == 32128);
  CHECK(t5.activation == Activation::kRelu);
  CHECK_FALSE(t5.gated);
  CHECK(t5.AttentionScale(1) == 1.0F);
  CHECK(t5.position_bias.num_buckets == 32);
  CHECK(t5.position_bias.max_distance == 128);
  CHECK(t5.tied_embeddings);
  CHECK(t5.output_scale == 0.125F);
  CHECK(t5.eos_token_ids == std::vector<int32_t>{1});
  const ModelConfig flan = T5({{"feed_forward_proj", "gated-gelu"},
                               {"dense_act_fn", "gelu_new"},
                               {"is_gated_act", true},
                               {"tie_word_embeddings", false},
                               {"num_decoder_layers", 5}});
  CHECK(flan.gated);
  CHECK(flan.activation == Activation::kGeluTanh);
  CHECK(flan.output_scale == 1.0F);
  CHECK(flan.num_layers == 5);
  CHECK(T5({{"scale_decoder_outputs", false}}).output_scale == 1.0F);
  CHECK(T5({{"feed_forward_proj", "gelu"}}).activation == Activation::kGelu);
  const Json mt5 = {{"architectures", {"MT5ForConditionalGeneration"}}, {"model_type", "mt5"}};
  CHECK(T5(mt5).gated);
}

TEST_CASE("What is wrong with a T5 is named by its key") {
  CHECK(T5Error({{"dense_act_fn", "relu"}, {"feed_forward_proj", "gated-gelu"}}) ==
        "config.json: dense_act_fn: \"relu\" is not one of: gelu_new");
  CHECK(T5Error({{"feed_forward_proj", "gated-gelu"}, {"is_gated_act", false}}) ==
        "config.json: is_gated_act: not what feed_forward_proj \"gated-gelu_new\" says");
  CHECK(T5Error({{"is_encoder_decoder", false}}) ==
        "config.json: is_encoder_decoder: false is not supported");
  CHECK(T5Error({{"decoder_start_token_id", nullptr}}) ==
        "config.json: decoder_start_token_id: missing");
  CHECK(T5Error({{"relative_attention_num_buckets", 31}}) ==
        "config.json: relative_attention_num_buckets: 31 is odd");
  CHECK(T5Error({{"relative_attention_max_distance", 16}}) ==
        "config.json: relative_attention_max_distance: 16 is not more than half of the 32 buckets");
  const Json told = {{"architectures", {"T5ForConditionalGeneration"}}};
  CHECK(ParseModelConfig(told.dump(), R"({"decoder_start_token_id": 3})")->decoder_start_token_id ==
        3);
}

TEST_CASE("Heads that are rotated in part pair the rotated rows") {
  const RopeConfig rope = {.theta = 100.0, .rotary_dim = 4};
  CHECK(RopeRowOrder(rope, 8) == std::vector<int32_t>{0, 1, 4, 5, 2, 3, 6, 7});
  CHECK(RopeFrequencies(rope, 8) == std::vector<double>{1.0, 0.1, 0, 0});
  CHECK(RopeRowOrder({}, 8).empty());
}

}  // namespace
}  // namespace ringserve
