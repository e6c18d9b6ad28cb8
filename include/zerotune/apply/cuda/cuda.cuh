// SPDX-License-Identifier: Apache-2.0
// The CUDA back end (layer: apply): include it in a file that nvcc or clang compiles as CUDA, and
// call the same functions with backend::cuda{stream} and views of device memory. docs/cuda.md.
#pragma once

#include "zerotune/apply/cuda/attention.cuh"
#include "zerotune/apply/cuda/forms.cuh"
#include "zerotune/apply/cuda/keys.cuh"
#include "zerotune/apply/cuda/output.cuh"
#include "zerotune/kernel/cuda/cuda_launcher.cuh"
#include "zerotune/policy/alibi.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/identity.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#include "zerotune/policy/softcap.hpp"
#include "zerotune/policy/token_span.hpp"
