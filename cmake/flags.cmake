# The one target that carries compile flags; every room links it.
add_library(ringserve_flags INTERFACE)
target_compile_features(ringserve_flags INTERFACE cxx_std_20)
target_include_directories(ringserve_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(ringserve_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${RINGSERVE_WERROR}>>:-Werror>)
if(RINGSERVE_DCHECKS)
  target_compile_definitions(ringserve_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:RINGSERVE_DCHECKS>)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  # It sees uninitialised strings inside absl::StatusOr<std::string>.
  target_compile_options(ringserve_flags INTERFACE -Wno-maybe-uninitialized)
endif()
if(RINGSERVE_SANITIZE)
  # gcc 12 takes what its own instrumentation does to std::optional for an uninitialised read.
  target_compile_options(ringserve_flags INTERFACE
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
    -fsanitize=${RINGSERVE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(ringserve_flags INTERFACE -fsanitize=${RINGSERVE_SANITIZE})
endif()
if(RINGSERVE_FUZZ)
  # Coverage of our own code guides the fuzzer; only its programs link its main.
  target_compile_options(ringserve_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(RINGSERVE_SANITIZE MATCHES "thread")
  # Every program links it: without it each hand-over through absl::Mutex looks like a race.
  add_library(tsan_absl OBJECT ${PROJECT_SOURCE_DIR}/tests/support/tsan_absl.cc)
  target_compile_features(tsan_absl PRIVATE cxx_std_20)
  target_compile_options(tsan_absl PRIVATE -fsanitize=thread -g1)
  target_link_libraries(ringserve_flags INTERFACE $<TARGET_OBJECTS:tsan_absl>)
endif()
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

find_program(RINGSERVE_CCACHE ccache)
if(RINGSERVE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${RINGSERVE_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${RINGSERVE_CCACHE})
endif()
find_program(RINGSERVE_MOLD mold)
if(RINGSERVE_MOLD AND NOT CMAKE_CROSSCOMPILING)  # gcc for another machine does not look for it here
  add_link_options(-fuse-ld=mold)
endif()
