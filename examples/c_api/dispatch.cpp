// SPDX-License-Identifier: Apache-2.0
// Which kernels are used: the best that the CPU runs, or lower ones by the environment.
#include "kernels.hpp"
#include "zerotune_c_bfloat16_dispatch.hpp"
#include "zerotune_c_double_dispatch.hpp"
#include "zerotune_c_float16_dispatch.hpp"
#include "zerotune_c_float_dispatch.hpp"
#include "zerotune_c_sum_double_dispatch.hpp"
#include "zerotune_c_sum_float_dispatch.hpp"

namespace capi {
namespace {

struct choice {
  const char* name;  // of bfloat16's: no other type has more sets
  type_kernels types[4];
  sum_kernels sums[2];
};

const choice& chosen() {
  static const choice once = [] {
    const zerotune::instruction_set allowed = zerotune::allowed_instruction_set();
    return choice{zerotune::name_of(zerotune_c_bfloat16_set(allowed)),
                  {zerotune_c_float_for(allowed)(), zerotune_c_double_for(allowed)(),
                   zerotune_c_float16_for(allowed)(), zerotune_c_bfloat16_for(allowed)()},
                  {zerotune_c_sum_float_for(allowed)(), zerotune_c_sum_double_for(allowed)()}};
  }();
  return once;
}

}  // namespace

const type_kernels& kernels_for(std::int32_t dtype) { return chosen().types[dtype]; }
const sum_kernels& sums_for(std::int32_t dtype) { return chosen().sums[dtype == 1 ? 1 : 0]; }
const char* current_name() { return chosen().name; }

}  // namespace capi
