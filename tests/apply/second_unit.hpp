// SPDX-License-Identifier: Apache-2.0
// What second_unit.cpp does, to be compared with the same in another translation unit.
#pragma once

#include <vector>

std::vector<float> attention_of_the_second_unit();
const void* handler_of_the_second_unit();
