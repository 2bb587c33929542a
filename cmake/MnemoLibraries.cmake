# What every target of ours is compiled with, and the small libraries it uses.

add_library(mnemo_options INTERFACE)
target_compile_options(mnemo_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Werror -Wshadow=local -Wno-psabi>
  $<$<COMPILE_LANGUAGE:CXX>:-fno-math-errno>)   # so that sqrt vectorises; no other liberty with numbers
# GCC 12 sees overflows in inlined std::string concatenation that are not there (its bugs 105329, 105651)
target_compile_options(mnemo_options INTERFACE
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-stringop-overflow$<SEMICOLON>-Wno-array-bounds$<SEMICOLON>-Wno-restrict>)
if(MNEMO_SANITIZE)
  target_compile_options(mnemo_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${MNEMO_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(mnemo_options INTERFACE -fsanitize=${MNEMO_SANITIZE})
endif()
find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CCACHE}")
endif()

# the files under models/ops with vector code; chosen at run time, so that the rest of the program runs on any x86-64
set(MNEMO_KERNEL_OPTIONS -march=x86-64-v3 -ffp-contract=fast)

find_package(Threads REQUIRED)
find_path(MNEMO_YAML_INCLUDE yaml-cpp/yaml.h REQUIRED)
find_library(MNEMO_YAML NAMES libyaml-cpp.a yaml-cpp REQUIRED)   # the archive first: an installed prefix needs LibTorch alone
find_path(MNEMO_SPDLOG_INCLUDE spdlog/spdlog.h REQUIRED)
find_path(MNEMO_FMT_INCLUDE fmt/format.h REQUIRED)
find_path(MNEMO_XXHASH_INCLUDE xxhash.h REQUIRED)
find_path(MNEMO_RANDOM123_INCLUDE Random123/philox.h REQUIRED)
find_path(MNEMO_JSON_INCLUDE nlohmann/json.hpp REQUIRED)
find_path(MNEMO_CLI11_INCLUDE CLI/CLI.hpp REQUIRED)

# LibTorch's include folder carries another fmt, which would shadow the one spdlog was made for. A folder that holds
# nothing but a link to the right one goes first.
file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/fmt_first")
file(CREATE_LINK "${MNEMO_FMT_INCLUDE}/fmt" "${PROJECT_BINARY_DIR}/fmt_first/fmt" SYMBOLIC)

add_library(mnemo_third_party INTERFACE)
target_include_directories(mnemo_third_party SYSTEM BEFORE INTERFACE "${PROJECT_BINARY_DIR}/fmt_first")
target_include_directories(mnemo_third_party SYSTEM INTERFACE
  ${MNEMO_YAML_INCLUDE} ${MNEMO_SPDLOG_INCLUDE} ${MNEMO_XXHASH_INCLUDE} ${MNEMO_RANDOM123_INCLUDE} ${MNEMO_JSON_INCLUDE}
  ${MNEMO_CLI11_INCLUDE})
target_compile_definitions(mnemo_third_party INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:FMT_HEADER_ONLY> $<$<COMPILE_LANGUAGE:CXX>:SPDLOG_FMT_EXTERNAL> $<$<COMPILE_LANGUAGE:CXX>:XXH_INLINE_ALL>)
target_link_libraries(mnemo_third_party INTERFACE ${MNEMO_YAML} Threads::Threads)
