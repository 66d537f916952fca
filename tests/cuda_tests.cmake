# Programs for a machine with a GPU, which may be another one than the machine that builds: they
# link everything but the C library and the driver statically, and compile the few host sources
# they need instead of linking rooms that need shared libraries. scripts/gpu-test runs them.
function(ringserve_gpu_program name)
  cmake_parse_arguments(arg "" "" "LIBRARIES" ${ARGN})
  add_executable(${name}
    ${arg_UNPARSED_ARGUMENTS}
    ${PROJECT_SOURCE_DIR}/engine/base/check.cc
    ${PROJECT_SOURCE_DIR}/engine/plan/tile_planner.cc
    ${PROJECT_SOURCE_DIR}/kernels/attention_ref.cc)
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
  target_link_libraries(${name} PRIVATE kernels_cuda ${arg_LIBRARIES} Threads::Threads ${CMAKE_DL_LIBS} rt)
  target_link_options(${name} PRIVATE -static-libstdc++ -static-libgcc)
  add_dependencies(cuda ${name})
endfunction()

ringserve_gpu_program(gpu_test
  kernels/attention_cuda_test.cc
  kernels/attention_general_cuda_test.cc
  kernels/attention_row_cuda_test.cc
  kernels/chain_cuda_test.cc
  kernels/family_cuda_test.cc
  kernels/matmul_cuda_test.cc
  kernels/moe_cuda_test.cc
  kernels/sample_cuda_test.cc
  kernels/step_cuda_test.cc
  ${PROJECT_SOURCE_DIR}/engine/sample/sampler.cc
  ${PROJECT_SOURCE_DIR}/engine/sample/select.cc
  ${PROJECT_SOURCE_DIR}/engine/sample/softmax.cc
  ${PROJECT_SOURCE_DIR}/kernels/activation_ref.cc
  ${PROJECT_SOURCE_DIR}/kernels/layernorm_ref.cc
  ${PROJECT_SOURCE_DIR}/kernels/rmsnorm_ref.cc
  ${PROJECT_SOURCE_DIR}/kernels/rope_angles.cc
  ${PROJECT_SOURCE_DIR}/kernels/rope_ref.cc
  ${PROJECT_SOURCE_DIR}/kernels/swiglu_ref.cc
  ${PROJECT_SOURCE_DIR}/kernels/thread_pool.cc
  LIBRARIES Catch2::Catch2WithMain absl::flat_hash_map)

ringserve_gpu_program(attention_cuda_bench
  bench/attention_cuda_bench.cu)
set_target_properties(attention_cuda_bench PROPERTIES CUDA_ARCHITECTURES "80")

ringserve_gpu_program(matmul_cuda_bench
  bench/matmul_cuda_bench.cu)
set_target_properties(matmul_cuda_bench PROPERTIES CUDA_ARCHITECTURES "80")

ringserve_gpu_program(step_cuda_bench
  bench/step_cuda_bench.cu)
set_target_properties(step_cuda_bench PROPERTIES CUDA_ARCHITECTURES "80")

ringserve_gpu_program(prefix_cuda_bench
  bench/prefix_cuda_bench.cu)
set_target_properties(prefix_cuda_bench PROPERTIES CUDA_ARCHITECTURES "80")

# Of what the kernels are told; needs no GPU.
ringserve_test(kernels_attention_plan_cuda_test
  kernels/attention_plan_cuda_test.cc
  LIBRARIES engine_plan kernels_cuda)

# The engine on the CUDA backend. Its other tests (engine_hugging_face_test and so on) take the GPU
# where they find one.
ringserve_test(engine_backend_cuda_test
  engine/backend_cuda_test.cc
  LIBRARIES engine engine_backend)
ringserve_test(engine_portable_cuda_test
  engine/portable_cuda_test.cc
  LIBRARIES engine engine_model engine_plan engine_backend)
ringserve_test(engine_cuda_fault_test
  engine/cuda_fault_test.cc
  support/cuda_trap.cu
  LIBRARIES engine engine_backend Threads::Threads)
set_target_properties(engine_cuda_fault_test PROPERTIES LINKER_LANGUAGE CXX)
add_dependencies(cuda kernels_attention_plan_cuda_test engine_backend_cuda_test
  engine_portable_cuda_test engine_cuda_fault_test
  engine_hugging_face_test engine_families_test engine_mixture_test engine_encoder_decoder_test
  engine_reading_model_test engine_determinism_test)

# A library that the driver loads into a program to time its kernels.
add_library(coverage_cuda SHARED bench/coverage_cuda.cc)
target_include_directories(coverage_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
target_link_libraries(coverage_cuda PRIVATE ringserve_flags ${CMAKE_DL_LIBS})
target_link_options(coverage_cuda PRIVATE -static-libstdc++ -static-libgcc)
add_dependencies(cuda coverage_cuda)
