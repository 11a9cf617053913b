/* The table of kernels, the choice of instruction set, and the way from a call to the loops. */
#include "fastopt.h"

#include <float.h>
#include <stddef.h>
#include <string.h>

#include "float_mode.h"
#include "parallel.h"

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

enum {
    LANES = 32,         /* sums that run side by side in a block of the norm */
    BLOCK = 16384,      /* elements of a block of the norm */
    GRAIN = 65536,      /* elements that are worth a thread: for fewer, waiting for it can cost more than it saves */
    CACHE_LINE = 64,    /* elements: no two threads write to one line */
    EACH = 16           /* numbers of a kind in the test of exactness: a vector of AVX-512 */
};

typedef void (*kernel_loop)(void *const *buffer, const void *k, int64_t start, int64_t stop);
typedef double (*sum_loop)(const void *gradient, double scale, int64_t start, int64_t stop);

#define DESCRIBE(name, states, coefficients)                                                           \
    static const fastopt_kernel describe_##name = {#name, TEXT states, TEXT coefficients,              \
                                                   0 FOR_EACH(ONE_MORE, UNWRAP states),                \
                                                   0 FOR_EACH(ONE_MORE, UNWRAP coefficients)};

#define ISA baseline
#define TARGET
#define DTYPE 32
#include "exactness.h"
#include "loop.h"
#define DTYPE 64
#include "exactness.h"
#include "loop.h"
#undef ISA
#undef TARGET

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang diagnostic error "-Wignored-attributes" /* an unknown word makes Clang ignore the instruction set */
#define WIDE "tune=x86-64"
#else
#define WIDE "prefer-vector-width=512"
#endif
#define ISA avx2
#define TARGET __attribute__((target("avx2")))
#define DTYPE 32
#include "exactness.h"
#include "loop.h"
#define DTYPE 64
#include "exactness.h"
#include "loop.h"
#undef ISA
#undef TARGET

#define ISA avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw," WIDE)))
#define DTYPE 32
#include "exactness.h"
#include "loop.h"
#define DTYPE 64
#include "exactness.h"
#include "loop.h"
#undef ISA
#undef TARGET
#endif

static const fastopt_kernel *const descriptions[] = {
#define ENTRY(name) &describe_##name,
    KERNELS(ENTRY)
#undef ENTRY
};

enum { KERNEL_COUNT = sizeof(descriptions) / sizeof(*descriptions) };

