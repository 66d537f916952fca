# RINGSERVE_STATIC: one binary that needs only the C library, for machines without gRPC and for
# small images. The distribution's packages carry archives beside most shared libraries, but their
# CMake files name only the shared ones; here every imported target with an archive is pointed at
# it, so that no other file has to know of this option. Included after all find_package calls.
foreach(name re2 pcre2-8)
  find_library(RINGSERVE_ARCHIVE_${name} lib${name}.a REQUIRED)
endforeach()
# Debian 13's re2 logs through Abseil.
set(re2_needs $<TARGET_NAME_IF_EXISTS:absl::absl_log> $<TARGET_NAME_IF_EXISTS:absl::absl_check>)
set_target_properties(re2::re2 PROPERTIES
  INTERFACE_LINK_LIBRARIES "${RINGSERVE_ARCHIVE_re2};${re2_needs}")
set_target_properties(PkgConfig::pcre2 PROPERTIES
  INTERFACE_LINK_LIBRARIES ${RINGSERVE_ARCHIVE_pcre2-8})
# Debian 13's libcrypto.a compresses certificates with zstd and zlib.
find_library(RINGSERVE_ARCHIVE_zstd libzstd.a)
if(RINGSERVE_ARCHIVE_zstd)
  target_link_libraries(OpenSSL::Crypto INTERFACE ${RINGSERVE_ARCHIVE_zstd} ZLIB::ZLIB)
endif()

get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
foreach(target IN LISTS imported)
  foreach(property IMPORTED_LOCATION IMPORTED_LOCATION_NONE IMPORTED_LOCATION_RELEASE)
    get_target_property(location ${target} ${property})
    string(REGEX REPLACE "\\.so[.0-9]*$" ".a" archive "${location}")
    if(location MATCHES "\\.so[.0-9]*$" AND EXISTS "${archive}")
      set_target_properties(${target} PROPERTIES ${property} "${archive}")
    endif()
  endforeach()
endforeach()

# Highway has no archive and no use without its library, which is small: it travels with the
# program, in a folder of its own.
get_filename_component(hwy_file ${pkgcfg_lib_hwy_hwy} REALPATH)
string(REGEX MATCH "libhwy\\.so\\.[0-9]+" hwy_soname ${hwy_file})
install(FILES ${hwy_file} DESTINATION lib/ringserve RENAME ${hwy_soname})
set(CMAKE_INSTALL_RPATH "$ORIGIN/../lib/ringserve")

add_link_options(-static-libstdc++ -static-libgcc -Wl,--gc-sections -Wl,--as-needed)
