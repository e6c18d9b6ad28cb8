// SPDX-License-Identifier: Apache-2.0
// What a call throws, as text.
#pragma once

#include <initializer_list>
#include <string>

#include "zerotune/core/error.hpp"

namespace test {

/// The message of the invalid_argument that the call throws; "" if it returns.
template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const zerotune::invalid_argument& e) {
    return e.what();
  }
  return "";
}

/// True if the message holds every one of the parts.
inline bool mentions(const std::string& message, std::initializer_list<std::string> parts) {
  for (const std::string& part : parts)
    if (message.find(part) == std::string::npos) return false;
  return true;
}

}  // namespace test
