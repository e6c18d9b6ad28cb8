// SPDX-License-Identifier: Apache-2.0
// ggml's attention as a multiple of zerotune's time, in one process: its fused operator, and two
// products with a softmax between them. gamma goes into its mask.
//
//   benchmark_ggml                          ratios, then Google Benchmark's table
//   benchmark_ggml --benchmark_filter=none  ratios alone
#include <benchmark/benchmark.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <limits>

#include "../attention_case.hpp"
#include "zerotune/apply/decode.hpp"
#include "zerotune/kernel/simd/decode.hpp"

namespace {

namespace zt = zerotune;
using bench::index_t;

constexpr bench::shape shapes[] = {{512, 512, 64, 8, 8},    {512, 512, 128, 8, 8},
                                   {512, 512, 128, 32, 8},  {2048, 2048, 64, 8, 8},
                                   {2048, 2048, 128, 8, 8}, {2048, 2048, 128, 32, 8},
                                   {4096, 4096, 64, 8, 8},  {4096, 4096, 128, 8, 8},
                                   {1, 4096, 128, 32, 8},   {1, 16384, 128, 32, 8}};
constexpr float gamma = 2.71828183f;  // its logarithm is 1: exact in the mask's float16

template <class T>
constexpr ggml_type ggml_type_of = GGML_TYPE_F32;
template <>
constexpr ggml_type ggml_type_of<zt::float16> = GGML_TYPE_F16;

/// zerotune's side: queries and output in float, keys and values in T, as ggml has them.
template <class T>
class ours {
 public:
  explicit ours(const bench::shape& s)
      : q(s.heads, s.q_len, s.head_dim, 1),
        k(s.kv_heads, s.kv_len, s.head_dim, 2),
        v(s.kv_heads, s.kv_len, s.head_dim, 3),
        out(s.heads, s.q_len, s.head_dim, 4),
        is_decode_(s.q_len == 1),
        scratch_(static_cast<std::size_t>(zt::attention_decode_workspace_bytes(
            {1, s.heads, s.q_len, s.kv_len}, s.kv_heads, s.head_dim, s.head_dim))) {
    options_.plan = zt::plan_attention();
    workspace_.resize(static_cast<std::size_t>(zt::attention_workspace_bytes(
        zt::backend::simd<>{}, q.read(), k.read(), v.read(), out.view(), options_.plan)));
    if (!workspace_.empty()) options_.workspace = zt::view_of(workspace_);
  }
  void run() {
    const auto modifier = zt::causal{} | zt::initial_token{gamma};
    if (is_decode_)
      zt::attention_decode(zt::backend::simd<>{}, q.read(), k.read(), v.read(), out.view(),
                           modifier, {.workspace = zt::view_of(scratch_)});
    else
      zt::attention(zt::backend::simd<>{}, q.read(), k.read(), v.read(), out.view(), modifier,
                    options_);
  }

  bench::tensor<float> q;
  bench::tensor<T> k, v;
  bench::tensor<float> out;

 private:
  bool is_decode_;
  zt::attention_options<float> options_;
  std::vector<std::byte> workspace_;
  std::vector<std::byte> scratch_;
};

/// A graph of ggml for the same tensors.
class graph {
 public:
  enum class kind { fused, products };

  template <class T>
  graph(const bench::shape& s, const ours<T>& tensors, kind wanted)
      : context_(ggml_init({memory_size(s), nullptr, false})), shape_(s), kind_(wanted) {
    ggml_tensor* const q = copy(tensors.q, GGML_TYPE_F32, s.q_len, s.heads);
    ggml_tensor* const k = copy(tensors.k, ggml_type_of<T>, s.kv_len, s.kv_heads);
    ggml_tensor* const v = copy(tensors.v, ggml_type_of<T>, s.kv_len, s.kv_heads);
    ggml_tensor* const mask = make_mask();
    const float scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
    if (wanted == kind::fused) {
      result_ = ggml_flash_attn_ext(context_, q, k, v, mask, scale, 0.0f, 0.0f);
    } else {
      // Values are kept transposed by hosts that attend in this way: not a part of the time.
      ggml_tensor* const v_t = ggml_cont(context_, ggml_transpose(context_, v));
      compute(v_t);
      ggml_tensor* const stored = ggml_new_tensor(context_, v_t->type, 4, v_t->ne);
      std::memcpy(stored->data, v_t->data, ggml_nbytes(v_t));
      ggml_tensor* const logits = ggml_mul_mat(context_, k, q);
      ggml_tensor* const weights = ggml_soft_max_ext(context_, logits, mask, scale, 0.0f);
      result_ = ggml_mul_mat(context_, stored, weights);
    }
    graph_ = ggml_new_graph(context_);
    ggml_build_forward_expand(graph_, result_);
    plan_ = ggml_graph_plan(graph_, 1, nullptr);
    work_.resize(plan_.work_size);
    plan_.work_data = work_.data();
  }
  graph(const graph&) = delete;
  graph& operator=(const graph&) = delete;
  ~graph() { ggml_free(context_); }

