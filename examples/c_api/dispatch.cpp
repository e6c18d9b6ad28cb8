// SPDX-License-Identifier: Apache-2.0
// Which kernels are used: the best that the CPU runs, or lower ones by the environment.
#include "kernels.hpp"
#include "zerotune_c_kernels_dispatch.hpp"

namespace zt_c {
namespace {

struct choice {
  zerotune::instruction_set set;
  kernels functions;
};

const choice& chosen() {
  static const choice once = [] {
    const zerotune::instruction_set allowed = zerotune::allowed_instruction_set();
    return choice{zerotune_c_kernels_set(allowed), zerotune_c_kernels_for(allowed)()};
  }();
  return once;
}

}  // namespace

const kernels& current_kernels() { return chosen().functions; }
const char* current_name() { return zerotune::name_of(chosen().set); }

}  // namespace zt_c
