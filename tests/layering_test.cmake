# Fails when a room includes a room it may not:  cmake -DROOT=<source tree> -P layering_test.cmake
#   proto <- server -> engine -> kernels, and inside the engine
#   engine -> plan -> cache, engine -> model -> backend -> sample, kernels; text, chat, constraint and base stand apart.
cmake_minimum_required(VERSION 3.25)
if(NOT IS_DIRECTORY "${ROOT}/kernels")
  message(FATAL_ERROR "layering: ROOT='${ROOT}' is not a source tree of ringserve")
endif()

# Plain structs that every floor of the engine may name: they include nothing but base and types.
set(contracts engine/base/ engine/request.h engine/engine_config.h engine/model/model_config.h)

# Room -> what of the project it may include: a name ending in / is a folder, any other a file.
# A file belongs to the first room below whose name begins its path.
set(rooms kernels engine/base engine/text engine/chat engine/constraint engine/cache engine/plan engine/backend engine/model
          engine/sample engine server proto)
set(may_kernels kernels/)
set(may_engine/base engine/base/)
set(may_engine/text engine/base/ engine/text/ engine/request.h)
set(may_engine/chat engine/base/ engine/text/ engine/chat/)
set(may_engine/constraint engine/base/ engine/text/ engine/constraint/ engine/request.h)
set(may_engine/cache ${contracts} engine/cache/ engine/backend/ kernels/)
set(may_engine/plan ${contracts} engine/plan/ engine/cache/ kernels/)
set(may_engine/backend ${contracts} engine/backend/ engine/sample/ kernels/)
set(may_engine/model ${contracts} engine/model/ engine/backend/ kernels/)
set(may_engine/sample ${contracts} engine/sample/)
set(may_engine engine/ kernels/)
set(may_server server/ proto/ ringserve/ engine/base/ engine/text/ engine/chat/ engine/constraint/
               engine/engine.h
               engine/request.h
               engine/session_info.h engine/session_transfer.h
               engine/check_model.h engine/engine_config.h
               engine/memory_plan.h)
set(may_proto proto/ ringserve/)

# Libraries that are not for everyone, as patterns of the included name.
set(network "^(grpc|grpc\\+\\+|grpcpp|google/protobuf)/|\\.pb\\.h$")
set(cuda "^(cuda|cublas|cudnn|curand|nvtx|cutlass|cute)|^(mma|sm_[0-9_a-z]+|cooperative_groups|driver_types|device_launch_parameters)\\.h")
set(not_in_kernels "^(absl|spdlog|fmt|nlohmann|CLI)/|^pcre2")
set(cuda_places "^engine/backend/|^kernels/.*(\\.cu|\\.cuh|_cuda\\.h|_cuda\\.cc)$")

set(violations "")
set(num_files 0)

function(complain file name why)
  set(violations "${violations}\n  ${file} includes ${name}: ${why}" PARENT_SCOPE)
endfunction()

function(check_include file room name)
  set(why "")
  if(name MATCHES "^(kernels|engine|server|proto|ringserve|tests)/")
    set(why "room ${room} may include only: ${may_${room}}")
    foreach(allowed IN LISTS may_${room})
      string(FIND "${name}" "${allowed}" at)
      if(name STREQUAL allowed OR (at EQUAL 0 AND allowed MATCHES "/$"))
        set(why "")
      endif()
    endforeach()
  elseif(name MATCHES "^\\.\\.?/")
    set(why "name files from the top of the tree")
  endif()
  if(name MATCHES "${network}" AND NOT room STREQUAL "server" AND NOT room STREQUAL "proto")
    set(why "only server knows gRPC and protobuf")
  elseif(name MATCHES "${cuda}" AND NOT file MATCHES "${cuda_places}")
    set(why "CUDA is known only in engine/backend and in CUDA files of kernels")
  elseif(name MATCHES "${not_in_kernels}" AND room STREQUAL "kernels")
    set(why "kernels know only the standard library, Highway and CUDA")
  endif()
  if(why)
    complain("${file}" "${name}" "${why}")
    set(violations "${violations}" PARENT_SCOPE)
  endif()
endfunction()

foreach(folder kernels engine server proto)
  file(GLOB_RECURSE files RELATIVE "${ROOT}" "${ROOT}/${folder}/*.h" "${ROOT}/${folder}/*.cc"
       "${ROOT}/${folder}/*.inc" "${ROOT}/${folder}/*.cu" "${ROOT}/${folder}/*.cuh")
  foreach(file IN LISTS files)
    math(EXPR num_files "${num_files} + 1")
    set(room "")
    foreach(candidate IN LISTS rooms)
      if(NOT room AND file MATCHES "^${candidate}/")
        set(room ${candidate})
      endif()
    endforeach()
    if(room STREQUAL "engine" AND file MATCHES "^engine/[^/]+/")
      complain("${file}" "nothing yet" "its folder is a new room; give it a line in layering_test.cmake")
    endif()
    file(STRINGS "${ROOT}/${file}" lines REGEX "^[ \t]*#[ \t]*include")
    foreach(line IN LISTS lines)
      # An include of a macro (Highway's foreach_target) names no file and is skipped.
      if(line MATCHES "include[ \t]*[<\"]([^>\"]+)[>\"]")
        check_include("${file}" "${room}" "${CMAKE_MATCH_1}")
      endif()
    endforeach()
  endforeach()
endforeach()

if(violations)
  message(FATAL_ERROR "layering:${violations}")
endif()
message(STATUS "layering: ${num_files} files, no forbidden include")
