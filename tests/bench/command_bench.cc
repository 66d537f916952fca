#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "kernels/cpu_features.h"
#include "kernels/thread_pool.h"
#include "server/commands.h"
#include "server/model_source.h"
#include "tests/bench/bench_attention.h"
#include "tests/bench/bench_constraint.h"
#include "tests/bench/bench_endless.h"
#include "tests/bench/bench_flood.h"
#include "tests/bench/bench_kernels.h"
#include "tests/bench/bench_load.h"
#include "tests/bench/bench_model.h"
#include "tests/bench/bench_privacy.h"
#include "tests/bench/bench_sessions.h"
#include "tests/bench/bench_speculation.h"
#include "tests/bench/bench_steps.h"
#include "tests/bench/bench_streams.h"

namespace ringserve {
namespace {

struct BenchOptions {
  std::vector<std::string> sections;
  ModelSource source;
  ModelBenchOptions model;
  std::string device = "cpu";
  EndlessBenchOptions endless;
  StreamsBenchOptions streams;
  SpeculationBenchOptions speculation;
  LoadBenchOptions load;
  SessionsBenchOptions sessions;
  ConstraintBenchOptions constraint;
};

absl::Status BenchProducts(const BenchOptions& options) {
  const int32_t num_threads =
      options.model.num_threads == 0 ? UsableCpus() : options.model.num_threads;
  fmt::print("matrix products, {}, {} threads\n", CpuKernelNames(), num_threads);
  MatMulShape shape;
  shape.dtype = options.model.dtype == "f32" ? DType::kF32 : DType::kBf16;
  {
    ThreadPool pool(num_threads);
    for (const BenchSeries& series : BenchMatMul(shape, options.model.rounds, pool)) {
      fmt::print("  {}\n", FormatSeries(series));
    }
  }
  const BenchSeries taken = BenchTakenCore(shape, options.model.rounds, num_threads);
  fmt::print("  {}\n", FormatSeries(taken));
  return absl::OkStatus();
}

absl::Status BenchAttentionSection(const BenchOptions& options) {
  const int32_t num_threads =
      options.model.num_threads == 0 ? UsableCpus() : options.model.num_threads;
  fmt::print("attention alone, {}, {} threads\n", CpuKernelNames(), num_threads);
  ThreadPool pool(num_threads);
  for (const int32_t head_dim : {64, 128}) {
    AttentionBenchShape shape;
    shape.head_dim = head_dim;
    shape.dtype = options.model.dtype == "f32" ? DType::kF32 : DType::kBf16;
    for (const BenchSeries& series : BenchAttention(shape, options.model.rounds, pool)) {
      fmt::print("  {}\n", FormatSeries(series));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<EngineConfig> OneConfig(const BenchOptions& options) {
  ASSIGN_OR_RETURN(const auto configs, LoadConfigs(options.source));
  return configs.front();
}

absl::Status BenchEndlessSection(BenchOptions& options) {
  ASSIGN_OR_RETURN(options.endless.config, OneConfig(options));
  options.endless.config.rings.overflow = OverflowPolicy::kSlide;
  options.endless.config.device =
      options.device == "cuda" ? DevicePolicy::kCuda : DevicePolicy::kCpu;
  if (options.endless.config.rings.sink_size == 0) {
    options.endless.config.rings.sink_size = 4;
  }
  options.endless.config.scheduler.max_batch = 1;
  options.endless.config.memory.device_bytes = 0;
  return BenchEndless(options.endless);
}

absl::Status BenchStreamsSection(BenchOptions& options) {
  ASSIGN_OR_RETURN(options.streams.config, OneConfig(options));
  return BenchStreams(options.streams);
}

absl::Status BenchSpeculationSection(BenchOptions& options) {
  ASSIGN_OR_RETURN(options.speculation.config, OneConfig(options));
  options.speculation.config.speculation.method = SpeculationMethod::kLookup;
  options.speculation.rounds = options.model.rounds;
  return BenchSpeculation(options.speculation);
}

absl::Status BenchPrivacySection(const BenchOptions& options) {
  PrivacyBenchOptions privacy;
  ASSIGN_OR_RETURN(privacy.config, OneConfig(options));
  return BenchPrivacy(privacy);
}

absl::Status BenchFloodSection(const BenchOptions& options) {
  FloodBenchOptions flood;
  ASSIGN_OR_RETURN(flood.config, OneConfig(options));
  return BenchFlood(flood);
}

absl::Status BenchLoadSection(BenchOptions& options) {
  ASSIGN_OR_RETURN(options.load.config, OneConfig(options));
  return BenchLoad(options.load);
}

absl::Status BenchSessionsSection(BenchOptions& options) {
  options.sessions.num_threads = options.model.num_threads;
  options.sessions.rounds = options.model.rounds;
  RETURN_IF_ERROR(BenchResume(options.sessions));
  std::fflush(stdout);
  RETURN_IF_ERROR(BenchDisk(options.sessions));
  std::fflush(stdout);
  RETURN_IF_ERROR(BenchGap(options.sessions));
  std::fflush(stdout);
  return BenchCancels(options.sessions);
}

absl::Status BenchConstraintSection(BenchOptions& options) {
  ASSIGN_OR_RETURN(options.constraint.config, OneConfig(options));
  options.constraint.num_streams = options.streams.num_streams;
  return BenchConstraint(options.constraint);
}

absl::Status BenchModelSection(const BenchOptions& options) {
  if (options.device == "cpu") {
    return BenchModel(options.model);
  }
  StepsBenchOptions steps;
  steps.shape = options.model.shape;
  steps.decode_len = options.model.decode_len;
  return BenchSteps(steps);
}

absl::Status Run(BenchOptions& options) {
  // These first: they fork, which wants a process of one thread.
  const std::vector<std::pair<std::string, std::function<absl::Status()>>> sections = {
      {"streams", [&] { return BenchStreamsSection(options); }},
      {"load", [&] { return BenchLoadSection(options); }},
      {"flood", [&] { return BenchFloodSection(options); }},
      {"products", [&] { return BenchProducts(options); }},
      {"attention", [&] { return BenchAttentionSection(options); }},
      {"model", [&] { return BenchModelSection(options); }},
      {"endless", [&] { return BenchEndlessSection(options); }},
      {"privacy", [&] { return BenchPrivacySection(options); }},
      {"speculation", [&] { return BenchSpeculationSection(options); }},
      {"sessions", [&] { return BenchSessionsSection(options); }},
      {"constraint", [&] { return BenchConstraintSection(options); }},
  };
  for (const auto& [name, run] : sections) {
    if (std::find(options.sections.begin(), options.sections.end(), name) !=
        options.sections.end()) {
      RETURN_IF_ERROR(run());
      std::fflush(stdout);
    }
  }
  return absl::OkStatus();
}

}  // namespace

void AddBenchCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand(
      "bench", "Measures this machine: speeds beside ceilings taken in the same run");
  auto options = std::make_shared<BenchOptions>();
  command
      ->add_option("sections",
                   options->sections,
                   "Any of products, attention, model, streams, load, flood, endless, sessions, "
                   "speculation, "
                   "privacy, constraint; default: the first three")
      ->check(CLI::IsMember({"products",
                             "attention",
                             "model",
                             "streams",
                             "load",
                             "flood",
                             "endless",
                             "sessions",
                             "speculation",
                             "privacy",
                             "constraint"}));
  AddModelSource(*command, options->source, /*most=*/1);
  command
      ->add_option(
          "--shape",
          options->model.shape,
          "llama-1b, llama3-8b, or hidden=..,layers=..,heads=..,kv_heads=..,ffn=..,vocab=..")
      ->capture_default_str();
  command
      ->add_option("--device",
                   options->device,
                   "Of the sections model and endless; cuda: bf16, several batches")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--dtype", options->model.dtype, "Of the shape's weights")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  command->add_option("--threads", options->model.num_threads, "0: one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_option("--prompt-len", options->model.prompt_len, "Tokens of the shape's prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--decode-len", options->model.decode_len, "Tokens decoded after it")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--rounds", options->model.rounds, "Medians are over so many rounds")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--tokens", options->endless.num_tokens, "Length of the endless stream")
      ->check(CLI::Range(30'000, 2'000'000'000))
      ->capture_default_str();
  command->add_option("--streams", options->streams.num_streams, "Streams at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--stream-tokens", options->streams.num_tokens, "Tokens of each stream")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command->add_option("--load-streams", options->load.num_streams, "Of load: streams at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--load-sessions", options->load.num_sessions, "Of load: idle sessions")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command
      ->add_option("--resume-tokens",
                   options->sessions.resume_tokens,
                   "Of sessions: text of the session that comes back from host memory")
      ->check(CLI::Range(64, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--disk-folder",
                   options->sessions.disk_folder,
                   "Of sessions: where files are written and read")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  command
      ->add_option("--long-tokens",
                   options->sessions.long_tokens,
                   "Of sessions: tokens of the prompt that arrives while streams run")
      ->check(CLI::Range(1000, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--max-token-gap-ms",
                   options->sessions.max_token_gap_ms,
                   "Of sessions: the bound on the gap between tokens of the running streams")
      ->check(CLI::Range(1, 3'600'000))
      ->capture_default_str();
  command->add_option("--cancels", options->sessions.num_cancels, "Of sessions: how many")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  command->callback([options, &exit_code] {
    if (options->sections.empty()) {
      options->sections = {"products", "attention", "model"};
    }
    const absl::Status status = Run(*options);
    exit_code = status.ok() ? kExitOk : Complain(status);
  });
}

}  // namespace ringserve
