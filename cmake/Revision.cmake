# generated/revision.h: version and git revision, looked at in each build, written when they change.
file(WRITE "${PROJECT_BINARY_DIR}/revision.cmake" [[
cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND git describe --always --dirty --abbrev=12 WORKING_DIRECTORY "${SOURCE}"
  OUTPUT_VARIABLE revision OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT revision)
  set(revision "unknown")
endif()
file(CONFIGURE OUTPUT "${BINARY}/generated/revision.h" CONTENT
"#pragma once
#define MNEMO_VERSION \"@VERSION@\"
#define MNEMO_REVISION \"@revision@\"
" @ONLY)
]])
add_custom_target(revision
  BYPRODUCTS "${PROJECT_BINARY_DIR}/generated/revision.h"
  COMMAND ${CMAKE_COMMAND} -DSOURCE=${PROJECT_SOURCE_DIR} -DBINARY=${PROJECT_BINARY_DIR} -DVERSION=${PROJECT_VERSION}
    -P "${PROJECT_BINARY_DIR}/revision.cmake" VERBATIM)
