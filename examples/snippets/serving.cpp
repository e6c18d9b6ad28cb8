// SPDX-License-Identifier: Apache-2.0
// A profile that `zerotune tune` wrote, read and used by an engine.
#include <cstdio>
#include <string>
#include <zerotune/tuning/json.hpp>

#include "problem.hpp"

int main() {
  problem p;
  namespace zt = zerotune;
  std::vector<float> tuned(p.q.size()), wanted(p.q.size());
  zt::tensor_view q(p.q.data(), {1, 4, 6, 8});
  zt::tensor_view k(p.k.data(), {1, 2, 6, 8});
  zt::tensor_view v(p.v.data(), {1, 2, 6, 8});
  zt::tensor_view out(tuned.data(), {1, 4, 6, 8});

  zt::tuning_profile made;
  made.model.layers = 2, made.model.heads = 4;
  made.gamma = zt::gamma_table(2, 4);
  for (int head = 0; head < 4; ++head)
    made.gamma(1, head) = p.gammas[static_cast<std::size_t>(head)];
  const std::string text = zt::write_profile(made);  // stands for the file's contents

  const int layer = 1;
  // [profile]
  // Once: the file's text, and what the engine knows of its model. What does not fit throws.
  const zt::tuning_profile profile = zt::read_profile(text, "profile.json");
  for (const std::string& warning : zt::check_profile(profile, {.layers = 2, .heads = 4}))
    std::fprintf(stderr, "%s\n", warning.c_str());
  // In each layer: a view, so the profile has to live as long.
  const zt::initial_token sink{profile.gamma.row(layer)};
  zt::attention(q, k, v, out, zt::causal{} | sink);
  // [/profile]

  const zt::initial_token direct(zt::tensor_view(p.gammas.data(), {4}));
  zt::attention(q, k, v, zt::tensor_view(wanted.data(), {1, 4, 6, 8}), zt::causal{} | direct);
  std::printf("difference %.2g\n", difference(tuned, wanted));
  return difference(tuned, wanted) == 0 ? 0 : 1;
}
