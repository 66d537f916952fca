// wgmma.mma_async m64nNk16 with both operands K-major in shared memory, for every number of columns
// that the matrix products use. The accumulators lie in registers as wgmma_cuda.cuh says. The
// operands of an instruction are text, so their lists grow by eight registers (16 columns) a macro.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// It would put each operand on a line of its own.
// clang-format off
namespace ringserve::cuda {

// d += a * b; d has kColumns / 2 floats.
template <typename T, int32_t kColumns>
struct WgmmaColumns;

#define RS_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define RS_NAMES_16 RS_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define RS_NAMES_24 RS_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define RS_NAMES_32 RS_NAMES_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define RS_NAMES_40 RS_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define RS_NAMES_48 RS_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define RS_NAMES_56 RS_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define RS_NAMES_64 RS_NAMES_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define RS_NAMES_72 RS_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define RS_NAMES_80 RS_NAMES_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define RS_NAMES_88 RS_NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define RS_NAMES_96 RS_NAMES_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define RS_NAMES_104 RS_NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define RS_NAMES_112 RS_NAMES_104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define RS_NAMES_120 RS_NAMES_112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define RS_NAMES_128 RS_NAMES_120 ", %120, %121, %122, %123, %124, %125, %126, %127"

#define RS_EIGHT(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
                    "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define RS_FLOATS_8 RS_EIGHT(0)
#define RS_FLOATS_16 RS_FLOATS_8, RS_EIGHT(8)
#define RS_FLOATS_24 RS_FLOATS_16, RS_EIGHT(16)
#define RS_FLOATS_32 RS_FLOATS_24, RS_EIGHT(24)
#define RS_FLOATS_40 RS_FLOATS_32, RS_EIGHT(32)
#define RS_FLOATS_48 RS_FLOATS_40, RS_EIGHT(40)
#define RS_FLOATS_56 RS_FLOATS_48, RS_EIGHT(48)
#define RS_FLOATS_64 RS_FLOATS_56, RS_EIGHT(56)
#define RS_FLOATS_72 RS_FLOATS_64, RS_EIGHT(64)
#define RS_FLOATS_80 RS_FLOATS_72, RS_EIGHT(72)
#define RS_FLOATS_88 RS_FLOATS_80, RS_EIGHT(80)
#define RS_FLOATS_96 RS_FLOATS_88, RS_EIGHT(88)
#define RS_FLOATS_104 RS_FLOATS_96, RS_EIGHT(96)
#define RS_FLOATS_112 RS_FLOATS_104, RS_EIGHT(104)
#define RS_FLOATS_120 RS_FLOATS_112, RS_EIGHT(112)
#define RS_FLOATS_128 RS_FLOATS_120, RS_EIGHT(120)

// `count` registers; a and b are the two operands after them.
#define RS_WGMMA(T, type, columns, count, a_name, b_name)                                        \
  template <>                                                                                    \
  struct WgmmaColumns<T, columns> {                                                              \
    __device__ __forceinline__ static void Run(float* d, uint64_t a, uint64_t b) {               \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"                                    \
                   "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type " {"    \
                   RS_NAMES_##count "}, " a_name ", " b_name ", p, 1, 1, 0, 0;\n}\n"             \
                   : RS_FLOATS_##count                                                           \
                   : "l"(a), "l"(b));                                                            \
    }                                                                                            \
  };
#define RS_WGMMA_BOTH(columns, count, a_name, b_name)             \
  RS_WGMMA(__nv_bfloat16, "bf16", columns, count, a_name, b_name) \
  RS_WGMMA(__half, "f16", columns, count, a_name, b_name)

RS_WGMMA_BOTH(32, 16, "%16", "%17")
RS_WGMMA_BOTH(64, 32, "%32", "%33")
RS_WGMMA_BOTH(96, 48, "%48", "%49")
RS_WGMMA_BOTH(128, 64, "%64", "%65")
RS_WGMMA_BOTH(192, 96, "%96", "%97")
RS_WGMMA_BOTH(224, 112, "%112", "%113")
RS_WGMMA_BOTH(256, 128, "%128", "%129")

#undef RS_WGMMA_BOTH
#undef RS_WGMMA
#undef RS_EIGHT
#undef RS_NAMES_8
#undef RS_FLOATS_8
#undef RS_NAMES_16
#undef RS_FLOATS_16
#undef RS_NAMES_24
#undef RS_FLOATS_24
#undef RS_NAMES_32
#undef RS_FLOATS_32
#undef RS_NAMES_40
#undef RS_FLOATS_40
#undef RS_NAMES_48
#undef RS_FLOATS_48
#undef RS_NAMES_56
#undef RS_FLOATS_56
#undef RS_NAMES_64
#undef RS_FLOATS_64
#undef RS_NAMES_72
#undef RS_FLOATS_72
#undef RS_NAMES_80
#undef RS_FLOATS_80
#undef RS_NAMES_88
#undef RS_FLOATS_88
#undef RS_NAMES_96
#undef RS_FLOATS_96
#undef RS_NAMES_104
#undef RS_FLOATS_104
#undef RS_NAMES_112
#undef RS_FLOATS_112
#undef RS_NAMES_120
#undef RS_FLOATS_120
#undef RS_NAMES_128
#undef RS_FLOATS_128

}  // namespace ringserve::cuda
