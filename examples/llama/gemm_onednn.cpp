// SPDX-License-Identifier: Apache-2.0
// Products by oneDNN. Its threads (OpenMP's) are switched off around every call: threads are the
// host's. Primitives are made for a few numbers of rows only, so that a batch of any size needs
// no new one and a row's result hardly can depend on the batch by way of a choice of kernel.
#include <omp.h>
#include <dnnl.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#include "llama/cpu.hpp"
#include "llama/elementwise.hpp"
#include "llama/gemm_kinds.hpp"
#include "zerotune/core/float16.hpp"

namespace llama {
namespace {

using dnnl::memory;

/// One OpenMP thread for the calling thread, as long as this lives.
class one_thread {
 public:
  one_thread() : former_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~one_thread() { omp_set_num_threads(former_); }
  one_thread(const one_thread&) = delete;
  one_thread& operator=(const one_thread&) = delete;

 private:
  int former_;
};

dnnl::cpu_isa isa_of(zerotune::instruction_set set) {
  switch (set) {
    case zerotune::instruction_set::baseline:
      return dnnl::cpu_isa::sse41;
    case zerotune::instruction_set::avx2:
      return dnnl::cpu_isa::avx2;
    case zerotune::instruction_set::avx512:
      return dnnl::cpu_isa::avx512_core;
    case zerotune::instruction_set::avx512_bf16:
      return dnnl::cpu_isa::avx512_core_bf16;
    case zerotune::instruction_set::amx_bf16:
      break;
  }
  return dnnl::cpu_isa::all;
}

/// The first use of oneDNN, which from then on keeps to the host's instruction set.
const dnnl::engine& cpu() {
  static const dnnl::engine engine = [] {
    dnnl::set_max_cpu_isa(isa_of(instruction_set()));
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return engine;
}

memory::data_type type_of(gemm_kind kind) {
  return kind == gemm_kind::onednn_bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// Numbers of rows that there are primitives for: 256, 128, ... 4, at their logarithms. One or two
// rows would get kernels of their own, which sum in another order (seen in bfloat16).
constexpr int smallest_log2 = 2;
constexpr std::int64_t smallest_size = std::int64_t{1} << smallest_log2;
constexpr int num_sizes = 9;
constexpr std::int64_t largest_size = std::int64_t{1} << (num_sizes - 1);

/// The products of one shape: x [rows, inputs] with the weights of `columns` outputs. Results are
/// dense: for an output of any other stride oneDNN has nothing but kernels that pack the weights
/// anew in every call (with bfloat16 174 GFLOP/s in place of 230, with few rows a fourth).
class shape_products {
 public:
  struct product {
    std::once_flag made;
    dnnl::matmul::primitive_desc description;
    dnnl::matmul primitive;
  };

  shape_products(gemm_kind kind, std::int64_t inputs, std::int64_t columns)
      : type_(type_of(kind)), inputs_(inputs), columns_(columns) {
    // The layout that the largest product likes best; the others take it as it is.
    const memory::desc any({inputs, columns}, type_, memory::format_tag::any);
    weights_ = describe(largest_size, any).weights_desc();
  }

  const memory::desc& weights() const { return weights_; }

  product& get(int log2_rows) {
    product& p = products_[static_cast<std::size_t>(log2_rows)];
    std::call_once(p.made, [&] {
      p.description = describe(std::int64_t{1} << log2_rows, weights_);
      p.primitive = dnnl::matmul(p.description);
    });
    return p;
  }

 private:
  dnnl::matmul::primitive_desc describe(std::int64_t rows, const memory::desc& weights) const {
    const memory::desc x({rows, inputs_}, type_, memory::dims{inputs_, 1});
    const memory::desc y({rows, columns_}, memory::data_type::f32, memory::dims{columns_, 1});
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    return {dnnl::matmul::desc(x, weights, y), attributes, cpu()};
  }

  memory::data_type type_;
  std::int64_t inputs_, columns_;
  memory::desc weights_;
  std::array<product, num_sizes> products_;
};

/// Layers of one shape share their primitives.
std::shared_ptr<shape_products> products_of(gemm_kind kind, std::int64_t inputs,
                                            std::int64_t columns) {
  static std::mutex mutex;
  static std::map<std::tuple<gemm_kind, std::int64_t, std::int64_t>,
                  std::shared_ptr<shape_products>>
      known;
  const std::lock_guard lock(mutex);
  std::shared_ptr<shape_products>& found = known[{kind, inputs, columns}];
  if (!found) found = std::make_shared<shape_products>(kind, inputs, columns);
  return found;
}

/// A matrix [outputs, inputs] somewhere in memory.
struct weight_view {
  const float* data;
  std::int64_t outputs, inputs;
  std::int64_t output_stride, input_stride;
};

class onednn_matrix final : public packed_matrix {
 public:
  onednn_matrix(gemm_kind kind, const weight_view& weights)
      : packed_matrix(weights.outputs, weights.inputs), kind_(kind) {
    const one_thread alone;
    dnnl::stream stream(cpu());
    for (std::int64_t first = 0; first < outputs(); first += block_columns) {
      const std::int64_t columns = std::min(block_columns, outputs() - first);
      auto products = products_of(kind, inputs(), columns);
      memory packed(products->weights(), cpu());
      memory plain({{inputs(), columns},
                    memory::data_type::f32,
                    memory::dims{weights.input_stride, weights.output_stride}},
                   cpu(),
                   const_cast<float*>(weights.data + first * weights.output_stride));  // only read
      dnnl::reorder(plain, packed).execute(stream, plain, packed);
      stream.wait();
      blocks_.push_back({std::move(products), std::move(packed), columns});
    }
  }

  void multiply_transposed(const float* y, float* x, std::int64_t rows, gemm_output output,
                           executor_ref threads) const override {
    std::call_once(transposed_made_, [this] { transposed_ = transpose(); });
    transposed_->multiply(y, x, rows, output, threads);
  }

  void multiply(const float* x, float* y, std::int64_t rows, gemm_output output,
                executor_ref threads) const override {
    const void* inputs_read = x;
    std::int64_t element = sizeof(float);
    if (kind_ == gemm_kind::onednn_bf16) {
      // The caller's own; the threads below only read it.
      thread_local std::vector<zerotune::bfloat16> rounded;
      const auto size = static_cast<std::size_t>(rows * inputs());
      rounded.resize(std::max(size, rounded.size()));
      round({x, size}, rounded);
      inputs_read = rounded.data();
      element = sizeof(zerotune::bfloat16);
    }
    threads.parallel_for(static_cast<std::int64_t>(blocks_.size()), [&](std::int64_t b) {
      multiply_block(static_cast<const char*>(inputs_read), element, y + b * block_columns, rows,
                     output, blocks_[static_cast<std::size_t>(b)]);
    });
  }

 private:
  // What one thread takes at a time.
  static constexpr std::int64_t block_columns = 192;

  struct block {
    std::shared_ptr<shape_products> products;
    memory weights;
    std::int64_t columns;
  };

  /// W^T, packed; the rounded weights of bfloat16 stay what they are.
  std::unique_ptr<const onednn_matrix> transpose() const {
    const one_thread alone;
    dnnl::stream stream(cpu());
    matrix plain_weights(outputs(), inputs());
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      memory packed = blocks_[b].weights;
      memory plain(
          {{inputs(), blocks_[b].columns}, memory::data_type::f32, memory::dims{1, inputs()}},
          cpu(), plain_weights.row(static_cast<std::int64_t>(b) * block_columns).data());
      dnnl::reorder(packed, plain).execute(stream, packed, plain);
      stream.wait();
    }
    return std::make_unique<onednn_matrix>(
        kind_, weight_view{plain_weights.data(), inputs(), outputs(), 1, inputs()});
  }

  void multiply_block(const char* x, std::int64_t element, float* y, std::int64_t rows,
                      gemm_output output, const block& b) const {
    const one_thread alone;
    const std::int64_t row_bytes = inputs() * element;
    thread_local std::vector<float> dense;
    dense.resize(std::max(dense.size(), static_cast<std::size_t>(largest_size * b.columns)));
    std::int64_t done = 0;
    while (rows - done >= smallest_size) {
      const auto left = static_cast<std::uint64_t>(std::min(rows - done, largest_size));
      const int log2_rows = static_cast<int>(std::bit_width(left)) - 1;
      const std::int64_t count = std::int64_t{1} << log2_rows;
      run(x + done * row_bytes, dense.data(), log2_rows, b);
      write(dense.data(), y + done * outputs(), count, output, b);
      done += count;
    }
    if (done == rows) return;
    // Fewer than there is a primitive for: padded with zeros.
    thread_local std::vector<char> padded;
    padded.assign(static_cast<std::size_t>(smallest_size * row_bytes), 0);
    std::copy_n(x + done * row_bytes, (rows - done) * row_bytes, padded.data());
    run(padded.data(), dense.data(), smallest_log2, b);
    write(dense.data(), y + done * outputs(), rows - done, output, b);
  }

  /// Dense results to where they belong.
  void write(const float* from, float* y, std::int64_t rows, gemm_output output,
             const block& b) const {
    for (std::int64_t i = 0; i < rows; ++i, from += b.columns, y += outputs())
      if (output == gemm_output::add)
        std::transform(from, from + b.columns, y, y, std::plus<>());
      else
        std::copy_n(from, b.columns, y);
  }

  /// A power of two of rows, at least smallest_size.
  static void run(const char* x, float* y, int log2_rows, const block& b) {
    thread_local dnnl::stream stream(cpu());
    thread_local std::vector<std::byte> scratchpad;
    shape_products::product& p = b.products->get(log2_rows);
    const auto bytes = p.description.scratchpad_desc().get_size();
    if (scratchpad.size() < bytes) scratchpad.resize(bytes);
    p.primitive.execute(
        stream,
        {{DNNL_ARG_SRC,
          memory(p.description.src_desc(), cpu(), const_cast<char*>(x))},  // only read
         {DNNL_ARG_WEIGHTS, b.weights},
         {DNNL_ARG_DST, memory(p.description.dst_desc(), cpu(), y)},
         {DNNL_ARG_SCRATCHPAD, memory(p.description.scratchpad_desc(), cpu(), scratchpad.data())}});
    stream.wait();
  }

  gemm_kind kind_;
  std::vector<block> blocks_;
  mutable std::once_flag transposed_made_;
  mutable std::unique_ptr<const onednn_matrix> transposed_;
};

}  // namespace

std::unique_ptr<const packed_matrix> pack_onednn(gemm_kind kind, const matrix& weights) {
  return std::make_unique<onednn_matrix>(
      kind, weight_view{weights.data(), weights.rows(), weights.columns(), weights.columns(), 1});
}

bool onednn_has_bf16() {
  cpu();
  // Values of the enumeration rise with what the CPU can do.
  return static_cast<int>(dnnl::get_effective_cpu_isa()) >=
         static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
}

}  // namespace llama
