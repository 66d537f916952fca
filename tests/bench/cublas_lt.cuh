// The fastest of cuBLAS's own suggestions for a product, found by trying them: what products cost
// without a promise about bits. Splits of K included.
#pragma once

#include <cublasLt.h>

#include "tests/bench/cuda_bench.cuh"

namespace ringserve::bench {

// out [rows, n] floats = x [rows, k] * weight [n, k]^T, bf16.
class FastestProduct {
 public:
  FastestProduct() {
    library_ = dlopen("libcublasLt.so.13", RTLD_NOW);
    if (library_ != nullptr &&
        Find<decltype(&cublasLtCreate)>("cublasLtCreate")(&handle_) != CUBLAS_STATUS_SUCCESS) {
      handle_ = nullptr;
    }
  }

  bool found() const { return handle_ != nullptr; }

  // Median microseconds of a product by the fastest suggestion; weight(i) rotates.
  double Microseconds(const void* x,
                      const std::function<const void*(int32_t)>& weight,
                      void* out,
                      int32_t rows,
                      int32_t n,
                      int32_t k,
                      int32_t count) {
    Describe(rows, n, k);
    std::array<cublasLtMatmulHeuristicResult_t, kSuggestions> found = {};
    int num_found = 0;
    Check(suggest_(handle_,
                   product_,
                   weight_,
                   x_,
                   out_,
                   out_,
                   preference_,
                   kSuggestions,
                   found.data(),
                   &num_found),
          "suggestions");
    double best = 0;
    for (int32_t i = 0; i < num_found; ++i) {
      const double us = Measure(
          count,
          [&](int32_t j, cudaStream_t stream) {
            const float one = 1;
            const float zero = 0;
            Check(run_(handle_,
                       product_,
                       &one,
                       weight(j),
                       weight_,
                       x,
                       x_,
                       &zero,
                       out,
                       out_,
                       out,
                       out_,
                       &found[static_cast<size_t>(i)].algo,
                       workspace_.as(),
                       workspace_.bytes(),
                       stream),
                  "product");
          },
          5);
      best = best == 0 ? us : std::min(best, us);
    }
    return best;
  }

 private:
  static constexpr int32_t kSuggestions = 8;

  template <typename F>
  F Find(const char* name) const {
    return reinterpret_cast<F>(dlsym(library_, name));
  }

  static void Check(cublasStatus_t status, const char* what) {
    if (status != CUBLAS_STATUS_SUCCESS) {
      std::printf("cublasLt %s: %d\n", what, static_cast<int>(status));
      std::abort();
    }
  }

  // Descriptors live until the process ends: there are a few dozen.
  void Describe(int32_t rows, int32_t n, int32_t k) {
    const auto layout = Find<decltype(&cublasLtMatrixLayoutCreate)>("cublasLtMatrixLayoutCreate");
    Check(layout(&weight_, CUDA_R_16BF, static_cast<uint64_t>(k), static_cast<uint64_t>(n), k),
          "layout");
    Check(layout(&x_, CUDA_R_16BF, static_cast<uint64_t>(k), static_cast<uint64_t>(rows), k),
          "layout");
    Check(layout(&out_, CUDA_R_32F, static_cast<uint64_t>(n), static_cast<uint64_t>(rows), n),
          "layout");
    Check(Find<decltype(&cublasLtMatmulDescCreate)>("cublasLtMatmulDescCreate")(
              &product_, CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "product");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    Check(Find<decltype(&cublasLtMatmulDescSetAttribute)>("cublasLtMatmulDescSetAttribute")(
              product_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
          "product");
    Check(Find<decltype(&cublasLtMatmulPreferenceCreate)>("cublasLtMatmulPreferenceCreate")(
              &preference_),
          "preference");
    const size_t bytes = workspace_.bytes();
    Check(Find<decltype(&cublasLtMatmulPreferenceSetAttribute)>(
              "cublasLtMatmulPreferenceSetAttribute")(
              preference_, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes),
          "preference");
    suggest_ = Find<decltype(suggest_)>("cublasLtMatmulAlgoGetHeuristic");
    run_ = Find<decltype(run_)>("cublasLtMatmul");
  }

  void* library_ = nullptr;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t weight_ = nullptr;
  cublasLtMatrixLayout_t x_ = nullptr;
  cublasLtMatrixLayout_t out_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) suggest_ = nullptr;
  decltype(&cublasLtMatmul) run_ = nullptr;
  DeviceMemory workspace_{64 << 20};
};

}  // namespace ringserve::bench
