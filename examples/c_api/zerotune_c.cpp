// SPDX-License-Identifier: Apache-2.0
// The front of the C interface: checks, threads, and exceptions turned into codes.
#include <atomic>
#include <cstdio>
#include <optional>

#include "call.hpp"
#include "zerotune/core/thread_pool.hpp"

namespace {

using namespace zt_c;

thread_local char last_error[512] = "";

void set_error(const char* message) { std::snprintf(last_error, sizeof last_error, "%s", message); }

/// Runs a call; nothing that it throws gets past here.
template <class Body>
int guarded(const Body& body) noexcept {
  set_error("");
  try {
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

/// Runs an operation on the blocks [heads, rows] of every batch entry. Workers take one block after
/// the other; each has scratch memory of its own. Returns the sum of the results.
std::int64_t run_blocks(const operation& op, const problem& p, std::int32_t threads, index_t heads,
                        index_t rows, index_t rows_per_block) {
  const index_t blocks = (rows + rows_per_block - 1) / rows_per_block;
  const index_t count = p.batch * heads * blocks;
  if (count == 0) return 0;
  const index_t wanted = threads > 1 ? threads : 1;
  const index_t workers = wanted < count ? wanted : count;
  const index_t scratch = op.scratch(p);
  if (scratch < 0 || scratch > (index_t{1} << 48) / workers) throw std::bad_alloc();
  const std::unique_ptr<double[]> memory(new double[static_cast<std::size_t>(workers * scratch)]);
  std::atomic<index_t> next{0};
  std::atomic<std::int64_t> total{0};
  const auto work = [&](index_t worker) {
    for (index_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      const index_t first = i % blocks * rows_per_block;
      const index_t last = first + rows_per_block < rows ? first + rows_per_block : rows;
      total += op.run(p, {i / blocks / heads, i / blocks % heads, first, last},
                      memory.get() + worker * scratch);
    }
  };
  if (workers == 1) {
    work(0);
  } else {
    zerotune::thread_pool pool(static_cast<int>(workers));
    pool.parallel_for(workers, work);
  }
  return total;
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
    const kernels& use = current_kernels();
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
    run_blocks(use.attention, p, options.threads, p.num_heads, p.q_len, block_rows);
  });
}

int zt_attention_backward(const zt_tensor* q, const zt_tensor* k, const zt_tensor* v,
                          const zt_tensor* out, const zt_tensor* lse, const zt_tensor* d_out,
                          zt_tensor* d_q, zt_tensor* d_k, zt_tensor* d_v, float* d_log_gamma,
                          const zt_options* given) {
  return guarded([&] {
    constexpr const char* function = "zt_attention_backward";
    const kernels& use = current_kernels();
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
    c.check_disjoint();
    c.check_options(&p, options, p.q.shape[3]);
    p.d_log_gamma = d_log_gamma;

    // Sums in float64 take the LSE as float64.
    std::vector<double> wide;
    if (p.k.dtype == 1 && p.lse.dtype == 0) {
      const index_t heads = p.num_heads, rows = p.q_len;
      wide.reserve(static_cast<std::size_t>(p.batch * heads * rows));
      for (index_t b = 0; b < p.batch; ++b)
        for (index_t h = 0; h < heads; ++h)
          for (index_t i = 0; i < rows; ++i)
            wide.push_back(static_cast<double>(static_cast<const float*>(
                p.lse.data)[b * p.lse.strides[0] + h * p.lse.strides[1] + i * p.lse.strides[2]]));
      p.lse.data = wide.data();
      p.lse.strides[0] = heads * rows, p.lse.strides[1] = rows, p.lse.strides[2] = 1;
    }
    run_blocks(use.backward, p, options.threads, p.num_kv_heads, 1, 1);
  });
}

int zt_rescale_weights(zt_tensor* weights, const zt_options* given) {
  return guarded([&] {
    constexpr const char* function = "zt_rescale_weights";
    const kernels& use = current_kernels();
    const zt_options options = read_options(function, given);
    call c(function);
    problem p{};
    p.weights =
        c.output("weights", weights, {"batch", "num_heads", "q_len", "kv_len"}, {-1, -1, -1, -1});
    p.batch = p.weights.shape[0], p.num_heads = p.weights.shape[1];
    p.q_len = p.weights.shape[2], p.kv_len = p.weights.shape[3];
    c.check_options(&p, options, 1);
    run_blocks(use.rescale, p, options.threads, p.num_heads, p.q_len, block_rows);
  });
}

int zt_correct_output(zt_tensor* out, zt_tensor* lse, const zt_tensor* q, const zt_tensor* k,
                      const zt_tensor* v, const zt_options* given) {
  return guarded([&] {
    constexpr const char* function = "zt_correct_output";
    const kernels& use = current_kernels();
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
    const std::int64_t amplified =
        run_blocks(use.correct, p, options.threads, p.num_heads, p.q_len, block_rows);
    if (options.amplified_rows) *options.amplified_rows = amplified;
  });
}

const char* zt_last_error(void) { return last_error; }

const char* zt_instruction_set(void) {
  const char* name = nullptr;
  guarded([&] { name = current_name(); });
  return name;
}
