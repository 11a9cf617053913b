/* fastopt: neural-network optimizer kernels over flat buffers. The public C interface.
 *
 * A step is one call: fastopt_step() applies to each span its kernel with its row of coefficients, all spans in one
 * parallel region. Parameters, gradient and states may each lie in memory in a storage of its own: they are decoded and
 * encoded in the cache, so that a step is one pass over memory. Memory belongs to the caller; fastopt_create() is for
 * callers that want the states kept for them. The result has the same bits for every instruction set, number of threads
 * and split into spans.
 *
 * The library keeps nothing between calls but what fastopt_create() returns: two users in one process cannot disturb
 * each other. Every function may be called from any thread; an optimizer or buffer belongs to one call at a time.
 */
#ifndef FASTOPT_H
#define FASTOPT_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* The version of this interface: the first number changes when a program must be recompiled. */
#define FASTOPT_ABI_MAJOR 2
#define FASTOPT_ABI_MINOR 2

/* The most streams that a span can have: parameters, gradient and states. */
#define FASTOPT_MAX_STREAMS 8

/* The most arrays that a stream can consist of. */
#define FASTOPT_MAX_PARTS 2

/* The most numbers that a sum can have. */
#define FASTOPT_MAX_NUMBERS 4

/* What the functions return: zero, or what was wrong with the call. Nothing has been written then. */
enum {
    FASTOPT_OK = 0,
    FASTOPT_NO_KERNEL = 1,  /* a span names a kernel that does not exist */
    FASTOPT_NO_DTYPE = 2,   /* a span names a dtype that does not exist */
    FASTOPT_NO_ISA = 3,     /* the call names an instruction set that this processor or build lacks */
    FASTOPT_NO_BUFFER = 4,  /* a length or count is negative, or an array or the row of coefficients is NULL */
    FASTOPT_NO_THREADS = 5, /* fewer than one thread */
    FASTOPT_NO_MEMORY = 6,
    FASTOPT_NOT_EXACT = 7,  /* the library was compiled with options that change results; every step is refused */
    FASTOPT_NO_STORAGE = 8, /* a stream names a storage that does not exist */
    FASTOPT_NO_KEYS = 9,    /* a stream is rounded stochastically, and the span has no keys for it */
    FASTOPT_NO_SUM = 10,    /* the sum does not exist, or reads more streams than a span's kernel has */
    FASTOPT_NO_RUN = 11     /* a count of runs is negative, or a run has elements that its span has not */
};

/* Storages: how numbers lie in memory. The first two are also the dtypes that kernels compute in. Parts are arrays of
 * float or double, of uint16_t (16 bits; split: the upper half, which is bfloat16, then the lower one), or of uint8_t and
 * a float for each 256 elements (float8). fastopt/storages/README.md has them byte for byte. */
enum {
    FASTOPT_FLOAT32 = 0,
    FASTOPT_FLOAT64 = 1,
    FASTOPT_BFLOAT16 = 2,
    FASTOPT_FLOAT16 = 3,
    FASTOPT_SPLIT = 4,
    FASTOPT_FLOAT8_SIGNED = 5,
    FASTOPT_FLOAT8_UNSIGNED = 6
};

/* Instruction sets, each above the one before it. The baseline is SSE2 on x86-64 and NEON on AArch64. */
enum { FASTOPT_BASELINE = 0, FASTOPT_AVX2 = 1, FASTOPT_AVX512 = 2 };

/* What a kernel takes: names separated by ", ", in the order of the buffers and of the coefficients. */
typedef struct fastopt_kernel {
    const char *name;
    const char *states;
    const char *coefficients;
    int32_t state_count;
    int32_t coefficient_count;
} fastopt_kernel;

/* What a sum reads and adds up: names separated by ", ". Streams are the first of a kernel's, or the gradient alone; its
 * coefficients are others than the kernel's. */
typedef struct fastopt_sum {
    const char *name;
    const char *streams;
    const char *coefficients;
    const char *numbers;
    int32_t stream_count;
    int32_t coefficient_count;
    int32_t number_count;
} fastopt_sum;

/* As many numbers as its span is long, as they lie in memory. Nothing that is written may overlap anything else. */
typedef struct fastopt_stream {
    void *parts[FASTOPT_MAX_PARTS];
    int32_t storage;
    int32_t stochastic; /* whether numbers are rounded up or down at random when they are written, or else to nearest */
} fastopt_stream;

/* What is written from the new parameters while they are in the cache: with a row of two coefficients a moving average,
 * stream = k[0] stream + k[1] p, without one (NULL) a copy. Rounded to nearest. */
typedef struct fastopt_follower {
    fastopt_stream stream;
    const void *coefficients;
} fastopt_follower;

