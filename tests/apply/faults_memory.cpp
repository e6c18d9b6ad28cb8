// SPDX-License-Identifier: Apache-2.0
// The fault table of docs/design.md, section 5: strides, alignment, overlap, sizes.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/forms.hpp"
#include "zerotune/apply/attention_backward.hpp"
#include "zerotune/apply/ragged.hpp"

namespace {

using test::index_t;
using zerotune::tensor_view;

const zerotune::initial_token sink{2.0f};

template <class T>
using view4 = tensor_view<T, 4>;

/// The message of attention on q, k, v, out and, if given, an LSE.
template <class T>
std::string attention_message(const view4<const T>& q, const view4<const T>& k,
                              const view4<const T>& v, const view4<T>& out,
                              const tensor_view<float, 3>& lse = {}) {
  return test::message_of([&] { zerotune::attention(q, k, v, out, sink, {.lse = lse}); });
}

TEST(output_strides, of_zero_are_an_error_in_every_form) {
  std::vector<float> memory(4096, 0.5f);
  float* const p = memory.data();
  for (std::size_t dim = 0; dim < 4; ++dim) {
    index_t strides[4] = {24, 12, 4, 1};
    strides[dim] = 0;
    const view4<float> bad(p, {2, 2, 3, 4}, strides);
    const view4<float> out(p + 2048, {2, 2, 3, 4});
    const tensor_view<float, 3> lse(p + 3000, {2, 2, 3});
    const std::string name = "stride " + std::to_string(dim);
    using test::mentions;
    using test::message_of;
    const auto before = memory;
    EXPECT_TRUE(mentions(message_of([&] { zerotune::rescale_weights(bad, sink); }),
                         {"rescale_weights", "weights", name}));
    EXPECT_TRUE(
        mentions(message_of([&] { zerotune::bias_logits(bad, sink); }), {"bias_logits", name}));
    EXPECT_TRUE(mentions(message_of([&] { zerotune::fill_mask(bad, sink); }), {"fill_mask", name}));
    EXPECT_TRUE(mentions(message_of([&] { zerotune::scale_keys(bad, {.factor = 2}, 2); }),
                         {"scale_keys", name}));
    const view4<const float> in(p + 1024, {2, 2, 3, 4});
    EXPECT_TRUE(mentions(attention_message<float>(in, in, in, bad), {"attention", "out", name}));
    EXPECT_TRUE(mentions(message_of([&] { zerotune::correct_output(bad, lse, in, in, in, sink); }),
                         {"correct_output", "out", name}));
    if (dim < 3) {
      index_t three[3] = {6, 3, 1};
      three[dim] = 0;
      const tensor_view<float, 3> bad_lse(p + 3000, {2, 2, 3}, three);
      EXPECT_TRUE(mentions(attention_message<float>(in, in, in, out, bad_lse), {"lse", name}));
    }
    EXPECT_EQ(memory, before);
  }
}

// Elements that share memory by unlucky strides: 2 rows of 3 with a step of 2.
TEST(output_strides, that_overlap_themselves_are_an_error) {
  std::vector<float> memory(64, 0.25f);
  const tensor_view<float, 2> bad(memory.data(), {2, 3}, {2, 1});
  EXPECT_TRUE(test::mentions(test::message_of([&] { zerotune::rescale_weights(bad, sink); }),
                             {"rescale_weights", "stride 0", "its own place", "got 2"}));
  const tensor_view<float, 2> good(memory.data(), {2, 3}, {3, 1}),
      swapped(memory.data(), {2, 3}, {1, 2});
  EXPECT_EQ(test::message_of([&] { zerotune::rescale_weights(good, sink); }), "");
  EXPECT_EQ(test::message_of([&] { zerotune::rescale_weights(swapped, sink); }), "");
}

// A dimension of extent 1 may have any stride: NumPy and PyTorch put anything there.
TEST(output_strides, of_dimensions_of_one_element_do_not_matter) {
  std::vector<float> memory(16, 0.25f);
  for (const index_t stride : {index_t{0}, index_t{1}, index_t{-7}, index_t{1} << 60}) {
    const tensor_view<float, 3> view(memory.data(), {1, 2, 4}, {stride, 4, 1});
    EXPECT_EQ(test::message_of([&] { zerotune::rescale_weights(view, sink); }), "") << stride;
  }
}

template <class Kernel>
class alignment_of : public ::testing::Test {};
TYPED_TEST_SUITE(alignment_of, test::form_kernels, test::kernel_names);

TYPED_TEST(alignment_of, size_of_the_element_suffices_and_less_is_an_error) {
  using T = typename TypeParam::type;
  alignas(64) static unsigned char bytes[4096];
  std::vector<double> results[2];
  for (std::size_t offset = 0; offset < 2; ++offset) {
    T* const data = reinterpret_cast<T*>(bytes + offset * sizeof(T));
    for (std::size_t i = 0; i < 129; ++i) data[i] = test::from_double<T>(1.0 / 129);
    const tensor_view<T, 2> row(data, {1, 129});
    zerotune::rescale_weights(typename TypeParam::backend{}, row, sink);
    for (std::size_t i = 0; i < 129; ++i) results[offset].push_back(test::to_double(data[i]));
  }
  EXPECT_EQ(results[0], results[1]) << "the result depends on the alignment";
  for (std::size_t off = 1; off < sizeof(T); ++off) {
    T* const crooked = reinterpret_cast<T*>(bytes + off);  // never dereferenced
    const tensor_view<T, 2> row(crooked, {1, 129});
    const std::string message = test::message_of(
        [&] { zerotune::rescale_weights(typename TypeParam::backend{}, row, sink); });
    EXPECT_TRUE(test::mentions(message, {"rescale_weights", "weights data", "alignment"}))
        << message;
  }
}

TEST(null_pointers, are_an_error_unless_nothing_is_there) {
  std::vector<float> memory(256, 0.5f);
  const view4<const float> in(memory.data(), {1, 1, 2, 4});
  const view4<const float> null_in(nullptr, {1, 1, 2, 4});
  const view4<float> out(memory.data() + 128, {1, 1, 2, 4}), null_out(nullptr, {1, 1, 2, 4});
  EXPECT_TRUE(test::mentions(attention_message<float>(null_in, in, in, out), {"q data", "null"}));
  EXPECT_TRUE(test::mentions(attention_message<float>(in, null_in, in, out), {"k data", "null"}));
  EXPECT_TRUE(test::mentions(attention_message<float>(in, in, null_in, out), {"v data", "null"}));
  EXPECT_TRUE(test::mentions(attention_message<float>(in, in, in, null_out), {"out data", "null"}));
  const view4<float> nothing(nullptr, {1, 1, 0, 4});
  EXPECT_EQ(test::message_of([&] { zerotune::rescale_weights(nothing, sink); }), "");
}

TEST(outputs, that_overlap_an_input_are_an_error) {
  std::vector<float> memory(512, 0.5f);
  float* const p = memory.data();
  const view4<const float> a(p, {1, 1, 4, 8}), b(p + 64, {1, 1, 4, 8}), c(p + 128, {1, 1, 4, 8});
  const view4<float> apart(p + 256, {1, 1, 4, 8});
  const auto before = memory;
  for (const index_t shift : {-31, -8, 0, 1, 31}) {
    const auto over = [&](const view4<const float>& input) {
      return view4<float>(const_cast<float*>(input.data()) + shift, {1, 1, 4, 8});
    };
    if (shift >= 0) {
      EXPECT_TRUE(test::mentions(attention_message<float>(a, b, c, over(a)),
                                 {"attention", "out", "apart from q", "overlap"}));
    }
    EXPECT_TRUE(test::mentions(attention_message<float>(a, b, c, over(b)), {"apart from k"}));
    EXPECT_TRUE(test::mentions(attention_message<float>(a, b, c, over(c)), {"apart from v"}));
  }
  const tensor_view<float, 3> lse_in_q(p + 3, {1, 1, 4}), lse_in_out(p + 256, {1, 1, 4});
  EXPECT_TRUE(test::mentions(attention_message<float>(a, b, c, apart, lse_in_q), {"lse", "q"}));
  EXPECT_TRUE(test::mentions(attention_message<float>(a, b, c, apart, lse_in_out), {"lse", "out"}));
  EXPECT_EQ(memory, before);
  EXPECT_EQ(attention_message<float>(a, b, c, apart), "");
  const view4<float> touching(p + 32, {1, 1, 4, 8});  // side by side is not over one another
  EXPECT_EQ(attention_message<float>(a, b, c, touching), "");
}

TEST(outputs, interleaved_with_their_inputs_are_accepted) {
  // Packed [token][q | k | v | out][head][dim]: footprints interleave, elements do not.
  constexpr index_t tokens = 5, heads = 2, dim = 4, part = heads * dim, step = 4 * part;
  std::vector<float> memory(static_cast<std::size_t>(tokens * step), 0.25f);
  const auto piece = [&](index_t number) {
    return view4<float>(memory.data() + number * part, {1, heads, tokens, dim},
                        {tokens * step, dim, step, 1});
  };
  EXPECT_EQ(attention_message<float>(piece(0), piece(1), piece(2), piece(3)), "");
  EXPECT_TRUE(
      test::mentions(attention_message<float>(piece(0), piece(1), piece(2), piece(2)), {"v"}));
  // Columns of one row: a_0 of a value indicator lies in the last column of the output.
  std::vector<float> columns(static_cast<std::size_t>(tokens * (dim + 1)), 0.25f);
  const view4<float> out(columns.data(), {1, 1, tokens, dim}, {0, 0, dim + 1, 1});
  const tensor_view<const float, 3> mass(columns.data() + dim, {1, 1, tokens}, {0, 0, dim + 1});
  std::vector<float> values(static_cast<std::size_t>(tokens * dim), 1.0f);
  EXPECT_EQ(test::message_of([&] {
              zerotune::correct_output_by_mass(
                  out, mass, view4<const float>(values.data(), {1, 1, tokens, dim}), sink);
            }),
            "");
}

TEST(outputs, interleaved_with_an_overlap_are_an_error) {
  // Periods agree, but the output's row is one element too wide and meets the input's.
  std::vector<float> memory(256, 0.5f);
  const view4<const float> in(memory.data() + 4, {1, 1, 6, 4}, {0, 0, 8, 1});
  const view4<float> wide(memory.data(), {1, 1, 6, 5}, {0, 0, 8, 1});
  std::vector<float> other(64, 0.5f);
  const view4<const float> v(other.data(), {1, 1, 6, 5});
  EXPECT_TRUE(test::mentions(attention_message<float>(in, in, v, wide), {"out", "overlap"}));
}

// Lengths and positions are read while rows are written.
TEST(outputs, that_overlap_a_list_are_an_error) {
  std::vector<index_t> memory(512, 1);
  const tensor_view<const index_t, 1> list(memory.data() + 40, {1});
  const zerotune::sequence_options lengths{.kv_lengths = list}, starts{.q_starts = list};
  const auto floats = reinterpret_cast<float*>(memory.data());
  const view4<float> over(floats, {1, 1, 4, 24}), apart(floats + 256, {1, 1, 4, 24});
  const view4<const float> in(floats + 512, {1, 1, 4, 24});
  const tensor_view<float, 3> lse(floats + 400, {1, 1, 4}), bad_lse(floats + 78, {1, 1, 4});
  const auto before = memory;
  const auto refused = [&](const char* function, const char* output, const char* name,
                           const auto& call) {
    const std::string message = test::message_of(call);
    EXPECT_TRUE(test::mentions(message, {function, output, "apart from", name})) << message;
  };
  for (const char* name : {"kv_lengths", "q_starts"}) {
    const bool lengths_given = name[0] == 'k';
    const auto& options = lengths_given ? lengths : starts;
    refused("rescale_weights", "weights", name, [&] { rescale_weights(over, sink, options); });
    refused("bias_logits", "logits", name, [&] { bias_logits(over, sink, options); });
    refused("fill_mask", "mask", name, [&] { fill_mask(over, sink, options); });
    zerotune::attention_options<float> how;
    zerotune::output_options of_output;
    zerotune::attention_backward_options<float> backward;
    (lengths_given ? how.kv_lengths : how.q_starts) = list;
    (lengths_given ? of_output.kv_lengths : of_output.q_starts) = list;
    (lengths_given ? backward.kv_lengths : backward.q_starts) = list;
    refused("attention", "out", name, [&] { attention(in, in, in, over, sink, how); });
    refused("correct_output", "out", name,
            [&] { correct_output(over, lse, in, in, in, sink, of_output); });
    refused("correct_output", "lse", name,
            [&] { correct_output(apart, bad_lse, in, in, in, sink, of_output); });
    refused("attention_backward", "d_q", name, [&] {
      const tensor_view<const float, 3> sums(lse.data(), {1, 1, 4});
      attention_backward(in, in, in, in, sums, in, over, apart, apart, tensor_view<double, 2>{},
                         sink, backward);
    });
    how.lse = bad_lse;
    refused("attention", "lse", name, [&] { attention(in, in, in, apart, sink, how); });
  }
  const index_t lengths_of[] = {0, 4};
  refused("attention_ragged", "out", "q_offsets", [&] {
    const tensor_view<float, 3> packed(floats, {4, 1, 24}), other(floats + 512, {4, 1, 24});
    memory[40] = 0, memory[41] = 4;
    const tensor_view<const index_t, 1> offsets(memory.data() + 40, {2});
    attention_ragged(other, other, other, packed,
                     {offsets, tensor_view<const index_t, 1>(lengths_of, {2})}, sink);
  });
  memory[40] = memory[41] = 1;
  EXPECT_EQ(memory, before);
}

TEST(sizes, that_do_not_fit_64_bits_are_an_error) {
  float number = 0.5f;
  const index_t big = index_t{1} << 40;
  const view4<float> product(&number, {big, big, 1, 1});
  EXPECT_TRUE(test::mentions(test::message_of([&] { zerotune::bias_logits(product, sink); }),
                             {"bias_logits", "logits dim", "64 bits"}));
  const view4<float> reach(&number, {1, 1, 3, 3}, {1, 1, index_t{1} << 62, 1});
  EXPECT_TRUE(
      test::mentions(test::message_of([&] { zerotune::bias_logits(reach, sink); }), {"64 bits"}));
  const view4<float> least(&number, {1, 1, 2, 2}, {1, 1, std::numeric_limits<index_t>::min(), 1});
  EXPECT_TRUE(
      test::mentions(test::message_of([&] { zerotune::bias_logits(least, sink); }), {"64 bits"}));
  const view4<float> negative(&number, {1, 1, -1, 2});
  EXPECT_TRUE(test::mentions(test::message_of([&] { zerotune::bias_logits(negative, sink); }),
                             {"dim 2", "got -1"}));
}

}  // namespace
