/* SPDX-License-Identifier: Apache-2.0 */
/* The C interface from C11: values against loops in double written here, error codes and messages.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zerotune.h"

static int failures = 0;
#define CHECK(condition)                                                                       \
  do {                                                                                         \
    if (!(condition)) {                                                                        \
      ++failures;                                                                              \
      printf("%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition, zt_last_error()); \
    }                                                                                          \
  } while (0)

enum { BATCH = 2, HEADS = 4, KV_HEADS = 2, Q_LEN = 37, KV_LEN = 70, DIM = 24, VALUE_DIM = 20 };
enum { ROWS = BATCH * HEADS * Q_LEN };

static uint64_t state = 1;
static double next_number(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (double)(state >> 40) / (double)(1 << 24) * 2 - 1;
}

static zt_tensor tensor(void* data, int64_t a, int64_t b, int64_t c, int64_t d, int32_t dtype) {
  zt_tensor t = {data, {a, b, c, d}, {b * c * d, c * d, d, 1}, dtype};
  return t;
}

/* What the loops below take; the same numbers as float and double. */
typedef struct {
  double q[ROWS * DIM], k[BATCH * KV_HEADS * KV_LEN * DIM],
      v[BATCH * KV_HEADS * KV_LEN * VALUE_DIM];
  double d_out[ROWS * VALUE_DIM];
  double scale, softcap;
  int causal;
  int64_t window;
  float gamma[HEADS];
  int64_t initial[BATCH];
} scene;
typedef struct {
  double out[ROWS * VALUE_DIM], lse[ROWS], weights[ROWS * KV_LEN];
  double d_q[ROWS * DIM], d_k[BATCH * KV_HEADS * KV_LEN * DIM];
  double d_v[BATCH * KV_HEADS * KV_LEN * VALUE_DIM], d_log_gamma[BATCH * HEADS];
} answer;

static void solve(const scene* s, answer* a) {
  memset(a, 0, sizeof *a);
  for (int b = 0; b < BATCH; ++b)
    for (int h = 0; h < HEADS; ++h)
      for (int i = 0; i < Q_LEN; ++i) {
        const int row = (b * HEADS + h) * Q_LEN + i, kv = b * KV_HEADS + h / (HEADS / KV_HEADS);
        const int64_t position = KV_LEN - Q_LEN + i;
        double factor[KV_LEN], slope[KV_LEN], sum = 0, kept = 0;
        double* weight = a->weights + row * KV_LEN;
        for (int j = 0; j < KV_LEN; ++j) {
          factor[j] = 1;
          if (j < s->initial[b] || (s->causal && j > position)) factor[j] = 0;
          if (s->window > 0 && j <= position - s->window) factor[j] = 0;
          double logit = 0;
          for (int c = 0; c < DIM; ++c)
            logit += s->q[row * DIM + c] * s->k[(kv * KV_LEN + j) * DIM + c];
          logit *= s->scale;
          slope[j] = 1;
          if (s->softcap > 0) {
            const double t = tanh(logit / s->softcap);
            logit = s->softcap * t;
            slope[j] = 1 - t * t;
          }
          weight[j] = factor[j] * exp(logit);
          sum += weight[j];
          kept += j == s->initial[b] ? weight[j] * (double)s->gamma[h] : weight[j];
        }
        a->lse[row] = -INFINITY;
        if (sum == 0) continue;
        const int gamma_acts = kept > 0;
        if (gamma_acts) weight[s->initial[b]] *= (double)s->gamma[h];
        const double total = gamma_acts ? kept : sum;
        a->lse[row] = log(total);
        double delta = 0;
        for (int c = 0; c < VALUE_DIM; ++c) {
          for (int j = 0; j < KV_LEN; ++j)
            a->out[row * VALUE_DIM + c] +=
                weight[j] / total * s->v[(kv * KV_LEN + j) * VALUE_DIM + c];
          delta += s->d_out[row * VALUE_DIM + c] * a->out[row * VALUE_DIM + c];
        }
        for (int j = 0; j < KV_LEN; ++j) {
          weight[j] /= total;
          double along = 0;
          for (int c = 0; c < VALUE_DIM; ++c) {
            along += s->d_out[row * VALUE_DIM + c] * s->v[(kv * KV_LEN + j) * VALUE_DIM + c];
            a->d_v[(kv * KV_LEN + j) * VALUE_DIM + c] += weight[j] * s->d_out[row * VALUE_DIM + c];
          }
          double d_logit = weight[j] * (along - delta);
          if (j == s->initial[b]) a->d_log_gamma[b * HEADS + h] += d_logit;
          d_logit *= slope[j] * s->scale;
          for (int c = 0; c < DIM; ++c) {
            a->d_q[row * DIM + c] += d_logit * s->k[(kv * KV_LEN + j) * DIM + c];
            a->d_k[(kv * KV_LEN + j) * DIM + c] += d_logit * s->q[row * DIM + c];
          }
        }
      }
}

