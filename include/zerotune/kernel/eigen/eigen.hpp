// SPDX-License-Identifier: Apache-2.0
// The Eigen back end: include this and pass backend::eigen{} (layer: kernel). float and double; it
// has no attention of its own. Eigen's functions carry no tag of the instruction set: compile all
// translation units that use it alike.
#pragma once

#include "zerotune/kernel/eigen/row_ops.hpp"
