// SPDX-License-Identifier: Apache-2.0
// One call of the C interface: its arguments checked, with the messages of the C++ library.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#include "zerotune/policy/softcap.hpp"

namespace capi {

namespace impl = zerotune::impl;
using zerotune::index_t;

/// The caller's options over the defaults.
/// @throws invalid_argument for a size that cannot be, or for a longer struct that is not zero
/// beyond
///         what is known
inline zt_options read_options(const char* function, const zt_options* given) {
  zt_options options{};
  options.size = sizeof(zt_options);
  if (!given) return options;
  std::uint64_t size = 0;
  std::memcpy(&size, given, sizeof size);
  if (size < sizeof size || size > 4096)
    impl::fail(function, "options size", "sizeof(zt_options)", std::to_string(size));
  const auto* const bytes = reinterpret_cast<const unsigned char*>(given);
  const auto take = [&](auto& field) {
    const auto offset = static_cast<std::size_t>(reinterpret_cast<unsigned char*>(&field) -
                                                 reinterpret_cast<unsigned char*>(&options));
    if (offset + sizeof field <= size) std::memcpy(&field, bytes + offset, sizeof field);
  };
  take(options.softmax_scale), take(options.softcap), take(options.causal), take(options.threads);
  take(options.window), take(options.gamma), take(options.initial_pos), take(options.min_d);
  take(options.amplified_rows);
  for (std::size_t i = sizeof(zt_options); i < size; ++i)
    if (bytes[i] != 0)
      impl::fail(function, "options size",
                 std::to_string(sizeof(zt_options)) + ", or zeros beyond what this version knows",
                 std::to_string(size));
  return options;
}

/// Collects the tensors of a call, then checks that no output overlaps anything.
class call {
 public:
  explicit call(const char* function) : function_(function) {}

  /// A tensor that is read. Extents of -1 may be anything.
  zt_tensor input(const char* name, const zt_tensor* t, const char* const (&dims)[4],
                  const std::int64_t (&extents)[4]) {
    return add(name, t, dims, extents, false);
  }
  /// A tensor that is written.
  zt_tensor output(const char* name, const zt_tensor* t, const char* const (&dims)[4],
                   const std::int64_t (&extents)[4]) {
    return add(name, t, dims, extents, true);
  }
  /// Numbers side by side that are written.
  void output(const char* name, const float* data, index_t count) {
    const zerotune::tensor_view<const float, 1> view(data, {count});
    memory_.push_back({name, impl::check_memory(function_, name, view), true});
  }

  void check_disjoint() const {
    for (std::size_t i = 0; i < memory_.size(); ++i)
      for (std::size_t j = 0; j < memory_.size(); ++j)
        if (memory_[i].written && i != j && (j < i || !memory_[j].written))
          impl::check_disjoint(function_, memory_[i].name, memory_[i].bytes, memory_[j].name,
                               memory_[j].bytes);
  }

  /// float64 goes with float64 only.
  void check_accumulator(const char* name, const zt_tensor& t, const zt_tensor& k) const {
    if ((t.dtype == 1) != (k.dtype == 1))
      impl::fail(function_, std::string(name) + " dtype",
                 k.dtype == 1 ? "1 (float64, as k)" : "0, 2 or 3 (k is not float64)",
                 std::to_string(t.dtype));
  }
  void check_same_type(const char* name, const zt_tensor& t, const zt_tensor& k) const {
    if (t.dtype != k.dtype)
      impl::fail(function_, std::string(name) + " dtype", std::to_string(k.dtype) + " (as k)",
                 std::to_string(t.dtype));
  }
  /// float32, or float64 beside float64.
  void check_lse(const zt_tensor& lse, const zt_tensor& k) const {
    if (lse.dtype != 0 && !(lse.dtype == 1 && k.dtype == 1))
      impl::fail(function_, "lse dtype", k.dtype == 1 ? "0 or 1" : "0", std::to_string(lse.dtype));
  }

  [[noreturn]] void refuse_dim(const char* what, std::int64_t dim) const {
    impl::fail(function_, what, "at most 2^40", std::to_string(dim));
  }