/* A run of parameters that one kernel updates with one row of coefficients. */
typedef struct fastopt_span {
    int64_t length;                              /* elements in each stream */
    const void *coefficients;                    /* in the order of the kernel's names */
    fastopt_stream streams[FASTOPT_MAX_STREAMS]; /* p, g, then the states; g is only read */
    int32_t kernel;                              /* from fastopt_find() */
    int32_t dtype;                               /* that the kernel computes in: FASTOPT_FLOAT32 or FASTOPT_FLOAT64 */
    int64_t follower_count;
    const fastopt_follower *followers;
    const uint64_t *keys; /* of stochastic rounding in this step: one for p and g, one for each two states; or NULL */
    int64_t first;        /* the number of the span's first element, from which stochastic rounding counts */
} fastopt_span;

/* A step: every span is updated once. */
typedef struct fastopt_call {
    const fastopt_span *spans;
    int64_t count;    /* spans */
    int32_t threads;  /* at most so many, and as there are processors; small calls use fewer */
    int32_t isa;
    int64_t grain;    /* elements that are worth a thread; 0: the library's choice */
} fastopt_call;

/* Some of a span's elements, such as a row of a table: from `start` on, by the elements of the gradient from `source` on,
 * which then is not as long as the span. `start` is a multiple of the block of every storage: 256 where there is float8. */
typedef struct fastopt_run {
    int64_t start;
    int64_t source;
    int64_t length;
} fastopt_run;

/* Those elements of a span that a step updates, none of them twice. Where `runs` is NULL these are all. */
typedef struct fastopt_runs {
    const fastopt_run *runs;
    int64_t count;
} fastopt_runs;

/* FASTOPT_ABI_MAJOR * 1000 + FASTOPT_ABI_MINOR of the library that is running. */
int32_t fastopt_abi(void);

/* The kernel of that index, or NULL: the indices are 0, 1, 2 and so on. */
const fastopt_kernel *fastopt_kernel_at(int32_t index);

/* The index of the kernel of that name, or -1. */
int32_t fastopt_find(const char *name);

/* The best instruction set that this processor, its operating system and this build have. */
int32_t fastopt_best_isa(void);

/* What an instruction set is called: "baseline", "avx2", "avx512"; NULL if there is no such one. */
const char *fastopt_isa_name(int32_t isa);

/* What an error code means, in a sentence. */
const char *fastopt_error(int32_t code);

/* One step. Returns FASTOPT_OK or what was wrong. */
int32_t fastopt_step(const fastopt_call *call);

/* One step of some elements: `runs` has those of each span; NULL: all, as fastopt_step(). */
int32_t fastopt_step_runs(const fastopt_call *call, const fastopt_runs *runs);

/* How many blocks of elements there are, of which sums are taken apart. */
int64_t fastopt_blocks(const fastopt_call *call);

/* The sum of that index, or NULL: the indices are 0, 1, 2 and so on. */
const fastopt_sum *fastopt_sum_at(int32_t index);

/* The index of the sum of that name, or -1. */
int32_t fastopt_find_sum(const char *name);

/* The numbers of a sum over each span, side by side in `numbers`, in double: fixed blocks, counted from the span's start
 * and added in order, hence the same bits for every number of threads. Nothing else is written: what a sum knows of an
 * update it computes as the kernel will. Here a span's coefficients are those of the sum. `partials` has room for
 * fastopt_blocks() times the sum's numbers. */
int32_t fastopt_measure(const fastopt_call *call, int32_t sum, double *partials, double *numbers);

/* The sum of (scale * g[i])^2 over the gradients of all spans, in double: the sum "sum_squares" of all of them, in the
 * dtype of each gradient. It is infinite or NaN where a gradient is. `partials` has room for fastopt_blocks() numbers.
 * The other streams of a span are not read, but may not be NULL: the gradient itself will do for them. */
int32_t fastopt_sum_squares(const fastopt_call *call, double scale, double *partials, double *sum);

/* Where the threads come from: "libgomp", or "none" when every call is serial. */
const char *fastopt_pool(void);

/* An optimizer that keeps the states of one flat buffer of parameters. */
typedef struct fastopt_optimizer fastopt_optimizer;

/* An optimizer for `length` parameters, its states filled with zeros; NULL if there is no such kernel or dtype, or no
 * memory. `*error`, if it is not NULL, says which. fastopt_destroy() frees it. */
fastopt_optimizer *fastopt_create(const char *kernel, int32_t dtype, int64_t length, int32_t *error);

/* The buffer of the state of that index, in the order of the kernel's names: `length` elements, 64-byte aligned. NULL
 * if there is no such state. */
void *fastopt_state(fastopt_optimizer *optimizer, int32_t index);

/* One step of the parameters p by the gradient g with a row of coefficients. Returns FASTOPT_OK or what was wrong. */
int32_t fastopt_update(fastopt_optimizer *optimizer, void *p, const void *g, const void *coefficients, int32_t threads,
                       int32_t isa);

/* Frees an optimizer; NULL is allowed. */
void fastopt_destroy(fastopt_optimizer *optimizer);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
