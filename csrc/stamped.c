/* Every loop of the library, compiled for each dtype and instruction set, and the tables of them. A build can be faster
 * that compiles this file several times at once, with STAMP_baseline, STAMP_avx2 or STAMP_avx512 defined: each time for one
 * instruction set. */
#if !defined(STAMP_baseline) && !defined(STAMP_avx2) && !defined(STAMP_avx512)
#define STAMP_baseline
#define STAMP_avx2
#define STAMP_avx512
#endif

#include <float.h>
#include <string.h>

#include "ahead.h"
#include "sizes.h"
#include "tables.h"

#if !defined(__GNUC__)
#error "fastopt needs GCC or Clang"
#endif
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || \
    defined(__NO_SIGNED_ZEROS__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__)
#error "fastopt promises the same bits everywhere: compile without -ffast-math and its parts"
#endif
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16 /* 16: only half precision is computed in a type of its own */
#error "fastopt promises the same bits everywhere: compile for arithmetic in float and double, not for x87's"
#endif

/* Equal bits must not depend on the flags of the build: no contraction into fused multiply-adds. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#if defined(__arm__)
#define NO_DEPENDENCIES /* asked to vectorize, Clang would take NEON's instructions, which flush subnormals there */
#else
#define NO_DEPENDENCIES _Pragma("clang loop vectorize(assume_safety)")
#endif
#else
#pragma GCC optimize("O3", "fp-contract=off", "no-trapping-math")
#define NO_DEPENDENCIES _Pragma("GCC ivdep")
#endif
#if !defined(__NO_MATH_ERRNO__)
#warning "compile with -fno-math-errno: a square root that may set errno is not vectorized"
#endif

/* FOR_EACH(macro, a, b, c) is macro(a) macro(b) macro(c), for up to 64 names. */
#define FOR_EACH(macro, ...) __VA_OPT__(RESCAN(FOR_EACH_STEP(macro, __VA_ARGS__)))
#define FOR_EACH_STEP(macro, first, ...) macro(first) __VA_OPT__(FOR_EACH_LATER NOTHING()()(macro, __VA_ARGS__))
#define FOR_EACH_LATER() FOR_EACH_STEP
#define NOTHING()
#define RESCAN(...) RESCAN_16(RESCAN_16(RESCAN_16(RESCAN_16(__VA_ARGS__))))
#define RESCAN_16(...) RESCAN_4(RESCAN_4(RESCAN_4(RESCAN_4(__VA_ARGS__))))
#define RESCAN_4(...) __VA_ARGS__
#define UNWRAP(...) __VA_ARGS__
#define TEXT(...) #__VA_ARGS__
#define ONE_MORE(name) +1
#define PASTE(a, b, c) PASTE_EXPANDED(a, b, c)
#define PASTE_EXPANDED(a, b, c) a##_##b##_##c

/* A kernel's file gives its names and its loop in one breath, so the first pass over the files also describes them. */
#define DESCRIBE(name, states, coefficients)                                                           \
    static const fastopt_kernel describe_##name = {#name, TEXT states, TEXT coefficients,              \
                                                   0 FOR_EACH(ONE_MORE, UNWRAP states),                \
                                                   0 FOR_EACH(ONE_MORE, UNWRAP coefficients)};

#define DESCRIBE_SUM(name, streams, coefficients, numbers)                                             \
    static const fastopt_sum describe_sum_##name = {#name, TEXT streams, TEXT coefficients, TEXT numbers, \
                                                    0 FOR_EACH(ONE_MORE, UNWRAP streams),              \
                                                    0 FOR_EACH(ONE_MORE, UNWRAP coefficients),         \
                                                    0 FOR_EACH(ONE_MORE, UNWRAP numbers)};

#define TABLE(level)                                                                                       \
    const struct isa isa_##level = {#level, {&loops_32_##level, &loops_64_##level}, kernels_bfloat16_32_##level, \
                                    step_mixed_32_##level};

#if defined(STAMP_baseline)
#define ISA baseline
#define TARGET
#define HALVES 0
#define DTYPE 32
#include "stamp.h"
#endif
#undef DESCRIBE
#define DESCRIBE(name, states, coefficients)
#undef DESCRIBE_SUM
#define DESCRIBE_SUM(name, streams, coefficients, numbers)
#if defined(STAMP_baseline)
#define DTYPE 64
#include "stamp.h"
TABLE(baseline)
#undef ISA
#undef TARGET
#undef HALVES
#endif

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang diagnostic error "-Wignored-attributes" /* an unknown word makes Clang ignore the instruction set */
#define WIDE "tune=x86-64"
#else
#define WIDE "prefer-vector-width=512"
#endif
#if defined(STAMP_avx2)
#define ISA avx2
#define TARGET __attribute__((target("avx2,f16c")))
#define HALVES 8
#define DTYPE 32
#include "stamp.h"
#define DTYPE 64
#include "stamp.h"
TABLE(avx2)
#undef ISA
#undef TARGET
#undef HALVES
#endif

#if defined(STAMP_avx512)
#define ISA avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw," WIDE)))
#define HALVES 16
#define DTYPE 32
#include "stamp.h"
#define DTYPE 64
#include "stamp.h"
TABLE(avx512)
#undef ISA
#undef TARGET
#undef HALVES
#endif
#endif

#if defined(STAMP_baseline)
const fastopt_kernel *const kernels[] = {
#define ENTRY(name) &describe_##name,
    KERNELS(ENTRY)
#undef ENTRY
};
const int32_t kernel_count = sizeof kernels / sizeof *kernels;

const fastopt_sum *const sums[] = {
#define ENTRY(name) &describe_sum_##name,
    SUMS(ENTRY)
#undef ENTRY
};
const int32_t sum_count = sizeof sums / sizeof *sums;

const int32_t storage_parts[] = {
#define ENTRY(name, parts, nearest, stochastic) parts,
    CODECS(ENTRY)
#undef ENTRY
};
const int32_t storage_count = sizeof storage_parts / sizeof *storage_parts;

const struct isa *const isas[] = {
    &isa_baseline,
#if defined(__x86_64__)
    &isa_avx2,
    &isa_avx512,
#endif
};
const int32_t isa_count = sizeof isas / sizeof *isas;
#endif
