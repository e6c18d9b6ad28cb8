// SPDX-License-Identifier: Apache-2.0
// The front of the C interface: checks, threads, and exceptions turned into codes.
#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>

#include "call.hpp"
#include "zerotune/apply/attention_backward.hpp"
#include "zerotune/core/thread_pool.hpp"

namespace {

using namespace capi;

thread_local char last_error[512] = "";

void set_error(const char* message) { std::snprintf(last_error, sizeof last_error, "%s", message); }

/// Runs a call; nothing that it throws gets past here.
template <class Body>
int guarded(const Body& body) noexcept {
  set_error("");
  try {
    current_name();  // throws where the environment asks for what is not there
    body();
    return 0;
  } catch (const std::invalid_argument& e) {
    set_error(e.what());
    return ZT_INVALID_ARGUMENT;
  } catch (const std::bad_alloc&) {
    set_error("zerotune: out of memory");
    return ZT_OUT_OF_MEMORY;
  } catch (const std::exception& e) {
    set_error(e.what());
  } catch (...) {
    set_error("zerotune: unknown error");
  }
  return ZT_OTHER_ERROR;
}

/// Runs an operation. Workers take one task after the other; each has scratch memory of its own.
/// Returns the sum of the results.
std::int64_t run(const operation& op, const problem& p, std::int32_t threads) {
  const index_t wanted = threads > 1 ? threads : 1;
  const work w = op.plan(p, zerotune::impl::attention_tasks(static_cast<int>(wanted)));
  if (w.tasks == 0) return 0;
  const index_t workers = wanted < w.tasks ? wanted : w.tasks;
  constexpr index_t line = 64, most = index_t{1} << 48;
  if (w.scratch_bytes < 0 || w.scratch_bytes > most / workers) throw std::bad_alloc();
  const index_t slot = (w.scratch_bytes + line - 1) / line * line;
  const std::unique_ptr<std::byte[]> memory(
      new std::byte[static_cast<std::size_t>(workers * slot + line)]);
  std::byte* const first =
      memory.get() + (line - reinterpret_cast<std::intptr_t>(memory.get()) % line);
  std::atomic<index_t> next{0};
  std::atomic<std::int64_t> total{0};
  const auto work_off = [&](index_t worker) {
    for (index_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < w.tasks;)
      total += op.run(p, w, i, first + worker * slot);
  };
  if (workers == 1) {
    work_off(0);
  } else {
    zerotune::thread_pool pool(static_cast<int>(workers));
    pool.parallel_for(workers, work_off);
  }
  return total;
}

/// Memory of a call's own for a tensor, row-major, in another element type.
class copy {
 public:
  copy(const zt_tensor& like, std::int32_t dtype) : tensor_(like) {
    const index_t* const n = like.shape;
    index_t bytes = dtype == 1 ? 8 : 4;
    for (std::size_t i = 4; i-- > 0;) {
      tensor_.strides[i] = i == 3 ? 1 : tensor_.strides[i + 1] * n[i + 1];
      if (__builtin_mul_overflow(bytes, n[i], &bytes)) throw std::bad_alloc();
    }
    memory_.reset(new std::byte[static_cast<std::size_t>(bytes)]);
    tensor_.data = memory_.get();
    tensor_.dtype = dtype;
  }
  const zt_tensor& tensor() const { return tensor_; }

 private:
  zt_tensor tensor_;
  std::unique_ptr<std::byte[]> memory_;
};

/// to = from, of the same shape.
void convert(const zt_tensor& from, const zt_tensor& to, std::int32_t threads) {
  problem p{};
  p.q = from, p.out = to;
  p.batch = from.shape[0], p.num_heads = from.shape[1], p.q_len = from.shape[2];
  run(sums_for(from.dtype).convert, p, threads);
}

/// Calls body(float&, Copy&) for every element of an LSE in float32 and its copy.
template <class Copy, class Body>
void for_each_lse(const zt_tensor& narrow, const zt_tensor& copied, const Body& body) {
  auto* to = static_cast<Copy*>(copied.data);
  for (index_t b = 0; b < narrow.shape[0]; ++b)
    for (index_t h = 0; h < narrow.shape[1]; ++h)
      for (index_t i = 0; i < narrow.shape[2]; ++i)
        body(
            static_cast<float*>(
                narrow.data)[b * narrow.strides[0] + h * narrow.strides[1] + i * narrow.strides[2]],
            *to++);
}

/// Attention of a checked call, with copies of what its kernel does not take as it is.
void run_attention(problem p, std::int32_t threads) {
  if (p.batch == 0 || p.num_heads == 0 || p.q_len == 0) return;
  const type_kernels& use = kernels_for(p.k.dtype);
  const bool as_it_is = p.q.dtype == p.k.dtype && p.out.dtype == p.k.dtype;
  const std::int32_t sums = p.k.dtype == 1 ? 1 : 0, taken = as_it_is ? p.k.dtype : sums;
  const zt_tensor out = p.out, lse = p.lse;
  std::optional<copy> q_copy, out_copy, lse_copy;
  if (p.q.dtype != taken) {
    convert(p.q, q_copy.emplace(p.q, taken).tensor(), threads);
    p.q = q_copy->tensor();
  }
  if (out.dtype != taken) p.out = out_copy.emplace(out, taken).tensor();
  // The LSE of a copied output goes last too: what may fail comes before anything is written.
  if (lse.data && (lse.dtype != sums || out_copy)) p.lse = lse_copy.emplace(lse, sums).tensor();
  run(use.attention, p, threads);
  if (out_copy) convert(p.out, out, threads);
  if (!lse_copy) return;
  const auto store = [](float& to, auto x) { to = static_cast<float>(x); };
  if (sums == 1)
    for_each_lse<double>(lse, p.lse, store);
  else
    for_each_lse<float>(lse, p.lse, store);
}

constexpr const char* query_rows[4] = {"batch", "num_heads", "q_len", "1"};
constexpr const char* query_dims[4] = {"batch", "num_heads", "q_len", "head_dim"};
constexpr const char* output_dims[4] = {"batch", "num_heads", "q_len", "value_dim"};
constexpr const char* key_dims[4] = {"batch", "num_kv_heads", "kv_len", "head_dim"};
constexpr const char* value_dims[4] = {"batch", "num_kv_heads", "kv_len", "value_dim"};

}  // namespace