static double distance(const void* actual, int32_t dtype, const double* expected, size_t count) {
  double greatest = 0;
  for (size_t i = 0; i < count; ++i) {
    const double x = dtype == 1 ? ((const double*)actual)[i] : (double)((const float*)actual)[i];
    if (x == expected[i]) continue; /* infinities too */
    const double error = fabs(x - expected[i]);
    greatest = error <= greatest ? greatest : isnan(error) ? INFINITY : error;
  }
  return greatest;
}

/* The numbers of a list in the element type, in memory of its own. */
static void* copy_of(const double* values, size_t count, int32_t dtype) {
  void* data = malloc(count * (dtype == 1 ? sizeof(double) : sizeof(float)));
  if (!data) abort();
  for (size_t i = 0; i < count; ++i)
    if (dtype == 1)
      ((double*)data)[i] = values[i];
    else
      ((float*)data)[i] = (float)values[i];
  return data;
}
#define COUNT(list) (sizeof(list) / sizeof((list)[0]))
#define COPY(list) copy_of(list, COUNT(list), dtype)

static void check_values(const scene* s, int32_t dtype, double bound) {
  static answer expected, plain;
  solve(s, &expected);
  zt_options options;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  options.softmax_scale = (float)s->scale;
  options.softcap = (float)s->softcap;
  options.causal = s->causal;
  options.window = s->window;
  options.gamma = s->gamma;
  options.initial_pos = s->initial;
  options.threads = 2;

  void *qd = COPY(s->q), *kd = COPY(s->k), *vd = COPY(s->v), *gd = COPY(s->d_out);
  void *od = COPY(expected.out), *dqd = COPY(expected.d_q), *dkd = COPY(expected.d_k),
       *dvd = COPY(expected.d_v);
  static float lse_data[ROWS], d_log_gamma[BATCH * HEADS];
  memset(od, 0x55, sizeof(float) * COUNT(expected.out));
  zt_tensor q = tensor(qd, BATCH, HEADS, Q_LEN, DIM, dtype);
  zt_tensor k = tensor(kd, BATCH, KV_HEADS, KV_LEN, DIM, dtype);
  zt_tensor v = tensor(vd, BATCH, KV_HEADS, KV_LEN, VALUE_DIM, dtype);
  zt_tensor out = tensor(od, BATCH, HEADS, Q_LEN, VALUE_DIM, dtype);
  zt_tensor lse = tensor(lse_data, BATCH, HEADS, Q_LEN, 1, 0);
  CHECK(zt_attention(&q, &k, &v, &out, &lse, &options) == 0);
  CHECK(distance(od, dtype, expected.out, COUNT(expected.out)) < bound);
  CHECK(distance(lse_data, 0, expected.lse, ROWS) < 2e-6);

  zt_tensor d_out = tensor(gd, BATCH, HEADS, Q_LEN, VALUE_DIM, dtype);
  zt_tensor d_q = tensor(dqd, BATCH, HEADS, Q_LEN, DIM, dtype);
  zt_tensor d_k = tensor(dkd, BATCH, KV_HEADS, KV_LEN, DIM, dtype);
  zt_tensor d_v = tensor(dvd, BATCH, KV_HEADS, KV_LEN, VALUE_DIM, dtype);
  memset(dqd, 0x55, sizeof(float) * COUNT(expected.d_q));
  CHECK(zt_attention_backward(&q, &k, &v, &out, &lse, &d_out, &d_q, &d_k, &d_v, d_log_gamma,
                              &options) == 0);
  /* The LSE is float in every case. */
  CHECK(distance(dqd, dtype, expected.d_q, COUNT(expected.d_q)) < 2e-5);
  CHECK(distance(dkd, dtype, expected.d_k, COUNT(expected.d_k)) < 2e-5);
  CHECK(distance(dvd, dtype, expected.d_v, COUNT(expected.d_v)) < 2e-5);
  CHECK(distance(d_log_gamma, 0, expected.d_log_gamma, COUNT(expected.d_log_gamma)) < 2e-5);

  /* A black box without gamma, corrected; and its weights, rescaled. */
  scene without = *s;
  for (int h = 0; h < HEADS; ++h) without.gamma[h] = 1;
  solve(&without, &plain);
  void* corrected = COPY(plain.out);
  zt_tensor black_box = tensor(corrected, BATCH, HEADS, Q_LEN, VALUE_DIM, dtype);
  for (int i = 0; i < ROWS; ++i) lse_data[i] = (float)plain.lse[i];
  int64_t amplified = -1;
  options.amplified_rows = &amplified;
  CHECK(zt_correct_output(&black_box, &lse, &q, &k, &v, &options) == 0);
  CHECK(amplified == 0);
  CHECK(distance(corrected, dtype, expected.out, COUNT(expected.out)) < 1e-5);
  CHECK(distance(lse_data, 0, expected.lse, ROWS) < 1e-5);
  void* weights = COPY(plain.weights);
  zt_tensor w = tensor(weights, BATCH, HEADS, Q_LEN, KV_LEN, dtype);
  CHECK(zt_rescale_weights(&w, &options) == 0);
  CHECK(distance(weights, dtype, expected.weights, COUNT(expected.weights)) < bound);
  CHECK(zt_last_error()[0] == 0);
  void* all[] = {qd, kd, vd, gd, od, dqd, dkd, dvd, corrected, weights};
  for (size_t i = 0; i < COUNT(all); ++i) free(all[i]);
}

