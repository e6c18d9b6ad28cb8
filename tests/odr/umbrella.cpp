// SPDX-License-Identifier: Apache-2.0
// A translation unit with the whole umbrella, compiled in several modes and linked into one program
// with umbrella_main.cpp.
#include "zerotune/zerotune.hpp"

float ZEROTUNE_UMBRELLA(float gamma);

float ZEROTUNE_UMBRELLA(float gamma) {
  float weights[8] = {0.5f, 0.25f, 0.125f, 0.125f, 0.5f, 0.25f, 0.125f, 0.125f};
  zerotune::rescale_weights(zerotune::tensor_view<float, 2>(weights, {2, 4}),
                            zerotune::initial_token{gamma}, {}, zerotune::serial_executor{});
  zerotune::thread_pool pool(2);
  zerotune::bias_logits(zerotune::tensor_view<float, 2>(weights + 4, {1, 4}),
                        zerotune::initial_token{gamma}, {}, pool);
  return weights[0];
}
