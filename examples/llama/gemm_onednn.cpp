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
#include <unordered_map>
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

/// The logarithm of the number of rows that the next primitive takes of `left` rows; if that is
/// more, it takes them all and is given zeros besides. A call costs about as much as 6 rows (5 to 9
/// seen in both types), so 250 rows go as 256 and not as 128 + 64 + 32 + 16 + 8 + 4.
int next_piece(std::int64_t left) {
  constexpr std::int64_t cost_of_a_call = 6;
  if (left >= largest_size) return num_sizes - 1;
  const auto rows = static_cast<std::uint64_t>((left + smallest_size - 1) & -smallest_size);
  const std::uint64_t whole = std::bit_ceil(rows);
  const auto cost = static_cast<std::int64_t>(rows) + cost_of_a_call * std::popcount(rows);
  const bool at_once = static_cast<std::int64_t>(whole) + cost_of_a_call <= cost;
  return static_cast<int>(std::bit_width(at_once ? whole : rows)) - 1;
}

/// Rows of inputs as the primitives read them.
struct input_rows {
  const char* data;    ///< all of them
  const char* padded;  ///< the last piece's, with zeros up to its size; null: it needs none
  std::int64_t row_bytes, rows;

  const char* piece(std::int64_t first, std::int64_t size) const {
    return first + size > rows ? padded : data + first * row_bytes;
  }
};

