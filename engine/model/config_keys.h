// The keys that config.json files of many families have in common. Whatever is wrong is noted and
// reading goes on, so that everything is told at once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json_reader.h"
#include "engine/base/problems.h"
#include "engine/model/model_config.h"
#include "engine/model/rope_config.h"

namespace ringserve {

// No product of these limits that a plan or a kernel forms leaves 63 bits.
inline constexpr IntRange kVocabRange = {1, 1 << 24};
inline constexpr IntRange kHiddenRange = {1, 1 << 16};
inline constexpr IntRange kFfnRange = {1, 1 << 20};
inline constexpr IntRange kLayersRange = {1, 1024};
inline constexpr IntRange kHeadsRange = {1, 1024};
inline constexpr IntRange kHeadDimRange = {2, 512};
inline constexpr IntRange kPositionsRange = {1, 1 << 30};
inline constexpr IntRange kExpertsRange = {1, 4096};

class ConfigKeys {
 public:
  // transformers' values where the file has none. 0: the key must be there, but for kv_heads (as
  // many as heads) and head_dim (hidden_size / heads).
  struct Defaults {
    int32_t vocab_size = 0;
    int32_t hidden_dim = 0;
    int32_t ffn_dim = 0;
    int32_t layers = 0;
    int32_t heads = 0;
    int32_t kv_heads = 0;
    int32_t head_dim = 0;
    int64_t max_positions = 0;
    double eps = 0;
    bool tied = false;
    std::vector<int32_t> bos = {};
    std::vector<int32_t> eos = {};
  };

  struct T5Defaults {
    int32_t vocab_size = 0;
    int32_t ffn_dim = 0;
    int32_t layers = 0;
    int32_t heads = 0;
    const char* feed_forward = nullptr;
  };

  struct ExpertDefaults {
    const char* count_key = nullptr;
    int32_t count = 0;
    int32_t per_token = 0;
  };

  ConfigKeys(JsonReader& reader, Problems& problems) : reader_(reader), problems_(problems) {}

  bool Has(std::string_view key) const { return reader_.Has(key); }

  void Ignore(std::string_view key) { reader_.Ignore(key); }

  void Problem(std::string_view key, std::string_view message) {
    problems_.Add(reader_.Error(key, message));
  }

  // Notes keys that no family here knows, and quantisation: any value but the one that says nothing
  // would be silently wrong results.
  void RefuseForeign();
  // The same for keys of other families; after the family has read its own.
  void RefuseUnread();
  // Notes any value but `neutral` (JSON) and null.
  void Refuse(const char* key, const char* neutral);
  // Notes any value but this one.
  void Exactly(const char* key, double value);

  void Sizes(ModelConfig& config, const Defaults& defaults);
  void Gpt2Sizes(ModelConfig& config);
  void T5Sizes(ModelConfig& config, const T5Defaults& defaults);
  void Experts(ModelConfig& config, const ExpertDefaults& defaults);

  bool Bool(const char* key, bool missing);
  int64_t IntOr(const char* key, IntRange range, int64_t missing);
  double DoubleOr(const char* key, DoubleRange range, double missing);
  // The value, or the first of `values` where there is none.
  std::string Enum(const char* key, const std::vector<std::string_view>& values);

  // "feed_forward_proj", and the keys that say the same of it.
  void T5FeedForward(ModelConfig& config, const char* missing);

  void Silu(const char* key) { Enum(key, {"silu", "swish"}); }

  // Tokens; null in the file means none: 0.
  int64_t WindowOr(const char* key, std::optional<int64_t> missing);
  float SoftcapOr(const char* key, double missing);

  // Fills head_dim and max_positions of `context` in.
  RopeConfig Rope(const ModelConfig& config, RopeContext context);
  // Gemma 3's two: for each type of layer, or as "rope_theta", "rope_scaling" and
  // "rope_local_base_freq".
  void GemmaRope(ModelConfig& config);

  // Replaces `local` by "layer_types", if that is there.
  void LayerTypes(std::vector<bool>& local);
  // Sets the layers of the list that is called `key`.
  void DenseLayers(const char* key, std::vector<bool>& dense);

 private:
  void Size(const char* key, IntRange range, int32_t missing, int32_t& value);
  void Heads(ModelConfig& config, const Defaults& defaults);
  bool HasKey(const char* key) const;

  JsonReader& reader_;
  Problems& problems_;
};

}  // namespace ringserve