  /// q, k and v against one another; fills the shape of `p`.
  void queries_keys_values(problem* p, const zt_tensor* q, const zt_tensor* k, const zt_tensor* v) {
    p->q = input("q", q, {"batch", "num_heads", "q_len", "head_dim"}, {-1, -1, -1, -1});
    p->k = input("k", k, {"batch", "num_kv_heads", "kv_len", "head_dim"},
                 {p->q.shape[0], -1, -1, p->q.shape[3]});
    p->v = input("v", v, {"batch", "num_kv_heads", "kv_len", "value_dim"},
                 {p->q.shape[0], p->k.shape[1], p->k.shape[2], -1});
    check_same_type("v", p->v, p->k);
    check_accumulator("q", p->q, p->k);
    if (p->q.shape[3] < 1) impl::fail(function_, "q dim 3 (head_dim)", "at least 1", "0");
    if (p->v.shape[3] < 1) impl::fail(function_, "v dim 3 (value_dim)", "at least 1", "0");
    if (p->k.shape[1] < 1 || p->q.shape[1] % p->k.shape[1] != 0)
      impl::fail(function_, "q dim 1 (num_heads)",
                 "a multiple of num_kv_heads = " + std::to_string(p->k.shape[1]),
                 std::to_string(p->q.shape[1]));
    // Scratch memory grows with these; a tensor without elements may have any.
    constexpr index_t most = index_t{1} << 40;
    if (p->q.shape[3] > most) refuse_dim("q dim 3 (head_dim)", p->q.shape[3]);
    if (p->v.shape[3] > most) refuse_dim("v dim 3 (value_dim)", p->v.shape[3]);
    p->batch = p->q.shape[0], p->num_heads = p->q.shape[1], p->num_kv_heads = p->k.shape[1];
    p->q_len = p->q.shape[2], p->kv_len = p->k.shape[2];
  }

  void check_options(problem* p, const zt_options& o, index_t head_dim) const {
    const zerotune::attention_shape shape{p->batch, p->num_heads, p->q_len, p->kv_len};
    impl::check_scale(function_, static_cast<double>(o.softmax_scale));
    if (o.softcap != 0.0f) zerotune::softcap{o.softcap}.check(function_, shape);
    if (o.window < 0 || o.window > zerotune::everywhere.end)
      impl::fail(function_, "window", "at least 1, or 0 for all", std::to_string(o.window));
    if (o.threads < 0 || o.threads > max_threads)
      impl::fail(function_, "threads", "at most " + std::to_string(max_threads) + ", or 0 for 1",
                 std::to_string(o.threads));
    if (!impl::is_finite(o.min_d) || o.min_d < 0.0f)
      impl::fail(function_, "min_d", "a finite value >= 0", std::to_string(o.min_d));
    if (o.gamma)
      zerotune::initial_token{zerotune::tensor_view<const float, 1>(o.gamma, {p->num_heads})}.check(
          function_, shape);
    if (o.initial_pos)
      impl::check_positions(function_, {o.initial_pos, {p->batch}}, p->batch, p->kv_len);
    p->softmax_scale = o.softmax_scale != 0.0f ? static_cast<double>(o.softmax_scale)
                                               : 1 / std::sqrt(static_cast<double>(head_dim));
    p->min_d = o.min_d != 0.0f ? static_cast<double>(o.min_d) : 1e-3;
    const zerotune::attention_plan plan = zerotune::plan_attention();
    p->score_bytes = plan.score_bytes, p->task_bytes = plan.task_bytes;
    p->kept_bytes = plan.kept_bytes;
    p->softcap = o.softcap;
    p->causal = o.causal != 0;
    p->window = o.window;
    p->gamma = o.gamma;
    p->initial_pos = o.initial_pos;
  }

 private:
  static constexpr std::int32_t max_threads = 4096;
  struct piece {
    const char* name;
    impl::footprint bytes;
    bool written;
  };

  template <class T>
  impl::footprint footprint_of(const char* name, const zt_tensor& t, bool written) const {
    const zerotune::tensor_view<const T, 4> view(
        static_cast<const T*>(t.data), {t.shape[0], t.shape[1], t.shape[2], t.shape[3]},
        {t.strides[0], t.strides[1], t.strides[2], t.strides[3]});
    return written ? impl::check_output(function_, name, view)
                   : impl::check_memory(function_, name, view);
  }

  zt_tensor add(const char* name, const zt_tensor* t, const char* const (&dims)[4],
                const std::int64_t (&extents)[4], bool written) {
    if (!t) impl::fail(function_, name, "a tensor", "NULL");
    for (std::size_t i = 0; i < 4; ++i)
      if (extents[i] >= 0 && t->shape[i] != extents[i])
        impl::fail(function_,
                   std::string(name) + " dim " + std::to_string(i) + " (" + dims[i] + ")",
                   std::to_string(extents[i]), std::to_string(t->shape[i]));
    impl::footprint bytes;
    switch (t->dtype) {
      case 0:
        bytes = footprint_of<float>(name, *t, written);
        break;
      case 1:
        bytes = footprint_of<double>(name, *t, written);
        break;
      case 2:
        bytes = footprint_of<zerotune::float16>(name, *t, written);
        break;
      case 3:
        bytes = footprint_of<zerotune::bfloat16>(name, *t, written);
        break;
      default:
        impl::fail(function_, std::string(name) + " dtype", "0, 1, 2 or 3",
                   std::to_string(t->dtype));
    }
    memory_.push_back({name, bytes, written});
    return *t;
  }

  const char* function_;
  std::vector<piece> memory_;
};

}  // namespace capi