/// Calls body(first, count, log2_rows) for each piece of the rows.
template <class Body>
void for_each_piece(std::int64_t rows, const Body& body) {
  for (std::int64_t first = 0; first < rows;) {
    const int log2_rows = next_piece(rows - first);
    const std::int64_t count = std::min(rows - first, std::int64_t{1} << log2_rows);
    body(first, count, log2_rows);
    first += count;
  }
}

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
  onednn_matrix(gemm_kind kind, const weight_view& weights, std::int64_t parts)
      : packed_matrix(weights.outputs, weights.inputs), kind_(kind), parts_(parts) {
    const one_thread alone;
    dnnl::stream stream(cpu());
    const std::int64_t part = outputs() / parts;
    for (std::int64_t begin = 0; begin < outputs(); begin += part)
      for (std::int64_t first = begin; first < begin + part; first += block_columns) {
        const std::int64_t columns = std::min(block_columns, begin + part - first);
        auto products = products_of(kind, inputs(), columns);
        memory packed(products->weights(), cpu());
        memory plain(
            {{inputs(), columns},
             memory::data_type::f32,
             memory::dims{weights.input_stride, weights.output_stride}},
            cpu(), const_cast<float*>(weights.data + first * weights.output_stride));  // only read
        dnnl::reorder(plain, packed).execute(stream, plain, packed);
        stream.wait();
        blocks_.push_back({std::move(products), std::move(packed), first, columns});
      }
  }

  void multiply_transposed(const float* y, float* x, std::int64_t rows, gemm_output output,
                           executor_ref threads) const override {
    std::call_once(transposed_made_, [this] { transposed_ = transpose(); });
    transposed_->multiply(y, x, rows, output, threads);
  }

  void multiply(const float* x, float* y, std::int64_t rows, gemm_output output,
                executor_ref threads) const override {
    const input_rows in = prepare(x, rows);
    threads.parallel_for(num_blocks(), [&](std::int64_t index) {
      const one_thread alone;
      const block& b = blocks_[static_cast<std::size_t>(index)];
      float* const dense = results(0, b.columns);
      for_each_piece(rows, [&](std::int64_t first, std::int64_t count, int log2_rows) {
        run(in.piece(first, std::int64_t{1} << log2_rows), dense, log2_rows, b);
        write(dense, y + first * outputs() + b.first, count, output, b.columns);
      });
    });
  }

  void multiply_gated(const float* x, float* y, std::int64_t rows,
                      executor_ref threads) const override {
    if (parts_ != 2) return packed_matrix::multiply_gated(x, y, rows, threads);
    const input_rows in = prepare(x, rows);
    const std::int64_t half = num_blocks() / 2;
    threads.parallel_for(half, [&](std::int64_t index) {
      const one_thread alone;
      const block& gate = blocks_[static_cast<std::size_t>(index)];
      const block& up = blocks_[static_cast<std::size_t>(index + half)];
      float* const gates = results(0, gate.columns);
      float* const ups = results(1, up.columns);
      const auto size = static_cast<std::size_t>(gate.columns);
      for_each_piece(rows, [&](std::int64_t first, std::int64_t count, int log2_rows) {
        const char* const piece = in.piece(first, std::int64_t{1} << log2_rows);
        run(piece, gates, log2_rows, gate);
        run(piece, ups, log2_rows, up);
        for (std::int64_t i = 0; i < count; ++i)
          swiglu({gates + i * gate.columns, size}, {ups + i * gate.columns, size},
                 {y + (first + i) * (outputs() / 2) + gate.first, size});
      });
    });
  }

 private:
  // What one thread takes at a time.
  static constexpr std::int64_t block_columns = 192;

  struct block {
    std::shared_ptr<shape_products> products;
    memory weights;
    std::int64_t first, columns;
  };

  std::int64_t num_blocks() const { return static_cast<std::int64_t>(blocks_.size()); }

  /// W^T, packed; the rounded weights of bfloat16 stay what they are.
  std::unique_ptr<const onednn_matrix> transpose() const {
    const one_thread alone;
    dnnl::stream stream(cpu());
    matrix plain_weights(outputs(), inputs());
    for (const block& b : blocks_) {
      memory packed = b.weights;
      memory plain({{inputs(), b.columns}, memory::data_type::f32, memory::dims{1, inputs()}},
                   cpu(), plain_weights.row(b.first).data());
      dnnl::reorder(packed, plain).execute(stream, packed, plain);
      stream.wait();
    }
    return std::make_unique<onednn_matrix>(
        kind_, weight_view{plain_weights.data(), inputs(), outputs(), 1, inputs()}, 1);
  }

  /// The inputs in this kind's type, and their last rows with zeros where a piece has more. In the
  /// calling thread's memory, until its next call.
  input_rows prepare(const float* x, std::int64_t rows) const {
    std::int64_t padded_first = 0, padded_rows = 0;
    for_each_piece(rows, [&](std::int64_t first, std::int64_t count, int log2_rows) {
      if (count == std::int64_t{1} << log2_rows) return;
      padded_first = first;
      padded_rows = std::int64_t{1} << log2_rows;
    });
    const auto size = static_cast<std::size_t>(rows * inputs());
    const auto end = static_cast<std::size_t>((padded_first + padded_rows) * inputs());
    if (kind_ == gemm_kind::onednn_bf16) {
      thread_local std::vector<zerotune::bfloat16> rounded;
      rounded.resize(std::max({size, end, rounded.size()}));
      round({x, size}, rounded);
      if (padded_rows > 0) std::fill_n(rounded.data() + size, end - size, zerotune::bfloat16());
      const auto* const data = reinterpret_cast<const char*>(rounded.data());
      const std::int64_t row_bytes = inputs() * std::int64_t{sizeof(zerotune::bfloat16)};
      return {data, data + padded_first * row_bytes, row_bytes, rows};
    }
    thread_local std::vector<float> padded;
    if (padded_rows > 0) {
      padded.assign(x + padded_first * inputs(), x + rows * inputs());
      padded.resize(static_cast<std::size_t>(padded_rows * inputs()));
    }
    return {reinterpret_cast<const char*>(x), reinterpret_cast<const char*>(padded.data()),
            inputs() * std::int64_t{sizeof(float)}, rows};
  }

  /// Memory of this thread for the results of one piece. @param which 0 or 1
  static float* results(int which, std::int64_t columns) {
    thread_local std::array<std::vector<float>, 2> memory;
    std::vector<float>& of = memory[static_cast<std::size_t>(which)];
    of.resize(std::max(of.size(), static_cast<std::size_t>(largest_size * columns)));
    return of.data();
  }

  /// Dense results to where they belong.
  void write(const float* from, float* y, std::int64_t rows, gemm_output output,
             std::int64_t columns) const {
    for (std::int64_t i = 0; i < rows; ++i, from += columns, y += outputs())
      if (output == gemm_output::add)
        std::transform(from, from + columns, y, y, std::plus<>());
      else
        std::copy_n(from, columns, y);
  }

  /// A power of two of rows, at least smallest_size.
  static void run(const char* x, float* y, int log2_rows, const block& b) {
    // A thread's own and made once: as many allocations as arguments are what they would cost.
    struct arguments {
      memory x, y, scratchpad;
    };
    thread_local dnnl::stream stream(cpu());
    thread_local std::vector<std::byte> scratchpad;
    thread_local std::unordered_map<const shape_products::product*, arguments> known;
    shape_products::product& p = b.products->get(log2_rows);
    const auto bytes = p.description.scratchpad_desc().get_size();
    if (scratchpad.size() < bytes) scratchpad.resize(bytes);
    auto found = known.find(&p);
    if (found == known.end())
      found = known
                  .try_emplace(&p, arguments{{p.description.src_desc(), cpu(), nullptr},
                                             {p.description.dst_desc(), cpu(), nullptr},
                                             {p.description.scratchpad_desc(), cpu(), nullptr}})
                  .first;
    arguments& use = found->second;
    use.x.set_data_handle(const_cast<char*>(x));  // only read
    use.y.set_data_handle(y);
    use.scratchpad.set_data_handle(scratchpad.data());
    const std::array<dnnl_exec_arg_t, 4> given{{{DNNL_ARG_SRC, use.x.get()},
                                                {DNNL_ARG_WEIGHTS, b.weights.get()},
                                                {DNNL_ARG_DST, use.y.get()},
                                                {DNNL_ARG_SCRATCHPAD, use.scratchpad.get()}}};
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(p.primitive.get(), stream.get(), given.size(), given.data()),
        "could not execute a product");
    stream.wait();
  }

  gemm_kind kind_;
  std::int64_t parts_;
  std::vector<block> blocks_;
  mutable std::once_flag transposed_made_;
  mutable std::unique_ptr<const onednn_matrix> transposed_;
};

}  // namespace

std::unique_ptr<const packed_matrix> pack_onednn(gemm_kind kind, const matrix& weights,
                                                 std::int64_t parts) {
  return std::make_unique<onednn_matrix>(
      kind, weight_view{weights.data(), weights.rows(), weights.columns(), weights.columns(), 1},
      parts);
}

bool onednn_has_bf16() {
  cpu();
  // Values of the enumeration rise with what the CPU can do.
  return static_cast<int>(dnnl::get_effective_cpu_isa()) >=
         static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
}

}  // namespace llama
