// SPDX-License-Identifier: Apache-2.0
// The parts of an example's loss that depend on its choices' log-likelihoods alone.
#pragma once

#include <span>
#include <vector>

#include "zerotune/tuning/evaluator.hpp"

namespace zerotune_cli {

using zerotune::index_t;

/// Whether a loss needs every choice's log-likelihood; if not, a supervised one needs the right
/// choice's.
bool needs_all_choices(const zerotune::loss_weights& weights);

/// A loss and its derivative with respect to each choice's log-likelihood.
struct choice_loss {
  double value = 0;
  std::vector<double> slope;  ///< [choices]
};

/// -log of the right choice's share, -log-likelihood of the right choice and the entropy over the
/// choices, weighted.
/// @param loglik  [choices]; of choices that the loss does not need, anything
/// @param label   the right choice; read if the loss is supervised
choice_loss loss_of_choices(const zerotune::loss_weights& weights, std::span<const double> loglik,
                            index_t label);

}  // namespace zerotune_cli
