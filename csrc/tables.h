/* What stamped.c gives fastopt.c: every loop, by instruction set and by the dtype that it computes in. */
#ifndef FASTOPT_TABLES_H
#define FASTOPT_TABLES_H
#include <stdint.h>

#include "codecs/noise.h"
#include "fastopt.h"
#include "sizes.h"

/* A kernel over the elements [start, stop) of its buffers: p, g, then the states. */
typedef void kernel_loop(void *const *buffers, const void *k, int64_t start, int64_t stop);

/* Adds what each of `count` elements contributes to each number of a sum: LANES of them side by side. */
typedef void sum_loop(void *const *buffers, const void *k, int32_t count, double (*numbers)[LANES]);

/* A codec over `count` elements of `parts` from `start`, a multiple of the storage's block. */
typedef void decode_loop(void *const *parts, int64_t start, int32_t count, void *values);
typedef void encode_loop(const void *values, int32_t count, void *const *parts, int64_t start, const uint32_t *noise,
                         int shift);

/* A kernel over `count` elements, whole chunks, of streams of which each lies in memory as float32, in `numbers`, or as
 * bfloat16, in `codes`, where it is not NULL. One more of these takes a copy of the parameters, if it is not NULL. */
typedef void mixed_loop(kernel_loop *kernel, int streams, void *const *numbers, void *const *codes, const void *k,
                        int64_t count);

struct codec {
    decode_loop *decode;
    encode_loop *encode[2]; /* by whether to round stochastically */
};

struct loops {
    kernel_loop *const *kernels; /* by fastopt_find() */
    const struct codec *codecs;  /* by the storage's number */
    void (*fill_noise)(noise_key key, uint32_t first, int32_t count, uint32_t *noise);
    kernel_loop *blend; /* for averages that follow */
    sum_loop *const *sums; /* by fastopt_find_sum() */
    int (*is_exact)(void);
};

struct isa {
    const char *name;
    const struct loops *loops[2];         /* by dtype */
    kernel_loop *const *kernels_bfloat16; /* by fastopt_find(), over whole chunks of numbers that all are bfloat16 */
    mixed_loop *step_mixed;
};

#pragma GCC visibility push(hidden)
extern const fastopt_kernel *const kernels[];
extern const int32_t kernel_count;
extern const fastopt_sum *const sums[];
extern const int32_t sum_count;
extern const int32_t storage_parts[]; /* how many arrays a stream consists of */
extern const int32_t storage_count;
extern const struct isa isa_baseline, isa_avx2, isa_avx512;
extern const struct isa *const isas[]; /* those that this architecture has */
extern const int32_t isa_count;
#pragma GCC visibility pop

#endif