static void check_errors(void) {
  float q_data[8], k_data[8], v_data[8], out_data[8];
  for (int i = 0; i < 8; ++i) q_data[i] = k_data[i] = v_data[i] = 0.5f, out_data[i] = 7;
  zt_tensor q = tensor(q_data, 1, 1, 2, 4, 0), k = tensor(k_data, 1, 1, 2, 4, 0);
  zt_tensor v = tensor(v_data, 1, 1, 2, 4, 0), out = tensor(out_data, 1, 1, 2, 4, 0);
  CHECK(zt_attention(&q, &k, &v, &out, NULL, NULL) == 0); /* NULL options and no LSE */
  CHECK(fabsf(out_data[0] - 0.5f) < 1e-6f);

  CHECK(zt_attention(NULL, &k, &v, &out, NULL, NULL) == ZT_INVALID_ARGUMENT);
  CHECK(strcmp(zt_last_error(), "zt_attention: q: expected a tensor, got NULL") == 0);
  zt_tensor wrong = tensor(k_data, 1, 1, 2, 3, 0);
  CHECK(zt_attention(&q, &wrong, &v, &out, NULL, NULL) == ZT_INVALID_ARGUMENT);
  CHECK(strcmp(zt_last_error(), "zt_attention: k dim 3 (head_dim): expected 4, got 3") == 0);
  wrong = k, wrong.dtype = 9;
  CHECK(zt_attention(&q, &wrong, &v, &out, NULL, NULL) == ZT_INVALID_ARGUMENT);
  wrong.dtype = 3;
  CHECK(zt_attention(&q, &wrong, &v, &out, NULL, NULL) == ZT_INVALID_ARGUMENT);
  CHECK(strstr(zt_last_error(), "v dtype") != NULL);
  CHECK(zt_attention(&q, &k, &v, &q, NULL, NULL) == ZT_INVALID_ARGUMENT);
  CHECK(strstr(zt_last_error(), "out: expected memory apart from q") != NULL);

  zt_options options;
  memset(&options, 0, sizeof options);
  CHECK(zt_attention(&q, &k, &v, &out, NULL, &options) == ZT_INVALID_ARGUMENT); /* no size */
  options.size = sizeof options;
  CHECK(zt_attention(&q, &k, &v, &out, NULL, &options) == 0);
  CHECK(zt_last_error()[0] == 0);
  const float negative = -1, nan_gamma = NAN;
  options.gamma = &negative;
  CHECK(zt_attention(&q, &k, &v, &out, NULL, &options) == ZT_INVALID_ARGUMENT);
  CHECK(strstr(zt_last_error(), "gamma[0]") != NULL);
  options.gamma = &nan_gamma;
  CHECK(zt_attention(&q, &k, &v, &out, NULL, &options) == ZT_INVALID_ARGUMENT);
  options.size = offsetof(zt_options, gamma); /* an older caller's struct: gamma is not read */
  CHECK(zt_attention(&q, &k, &v, &out, NULL, &options) == 0);
  options.size = sizeof options, options.gamma = NULL;
  const int64_t outside = 2;
  options.initial_pos = &outside;
  CHECK(zt_attention(&q, &k, &v, &out, NULL, &options) == ZT_INVALID_ARGUMENT);
  options.initial_pos = NULL, options.window = -1;
  CHECK(zt_attention(&q, &k, &v, &out, NULL, &options) == ZT_INVALID_ARGUMENT);
  options.window = 0, options.threads = -1;
  CHECK(zt_attention(&q, &k, &v, &out, NULL, &options) == ZT_INVALID_ARGUMENT);
  struct {
    zt_options known;
    int64_t later;
  } longer;
  memset(&longer, 0, sizeof longer);
  longer.known.size = sizeof longer;
  CHECK(zt_attention(&q, &k, &v, &out, NULL, &longer.known) == 0);
  longer.later = 1;
  CHECK(zt_attention(&q, &k, &v, &out, NULL, &longer.known) == ZT_INVALID_ARGUMENT);

  /* 2^50 rows that are one row in memory: refused, whatever is found wrong first. */
  zt_tensor huge = q, huge_out = out;
  huge.shape[2] = huge_out.shape[2] = (int64_t)1 << 50;
  huge.strides[2] = 0;
  zt_tensor lse = tensor(q_data, 1, 1, huge.shape[2], 1, 0);
  lse.strides[2] = 0, huge_out.strides[2] = 0;
  zt_tensor d_q = huge, d_k = k, d_v = v;
  d_q.strides[2] = 4;
  float d_k_data[8], d_v_data[8];
  d_q.data = out_data, d_k.data = d_k_data, d_v.data = d_v_data;
  CHECK(zt_attention_backward(&huge, &k, &v, &huge_out, &lse, &huge_out, &d_q, &d_k, &d_v, NULL,
                              NULL) != 0);

  /* Nothing to do, and no keys. */
  zt_tensor none = tensor(NULL, 1, 1, 0, 4, 0), no_keys = tensor(NULL, 1, 1, 0, 4, 0);
  zt_tensor out_none = tensor(NULL, 1, 1, 0, 4, 0);
  CHECK(zt_attention(&none, &k, &v, &out_none, NULL, NULL) == 0);
  float lse_data[2];
  lse = tensor(lse_data, 1, 1, 2, 1, 0);
  CHECK(zt_attention(&q, &no_keys, &no_keys, &out, &lse, NULL) == 0);
  CHECK(out_data[0] == 0 && lse_data[0] == -INFINITY);
}

