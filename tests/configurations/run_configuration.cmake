# SPDX-License-Identifier: Apache-2.0
# cmake -DSOURCE= -DBUILD= ... -P: configures, builds and runs the unit tests of some folders in one
# configuration. Fails if one of the three does.

include(ProcessorCount)
ProcessorCount(jobs)
if(jobs EQUAL 0)
  set(jobs 1)
endif()

set(definitions "")
if(NOT WITHOUT_OPENMP)
  set(WITHOUT_OPENMP OFF)
endif()
if(NOT EXAMPLES)
  set(EXAMPLES OFF)
endif()
if(NOT FEW_TYPES)
  set(FEW_TYPES OFF)
endif()
set(labels -L "^unit$" -LE "^long$")
if(EVERY_COMBINATION)
  set(labels -L "^(unit|random)$")
else()
  set(EVERY_COMBINATION OFF)
endif()
if(LAUNCHER)
  list(APPEND definitions "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}")
endif()
string(TOUPPER "${BUILD_TYPE}" type)
if(FLAGS)
  list(APPEND definitions "-DCMAKE_CXX_FLAGS_${type}=${FLAGS}")
endif()
if(NOT OPTIMIZATION)
  set(OPTIMIZATION -O1)
endif()
string(REPLACE ";" "\\;" layers "${LAYERS}")
string(REPLACE "," "\\;" architectures "${ARCHITECTURES}")
string(REPLACE "," "\\;" optimization "${OPTIMIZATION}")

function(step)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "failed: ${ARGV}")
  endif()
endfunction()

step("${CMAKE_COMMAND}" -S "${SOURCE}" -B "${BUILD}" -G "${GENERATOR}"
     "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_BUILD_TYPE=${BUILD_TYPE}" ${definitions}
     "-DZEROTUNE_TEST_LAYERS=${layers}" "-DZEROTUNE_TEST_ARCHITECTURES=${architectures}"
     "-DZEROTUNE_TEST_FILES=${FILES}" "-DZEROTUNE_TEST_OPTIMIZATION=${optimization}"
     -DZEROTUNE_TEST_STRUCTURE=OFF
     -DZEROTUNE_TEST_FEW_TYPES=${FEW_TYPES}
     -DZEROTUNE_TEST_EVERY_COMBINATION=${EVERY_COMBINATION}
     -DZEROTUNE_BUILD_BENCHMARKS=OFF -DZEROTUNE_BUILD_EXAMPLES=${EXAMPLES}
     -DCMAKE_DISABLE_FIND_PACKAGE_OpenMP=${WITHOUT_OPENMP})
step("${CMAKE_COMMAND}" --build "${BUILD}" --target zerotune_unit_tests --parallel ${jobs})
# The large model would take long under a sanitizer, and its tests run in the main build: by its
# variable, or among the public models.
step("${CMAKE_COMMAND}" -E env --unset=ZEROTUNE_MODEL_FILE TSAN_OPTIONS=halt_on_error=1
     "LSAN_OPTIONS=suppressions=${SOURCE}/tests/configurations/leaks_of_openmp.supp:print_suppressions=0"
     "${CMAKE_CTEST_COMMAND}" --test-dir "${BUILD}" --parallel ${jobs} --output-on-failure
     --no-tests=error ${labels}
     --exclude-regex "Products/S[mM]ol[lL][mM]2" --progress)