  void run() { ggml_graph_compute(graph_, &plan_); }

  /// The fused operator gives [q_len, heads, head_dim], the products [heads, q_len, head_dim].
  float at(index_t head, index_t row, index_t column) const {
    const index_t i = kind_ == kind::fused ? row * shape_.heads + head : head * shape_.q_len + row;
    return static_cast<const float*>(result_->data)[i * shape_.head_dim + column];
  }

 private:
  static std::size_t memory_size(const bench::shape& s) {
    const index_t numbers = 4 * (s.q_len * s.heads + 3 * s.kv_len * s.kv_heads) * s.head_dim +
                            (2 * s.heads + 1) * s.q_len * s.kv_len;
    return static_cast<std::size_t>(numbers) * sizeof(float) + (std::size_t{64} << 20);
  }
  template <class T>
  ggml_tensor* copy(const bench::tensor<T>& from, ggml_type type, index_t rows, index_t heads) {
    ggml_tensor* const t = ggml_new_tensor_3d(context_, type, shape_.head_dim, rows, heads);
    std::memcpy(t->data, from.data(), from.bytes());
    return t;
  }
  ggml_tensor* make_mask() {
    ggml_tensor* const mask =
        ggml_new_tensor_2d(context_, GGML_TYPE_F16, shape_.kv_len, shape_.q_len);
    auto* to = static_cast<ggml_fp16_t*>(mask->data);
    const index_t before = shape_.kv_len - shape_.q_len;
    for (index_t i = 0; i < shape_.q_len; ++i)
      for (index_t j = 0; j < shape_.kv_len; ++j)
        *to++ = ggml_fp32_to_fp16(j > before + i ? -std::numeric_limits<float>::infinity()
                                  : j == 0       ? 1.0f
                                                 : 0.0f);
    return mask;
  }
  void compute(ggml_tensor* wanted) {
    ggml_cgraph* const once = ggml_new_graph(context_);
    ggml_build_forward_expand(once, wanted);
    ggml_graph_compute_with_ctx(context_, once, 1);
  }

  ggml_context* context_;
  bench::shape shape_;
  kind kind_;
  ggml_tensor* result_ = nullptr;
  ggml_cgraph* graph_ = nullptr;
  ggml_cplan plan_{};
  std::vector<std::uint8_t> work_;
};

/// ggml rounds queries to float16 where keys are, and adds up its fused outputs in it.
template <class T>
constexpr float tolerance = std::is_same_v<T, float> ? 5e-5f : 2e-2f;

template <class T>
bool same(const bench::shape& s, const ours<T>& a, const graph& b) {
  for (index_t h = 0; h < s.heads; ++h)
    for (index_t i = 0; i < s.q_len; ++i)
      for (index_t c = 0; c < s.head_dim; ++c)
        if (!(std::abs(static_cast<float>(a.out.at(h, i, c)) - b.at(h, i, c)) <= tolerance<T>))
          return false;
  return true;
}

template <class T>
bool print_ratios(const char* type, const bench::shape& s) {
  ours<T> a(s);
  a.run();
  std::printf("%s %s:", type, s.name().c_str());
  const char* separator = "";
  for (const graph::kind kind : {graph::kind::fused, graph::kind::products}) {
    graph b(s, a, kind);
    b.run();
    const char* const name = kind == graph::kind::fused ? "fused / ours" : "products / ours";
    if (!same(s, a, b)) {
      std::printf("%s %s WRONG RESULT\n", separator, name);
      return false;
    }
    const int rounds = s.q_len >= 4096 ? 3 : s.q_len >= 2048 ? 5 : 15;
    bench::print_figure(separator, name,
                        bench::compare([&] { b.run(); }, [&] { a.run(); }, rounds));
    separator = ";";
  }
  std::printf("\n");
  return true;
}

void register_one(const bench::shape& s) {
  benchmark::RegisterBenchmark(("ggml/" + s.name()).c_str(), [s](benchmark::State& state) {
    const ours<float> a(s);
    graph b(s, a, graph::kind::fused);
    for (auto _ : state) b.run();
    state.counters["FLOP/s"] =
        benchmark::Counter(s.flops(), benchmark::Counter::kIsIterationInvariantRate);
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::print_roofs();
  ggml_cpu_init();
  std::printf("ggml beside zerotune, one thread: medians [quartiles] of interleaved samples\n");
  bool good = true;
  for (const bench::shape& s : shapes)
    if (!bench::is_quick() || s.q_len <= 512) good &= print_ratios<float>("f32", s);
  for (const bench::shape& s : shapes)
    if (s.q_len == 1) good &= print_ratios<zt::float16>("f16", s);
  if (!good) return EXIT_FAILURE;
  for (const bench::shape& s : shapes) register_one(s);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
