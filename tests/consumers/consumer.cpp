// SPDX-License-Identifier: Apache-2.0
// What somebody writes who uses the core of the library: compiled by every kind of consumer, with
// strict warnings, without exceptions, with -ffast-math. Exit status 0 if all is right.
#include <zerotune/zerotune.hpp>

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace zt = zerotune;

namespace {

int failures = 0;

void expect_close(const char* what, float got, float expected) {
  if (std::fabs(got - expected) < 1e-6f) return;
  std::printf("%s: expected %g, got %g\n", what, static_cast<double>(expected),
              static_cast<double>(got));
  ++failures;
}

struct distance_penalty {
  float slope;
  template <class Batch>
  Batch log_bias(zt::row r, Batch kv_pos) const {
    return Batch(-slope) * (Batch(static_cast<float>(r.q_pos)) - kv_pos);
  }
  zt::tile_effect effect(int, zt::range, zt::range) const { return zt::tile_effect::apply; }
};

}  // namespace

int main() {
  float weights[4] = {0.5f, 0.25f, 0.125f, 0.125f};
  zt::rescale_weights(zt::tensor_view<float, 2>(weights, {1, 4}), zt::initial_token{2.0f});
  expect_close("weights", weights[0], 2.0f / 3.0f);
  expect_close("weights", weights[1], 1.0f / 6.0f);

  float logits[3] = {1.0f, 2.0f, 3.0f};
  const float gamma[1] = {0.5f};
  zt::bias_logits(zt::tensor_view<float, 2>(logits, {1, 3}),
                  zt::initial_token{zt::tensor_view<const float, 1>(gamma, {1})});
  expect_close("logits", logits[0], 1.0f + std::log(0.5f));

  float mask[4];
  zt::fill_mask(zt::tensor_view<float, 2>(mask, {2, 2}), zt::causal{} | zt::initial_token{3.0f});
  expect_close("mask", mask[2], std::log(3.0f));
  if (!(mask[1] < -1e37f)) ++failures;

  const float q[2] = {1.0f, 0.0f}, k[4] = {0.0f, 0.0f, 0.0f, 0.0f}, v[4] = {1.0f, 2.0f, 4.0f, 8.0f};
  float out[2];
  zt::attention(zt::tensor_view<const float, 4>(q, {1, 1, 1, 2}),
                zt::tensor_view<const float, 4>(k, {1, 1, 2, 2}),
                zt::tensor_view<const float, 4>(v, {1, 1, 2, 2}),
                zt::tensor_view<float, 4>(out, {1, 1, 1, 2}), zt::causal{} | zt::initial_token{3.0f},
                {.softmax_scale = 1.0f});
  expect_close("attention", out[0], 0.75f * 1.0f + 0.25f * 4.0f);
  expect_close("attention", out[1], 0.75f * 2.0f + 0.25f * 8.0f);

  float penalised[2] = {0.0f, 0.0f};
  zt::bias_logits(zt::tensor_view<float, 2>(penalised, {1, 2}), distance_penalty{0.5f});
  expect_close("own modifier", penalised[0], -0.5f);

  // A gamma that is no gamma is refused, before anything is written.
#if ZEROTUNE_EXCEPTIONS
  try {
    zt::rescale_weights(zt::tensor_view<float, 2>(weights, {1, 4}), zt::initial_token{-1.0f});
    ++failures;
  } catch (const zt::invalid_argument& error) {
    std::printf("refused: %s\n", error.what());
  }
  expect_close("weights", weights[0], 2.0f / 3.0f);
  return failures;
#else
  zt::set_error_handler([](const char* message) {
    std::printf("refused: %s\n", message);
    std::exit(failures);
  });
  zt::rescale_weights(zt::tensor_view<float, 2>(weights, {1, 4}), zt::initial_token{-1.0f});
  return failures + 1;
#endif
}