int main(void) {
  const char* name = zt_instruction_set();
  if (!name) {
    printf("%s\n", zt_last_error());
    return 1;
  }
  printf("instruction set: %s\n", name);
  static scene s;
  for (size_t i = 0; i < COUNT(s.q); ++i) s.q[i] = (double)(float)next_number();
  for (size_t i = 0; i < COUNT(s.k); ++i) s.k[i] = (double)(float)next_number();
  for (size_t i = 0; i < COUNT(s.v); ++i) s.v[i] = (double)(float)next_number();
  for (size_t i = 0; i < COUNT(s.d_out); ++i) s.d_out[i] = (double)(float)next_number();
  const float gamma[HEADS] = {0.25f, 1.0f, 8.0f, 0.0f};
  memcpy(s.gamma, gamma, sizeof gamma);
  s.scale = 0.25, s.causal = 1;
  for (int variant = 0; variant < 4; ++variant) {
    s.softcap = variant & 1 ? 1.5 : 0;
    s.causal = variant != 2;
    s.window = variant == 3 ? 40 : 0;
    s.initial[0] = 0, s.initial[1] = variant >= 2 ? 5 : 0;
    check_values(&s, 0, 5e-6);
    check_values(&s, 1, 1e-13);
  }
  check_errors();
  printf("%d failures\n", failures);
  return failures != 0;
}
