/* SPDX-License-Identifier: Apache-2.0 */
/* The plain C interface of zerotune: attention, its gradients and the forms of ZeroTuning on
 * strided tensors, from any language. libzerotune_c holds a kernel for every instruction set and
 * picks by CPUID. */
#ifndef ZEROTUNE_C_H
#define ZEROTUNE_C_H

#include <stdint.h>

#if defined(ZEROTUNE_C_BUILD)
#define ZT_API __attribute__((visibility("default")))
#else
#define ZT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A tensor of four dimensions in the caller's memory. Strides count elements and may be negative,
 * on an input also zero. The pointer has to be aligned to the element only. */
typedef struct {
  void* data;         /* element (0, 0, 0, 0) */
  int64_t shape[4];   /* [batch, heads, length, dim] */
  int64_t strides[4]; /* in elements */
  int32_t dtype;      /* 0 float32, 1 float64, 2 float16, 3 bfloat16 */
} zt_tensor;

/* Set `size` to sizeof(zt_options) and the rest to zero, then what you want. A shorter struct (an
 * older caller's) gets the defaults of the fields that it lacks; a longer one is accepted if what
 * this library does not know is zero. */
typedef struct {
  uint64_t size;              /* sizeof(zt_options), for later versions */
  float softmax_scale;        /* 0: 1/sqrt(head_dim) */
  float softcap;              /* cap tanh(logit / cap) before gamma and masks; 0: none */
  int32_t causal;             /* not 0: queries are the last q_len positions and see none after */
  int32_t threads;            /* 0: 1 */
  int64_t window;             /* keys back from the query, itself included; 0: all */
  const float* gamma;         /* [num_heads], finite and >= 0; NULL: 1 */
  const int64_t* initial_pos; /* [batch], the initial token; keys before it are padding, masked;
                                 NULL: 0; outside [0, kv_len): error */
  float min_d;                /* zt_correct_output: rows with D below it are left and counted; 0: 1e-3 */
  int64_t* amplified_rows;    /* zt_correct_output: receives the number of such rows, or NULL */
} zt_options;

/* Every function returns 0 on success, else one of these; then zt_last_error() says what was wrong
 * and, unless it was ZT_OTHER_ERROR, nothing has been written. NULL options are the defaults. */
enum {
  ZT_INVALID_ARGUMENT = 1, /* the message reads `function: argument dim (name): expected X, got Y` */
  ZT_OUT_OF_MEMORY = 2,
  ZT_OTHER_ERROR = 3 /* no thread could be started, for example */
};

/* What all of them share:
 *   - num_heads is a multiple of num_kv_heads; query head h reads key-value head h / (num_heads /
 *     num_kv_heads).
 *   - k and v have one dtype; the others may have any, but float64 goes with float64 only. Sums are
 *     kept in float32, of float64 in float64.
 *   - Outputs are overwritten. They may overlap neither inputs nor one another.
 *   - With causal and q_len > kv_len the early rows see nothing: zeros, and an lse of -infinity.
 *   - `window` limits the past only, with or without causal, and does not keep the initial token.
 *   - gamma = 0 excludes the initial token exactly; a row that sees nothing else stays unmodified.
 *   - lse is a natural logarithm, float32 [batch, num_heads, q_len, 1]; for float64 tensors it may
 *     be float64 as well.
 *   - threads > 1 start with the call and end with it. Results are bitwise the same for any number.
 *   - Calls from several threads at once are safe. */

/* out [batch, num_heads, q_len, value_dim] = softmax(modified(softmax_scale q k^T)) v, for
 * q [batch, num_heads, q_len, head_dim], k [batch, num_kv_heads, kv_len, head_dim] and
 * v [batch, num_kv_heads, kv_len, value_dim]. lse may be NULL. */
ZT_API int zt_attention(const zt_tensor* q, const zt_tensor* k, const zt_tensor* v, zt_tensor* out,
                        zt_tensor* lse, const zt_options* options);

/* Gradients of a loss through zt_attention with the same options: out and lse are its results, d_out
 * is dL/dout. d_log_gamma is [batch, num_heads] side by side, or NULL: dL/d log gamma, 0 where gamma
 * is 0. d_q, d_k and d_v have the shapes of q, k and v. */
ZT_API int zt_attention_backward(const zt_tensor* q, const zt_tensor* k, const zt_tensor* v,
                                 const zt_tensor* out, const zt_tensor* lse, const zt_tensor* d_out,
                                 zt_tensor* d_q, zt_tensor* d_k, zt_tensor* d_v, float* d_log_gamma,
                                 const zt_options* options);

/* Multiplies the initial token's column of weights [batch, num_heads, q_len, kv_len] (after softmax)
 * by gamma and divides each row by its new sum, in place. gamma, causal, window and initial_pos
 * apply; entries that they mask are neither read nor written. */
ZT_API int zt_rescale_weights(zt_tensor* weights, const zt_options* options);

/* Turns out and lse of an attention kernel that knows nothing of gamma into those with gamma, in
 * place; the options say what the kernel did. Rows whose errors would be amplified by more than
 * 1 / min_d are left as they are and counted. */
ZT_API int zt_correct_output(zt_tensor* out, zt_tensor* lse, const zt_tensor* q, const zt_tensor* k,
                             const zt_tensor* v, const zt_options* options);

/* What went wrong in this thread's last call; "" if nothing did. Valid until its next call. */
ZT_API const char* zt_last_error(void);

/* The instruction set in use: "baseline", "avx2" or "avx512"; "avx512_bf16" or "amx_bf16" where
 * bfloat16 has kernels for it. The environment variable ZEROTUNE_INSTRUCTION_SET, read once, forces
 * a lower one; if it names one that is unknown or that this machine lacks, the result is NULL and
 * every call fails with ZT_INVALID_ARGUMENT. */
ZT_API const char* zt_instruction_set(void);

#ifdef __cplusplus
}
#endif

#endif
