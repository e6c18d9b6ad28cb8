// SPDX-License-Identifier: Apache-2.0
// Everything that needs no third-party library: policies, the seven forms on the scalar back end,
// analysis and tuning. Other back ends: zerotune/kernel/simd/simd.hpp,
// zerotune/kernel/eigen/eigen.hpp; profiles as JSON: zerotune/tuning/json.hpp.
#pragma once

#include "zerotune/analysis/key_scale.hpp"
#include "zerotune/analysis/sensitivity.hpp"
#include "zerotune/analysis/sink_mass.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/keys.hpp"
#include "zerotune/apply/logits.hpp"
#include "zerotune/apply/mask.hpp"
#include "zerotune/apply/output.hpp"
#include "zerotune/apply/weights.hpp"
#include "zerotune/core/thread_pool.hpp"
#include "zerotune/core/version.hpp"
#include "zerotune/policy/alibi.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/identity.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/key_scale.hpp"
#include "zerotune/policy/masks.hpp"
#include "zerotune/policy/softcap.hpp"
#include "zerotune/policy/token_span.hpp"