static const struct {
    const char *name;
    const kernel_loop *kernels[2]; /* by dtype */
    sum_loop sum_squares[2];
    int (*is_exact[2])(void);
} isas[] = {
#define LEVEL(isa) \
    {#isa, {kernels_32_##isa, kernels_64_##isa}, {sum_squares_32_##isa, sum_squares_64_##isa}, \
     {is_exact_32_##isa, is_exact_64_##isa}},
    LEVEL(baseline)
#if defined(__x86_64__)
    LEVEL(avx2)
    LEVEL(avx512)
#endif
};

enum { ISA_COUNT = sizeof(isas) / sizeof(*isas) };

static int inexact; /* whether the compiler's options have changed results */

/* When the library is loaded, in the default floating-point mode and not in that of the thread that loads it. */
__attribute__((constructor)) static void check_exactness(void)
{
    float_mode mode;
    get_float_mode(&mode);
    set_default_float_mode();
    for (int32_t isa = 0; isa <= fastopt_best_isa(); isa++)
        inexact |= !isas[isa].is_exact[FASTOPT_FLOAT32]() || !isas[isa].is_exact[FASTOPT_FLOAT64]();
    set_float_mode(&mode);
}

int32_t fastopt_abi(void) { return FASTOPT_ABI_MAJOR * 1000 + FASTOPT_ABI_MINOR; }

const fastopt_kernel *fastopt_kernel_at(int32_t index)
{
    return index >= 0 && index < KERNEL_COUNT ? descriptions[index] : NULL;
}

int32_t fastopt_find(const char *name)
{
    for (int32_t index = 0; index < KERNEL_COUNT; index++)
        if (strcmp(descriptions[index]->name, name) == 0)
            return index;
    return -1;
}

int32_t fastopt_best_isa(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2"))
        return FASTOPT_BASELINE;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        return FASTOPT_AVX512;
    return FASTOPT_AVX2;
#else
    return FASTOPT_BASELINE;
#endif
}

const char *fastopt_isa_name(int32_t isa) { return isa >= 0 && isa < ISA_COUNT ? isas[isa].name : NULL; }

const char *fastopt_pool(void) { return parallel_pool(); }

const char *fastopt_error(int32_t code)
{
    switch (code) {
    case FASTOPT_OK: return "no error";
    case FASTOPT_NO_KERNEL: return "a span names a kernel that does not exist";
    case FASTOPT_NO_DTYPE: return "a span names a dtype that does not exist";
    case FASTOPT_NO_ISA: return "the call names an instruction set that this processor or build lacks";
    case FASTOPT_NO_BUFFER: return "a length is negative, or a buffer or the row of coefficients is NULL";
    case FASTOPT_NO_THREADS: return "the call asks for fewer than one thread";
    case FASTOPT_NO_MEMORY: return "there is not enough memory";
    case FASTOPT_NOT_EXACT:
        return "the library was compiled with options that change results, such as -ffp-contract=fast or a part of "
               "-ffast-math";
    default: return "unknown error code";
    }
}

static int32_t check_span(const fastopt_span *span)
{
    if (span->kernel < 0 || span->kernel >= KERNEL_COUNT)
        return FASTOPT_NO_KERNEL;
    if (span->dtype != FASTOPT_FLOAT32 && span->dtype != FASTOPT_FLOAT64)
        return FASTOPT_NO_DTYPE;
    if (span->length < 0 || !span->coefficients)
        return FASTOPT_NO_BUFFER;
    for (int32_t buffer = 0; buffer < 2 + descriptions[span->kernel]->state_count; buffer++)
        if (!span->buffers[buffer] && span->length > 0)
            return FASTOPT_NO_BUFFER;
    return FASTOPT_OK;
}

static int32_t check_call(const fastopt_call *call)
{
    if (inexact)
        return FASTOPT_NOT_EXACT;
    if (call->isa < 0 || call->isa >= ISA_COUNT || call->isa > fastopt_best_isa())
        return FASTOPT_NO_ISA;
    if (call->threads < 1)
        return FASTOPT_NO_THREADS;
    if (call->count < 0 || (call->count > 0 && !call->spans))
        return FASTOPT_NO_BUFFER;
    for (int64_t index = 0; index < call->count; index++) {
        const int32_t code = check_span(&call->spans[index]);
        if (code != FASTOPT_OK)
            return code;
    }
    return FASTOPT_OK;
}

static int useful_threads(int64_t elements, const fastopt_call *call)
{
    const int64_t grains = elements / (call->grain > 0 ? call->grain : GRAIN);
    return grains < call->threads ? (grains < 1 ? 1 : (int)grains) : (int)call->threads;
}

static int64_t total_length(const fastopt_call *call)
{
    int64_t total = 0;
    for (int64_t index = 0; index < call->count; index++)
        total += call->spans[index].length;
    return total;
}

/* The first element of a worker's share, counted over all spans. */
static int64_t share(int64_t total, int worker, int workers)
{
    if (worker == workers)
        return total;
    const int64_t lines = total / CACHE_LINE;
    return (lines / workers * worker + lines % workers * worker / workers) * CACHE_LINE;
}

struct step {
    const fastopt_call *call;
    int64_t total;
};

/* Updates one worker's share of the elements: the spans laid end to end, cut into as many runs as there are workers. */
static void step_share(void *context, int worker, int workers)
{
    const struct step *step = context;
    const fastopt_call *call = step->call;
    const int64_t first = share(step->total, worker, workers);
    const int64_t last = share(step->total, worker + 1, workers);
    int64_t offset = 0;
    for (int64_t index = 0; index < call->count && offset < last; index++) {
        const fastopt_span *span = &call->spans[index];
        const int64_t start = first > offset ? first - offset : 0;
        const int64_t stop = last - offset < span->length ? last - offset : span->length;
        if (start < stop)
            isas[call->isa].kernels[span->dtype][span->kernel](span->buffers, span->coefficients, start, stop);
        offset += span->length;
    }
}

int32_t fastopt_step(const fastopt_call *call)
{
    const int32_t code = check_call(call);
    if (code == FASTOPT_OK) {
        struct step step = {call, total_length(call)};
        parallel_run(step_share, &step, useful_threads(step.total, call));
    }
    return code;
}

int64_t fastopt_blocks(const fastopt_call *call)
{
    int64_t blocks = 0;
    for (int64_t index = 0; index < call->count; index++)
        blocks += (call->spans[index].length + BLOCK - 1) / BLOCK;
    return blocks;
}

struct sum {
    const fastopt_call *call;
    int64_t blocks;
    double scale;
    double *partials;
};

/* Sums one worker's share of the blocks. */
static void sum_share(void *context, int worker, int workers)
{
    const struct sum *sum = context;
    const fastopt_call *call = sum->call;
    const int64_t last = sum->blocks * (worker + 1) / workers;
    int64_t block = sum->blocks * worker / workers;
    int64_t offset = 0; /* blocks of the spans before this one */
    for (int64_t index = 0; index < call->count && block < last; index++) {
        const fastopt_span *span = &call->spans[index];
        const int64_t blocks = (span->length + BLOCK - 1) / BLOCK;
        for (; block < last && block - offset < blocks; block++) {
            const int64_t start = (block - offset) * BLOCK;
            const int64_t stop = start + BLOCK < span->length ? start + BLOCK : span->length;
            sum->partials[block] =
                isas[call->isa].sum_squares[span->dtype](span->buffers[1], sum->scale, start, stop);
        }
        offset += blocks;
    }
}

int32_t fastopt_sum_squares(const fastopt_call *call, double scale, double *partials, double *total)
{
    const int32_t code = check_call(call);
    if (code == FASTOPT_OK) {
        struct sum sum = {call, fastopt_blocks(call), scale, partials};
        parallel_run(sum_share, &sum, useful_threads(total_length(call), call));
        *total = 0;
        for (int64_t block = 0; block < sum.blocks; block++)
            *total += partials[block];
    }
    return code;
}