int zt_attention(const zt_tensor* q, const zt_tensor* k, const zt_tensor* v, zt_tensor* out,
                 zt_tensor* lse, const zt_options* given) {
  return guarded([&] {
    constexpr const char* function = "zt_attention";
    const zt_options options = read_options(function, given);
    call c(function);
    problem p{};
    c.queries_keys_values(&p, q, k, v);
    p.out = c.output("out", out, output_dims, {p.batch, p.num_heads, p.q_len, p.v.shape[3]});
    c.check_accumulator("out", p.out, p.k);
    if (lse) {
      p.lse = c.output("lse", lse, query_rows, {p.batch, p.num_heads, p.q_len, 1});
      c.check_lse(p.lse, p.k);
    }
    c.check_disjoint();
    c.check_options(&p, options, p.q.shape[3]);
    run_attention(p, options.threads);
  });
}

int zt_attention_backward(const zt_tensor* q, const zt_tensor* k, const zt_tensor* v,
                          const zt_tensor* out, const zt_tensor* lse, const zt_tensor* d_out,
                          zt_tensor* d_q, zt_tensor* d_k, zt_tensor* d_v, float* d_log_gamma,
                          const zt_options* given) {
  return guarded([&] {
    constexpr const char* function = "zt_attention_backward";
    const zt_options options = read_options(function, given);
    call c(function);
    problem p{};
    c.queries_keys_values(&p, q, k, v);
    const std::int64_t output_extents[4] = {p.batch, p.num_heads, p.q_len, p.v.shape[3]};
    p.out = c.input("out", out, output_dims, output_extents);
    p.lse = c.input("lse", lse, query_rows, {p.batch, p.num_heads, p.q_len, 1});
    p.d_out = c.input("d_out", d_out, output_dims, output_extents);
    p.d_q = c.output("d_q", d_q, query_dims, p.q.shape);
    p.d_k = c.output("d_k", d_k, key_dims, p.k.shape);
    p.d_v = c.output("d_v", d_v, value_dims, p.v.shape);
    c.check_lse(p.lse, p.k);
    c.check_accumulator("out", p.out, p.k);
    c.check_accumulator("d_out", p.d_out, p.k);
    c.check_accumulator("d_q", p.d_q, p.k);
    c.check_accumulator("d_k", p.d_k, p.k);
    c.check_accumulator("d_v", p.d_v, p.k);
    if (d_log_gamma) c.output("d_log_gamma", d_log_gamma, p.batch * p.num_heads);
    impl::backward_scratch_bytes<double>(function, {p.batch, p.num_heads, p.q_len, p.kv_len},
                                         p.num_kv_heads, p.q.shape[3],
                                         p.v.shape[3]);  // throws where sizes do not fit
    c.check_disjoint();
    c.check_options(&p, options, p.q.shape[3]);
    p.d_log_gamma = d_log_gamma;

    // Sums in float64 take the LSE as float64.
    std::optional<copy> wide;
    if (p.k.dtype == 1 && p.lse.dtype == 0) {
      const zt_tensor narrow = p.lse;
      p.lse = wide.emplace(narrow, 1).tensor();
      for_each_lse<double>(narrow, p.lse, [](float x, double& to) { to = static_cast<double>(x); });
    }
    run(sums_for(p.k.dtype).backward, p, options.threads);
  });
}

int zt_rescale_weights(zt_tensor* weights, const zt_options* given) {
  return guarded([&] {
    constexpr const char* function = "zt_rescale_weights";
    const zt_options options = read_options(function, given);
    call c(function);
    problem p{};
    p.weights =
        c.output("weights", weights, {"batch", "num_heads", "q_len", "kv_len"}, {-1, -1, -1, -1});
    p.batch = p.weights.shape[0], p.num_heads = p.weights.shape[1];
    p.q_len = p.weights.shape[2], p.kv_len = p.weights.shape[3];
    c.check_options(&p, options, 1);
    run(kernels_for(p.weights.dtype).rescale, p, options.threads);
  });
}

int zt_correct_output(zt_tensor* out, zt_tensor* lse, const zt_tensor* q, const zt_tensor* k,
                      const zt_tensor* v, const zt_options* given) {
  return guarded([&] {
    constexpr const char* function = "zt_correct_output";
    const zt_options options = read_options(function, given);
    call c(function);
    problem p{};
    c.queries_keys_values(&p, q, k, v);
    p.out = c.output("out", out, output_dims, {p.batch, p.num_heads, p.q_len, p.v.shape[3]});
    p.lse = c.output("lse", lse, query_rows, {p.batch, p.num_heads, p.q_len, 1});
    c.check_lse(p.lse, p.k);
    c.check_accumulator("out", p.out, p.k);
    c.check_disjoint();
    c.check_options(&p, options, p.q.shape[3]);
    const std::int64_t amplified = run(kernels_for(p.k.dtype).correct, p, options.threads);
    if (options.amplified_rows) *options.amplified_rows = amplified;
  });
}

const char* zt_last_error(void) { return last_error; }

const char* zt_instruction_set(void) {
  const char* name = nullptr;
  guarded([&] { name = current_name(); });
  return name;
}
