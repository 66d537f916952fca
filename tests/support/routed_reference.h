// The truth of a mixture of experts, where two experts may be as good as equal. Arithmetic that is
// as right as the tests ask may take either of them, and then computes another function: no bound
// on its error tells it from a wrong one. What it may not do is mix them up: there must be one
// routing, open in each choice by no more than the error allowed to the router, whose truth it
// meets.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "tests/support/compare.h"
#include "tests/support/reference_model.h"

namespace ringserve {

class RoutedReference {
 public:
  using Model = ReferenceModel<double>;

  struct Result {
    double error = 0;        // of `got` against the truth of the routing that it took
    double plain_error = 0;  // of the yardstick, which takes the same
    double router_error = 0;
    int num_open = 0;    // rows that have a choice
    int num_parted = 0;  // of these, rows that took another one than the truth does
  };

  // `got` are the logits of the rows of `ids`; the yardstick rounds as `rounding` says, and the
  // truth has its frequencies.
  static Result Judge(const ModelConfig& config,
                      const Model::Tensors& tensors,
                      const std::vector<int32_t>& ids,
                      const std::vector<float>& got,
                      ReferenceContext context,
                      ReferenceRounding rounding) {
    const Model first(config, tensors, context, {.frequencies = rounding.frequencies});
    const ReferenceModel<float> yardstick(config, tensors, context, rounding);
    Result result;
    {
      auto truth = std::make_unique<Model>(first);
      auto plain = std::make_unique<ReferenceModel<float>>(yardstick);
      for (const int32_t id : ids) {
        ReferenceRoute route;
        truth->Push(id, route);
        ReferenceRoute same = {.experts = route.experts, .logits = {}};
        plain->Push(id, same);
        result.router_error = std::max(result.router_error, Difference(route, same));
      }
    }
    // Each of two logits may be twice as wrong as the yardstick's.
    const double open = 4 * result.router_error;
    auto truth = std::make_unique<Model>(first);
    auto plain = std::make_unique<ReferenceModel<float>>(yardstick);
    const auto vocab = static_cast<size_t>(config.vocab_size);
    for (size_t i = 0; i < ids.size(); ++i) {
      std::vector<Branch> branches;
      Explore(*truth, ids[i], {}, 0, open, branches);
      const std::vector<float> row(got.begin() + static_cast<std::ptrdiff_t>(i * vocab),
                                   got.begin() + static_cast<std::ptrdiff_t>((i + 1) * vocab));
      size_t best = 0;
      for (size_t b = 1; b < branches.size(); ++b) {
        best = MaxError(row, branches[b].logits) < MaxError(row, branches[best].logits) ? b : best;
      }
      ReferenceRoute same = {.experts = branches[best].route.experts, .logits = {}};
      const std::vector<float> plain_row = plain->Push(ids[i], same);
      result.error = std::max(result.error, MaxError(row, branches[best].logits));
      result.plain_error = std::max(result.plain_error, MaxError(plain_row, branches[best].logits));
      result.num_open += branches.size() > 1 ? 1 : 0;
      result.num_parted += best > 0 ? 1 : 0;
      truth = std::move(branches[best].model);
    }
    return result;
  }

 private:
  // What a token makes of the text before it under one routing.
  struct Branch {
    std::unique_ptr<Model> model;
    ReferenceRoute route;
    std::vector<double> logits;
  };

  static double Difference(const ReferenceRoute& a, const ReferenceRoute& b) {
    double difference = 0;
    for (size_t layer = 0; layer < a.logits.size(); ++layer) {
      for (size_t expert = 0; expert < a.logits[layer].size(); ++expert) {
        difference =
            std::max(difference, std::abs(a.logits[layer][expert] - b.logits[layer][expert]));
      }
    }
    return difference;
  }

  // Adds the branch that takes `told` up to `layer` and the best experts from there on, then those
  // that take another one in one of these layers.
  static void Explore(const Model& before,
                      int32_t id,
                      const std::vector<std::vector<int32_t>>& told,
                      size_t layer,
                      double open,
                      std::vector<Branch>& branches) {
    const size_t at = branches.size();
    branches.push_back({std::make_unique<Model>(before), {.experts = told, .logits = {}}, {}});
    branches[at].logits = branches[at].model->Push(id, branches[at].route);
    const ReferenceRoute route = branches[at].route;
    for (; layer < route.logits.size(); ++layer) {
      const std::vector<double>& logits = route.logits[layer];
      for (size_t i = 0; i < route.experts[layer].size(); ++i) {
        for (size_t other = 0; other < logits.size(); ++other) {
          const std::vector<int32_t>& taken = route.experts[layer];
          const bool is_taken =
              std::find(taken.begin(), taken.end(), static_cast<int32_t>(other)) != taken.end();
          if (is_taken || logits[static_cast<size_t>(taken[i])] - logits[other] > open) {
            continue;
          }
          std::vector<std::vector<int32_t>> swapped(
              route.experts.begin(),
              route.experts.begin() + static_cast<std::ptrdiff_t>(layer) + 1);
          swapped[layer][i] = static_cast<int32_t>(other);
          Explore(before, id, swapped, layer + 1, open, branches);
        }
      }
    }
  }
};

}  // namespace ringserve
