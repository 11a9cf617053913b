/* Steps every kernel in both dtypes on ordinary and on hostile numbers, and prints a checksum of the bits of each: what
 * every processor and compiler must print alike. Ends with an error where instruction sets differ, or threads.
 *
 * Numbers are made as bit patterns and read as such, since loading a float may change it (x87 makes NaN quiet). Of a NaN
 * only the place counts. */
#include <fenv.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastopt.h"

enum { SHORT = 1003, LONG = 50021, STEPS = 3, MOST_COEFFICIENTS = 32, THREADS = 4 };

static const char *const data[] = {"ordinary", "edges", "tiny", "bits"};
static const char *const rows[] = {"fractions", "units"};

enum { ORDINARY, EDGES, TINY, BITS, DATA };
enum { FRACTIONS, UNITS, ROWS };

static uint64_t bits_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint32_t bits_of_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint64_t next(uint64_t *random)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = *random ^ *random >> 33;
    x *= 0xff51afd7ed558ccdu;
    return x ^ x >> 29;
}

/* One number of a data set, as its bits. States are not negative in the ordinary one: some of them are squares. */
static uint64_t number(int set, int dtype, int is_state, uint64_t *random)
{
    static const double edges[] = {0, -0.0, 1, -1, 0.5, -3, 1e-30, -1e30};
    const int is_float = dtype == FASTOPT_FLOAT32;
    const uint64_t drawn = next(random);
    const int width = is_float ? 32 : 64, mantissa = is_float ? 23 : 52;
    const uint64_t sign = drawn >> 7 << (width - 1), exponent = (is_float ? 0xffu : 0x7ffu) * ((uint64_t)1 << mantissa);
    const uint64_t pattern = drawn >> (64 - width);
    switch (set) {
    case ORDINARY: {
        const double value = (double)(int64_t)(drawn >> 40) / (1 << 23) - (is_state ? 0 : 1);
        return is_float ? bits_of_float((float)value) : bits_of(value);
    }
    case EDGES:
        switch (drawn % 12) {
        case 0: return exponent | sign;                                        /* an infinity */
        case 1: return exponent | ((uint64_t)1 << (mantissa - 1)) | sign;      /* a NaN */
        case 2: return (exponent - 1) | sign;                                  /* the largest finite number */
        case 3: return ((uint64_t)1 << mantissa) | sign;                       /* the smallest normal number */
        default: {
            const double value = edges[drawn % 12 - 4];
            return is_float ? bits_of_float((float)value) : bits_of(value);
        }
        }
    case TINY: return (pattern & (((uint64_t)1 << (mantissa + 2)) - 1)) | (is_state ? 0 : sign);
    default: return pattern;
    }
}

static void put(void *buffer, int64_t i, int dtype, uint64_t bits)
{
    if (dtype == FASTOPT_FLOAT32)
        ((uint32_t *)buffer)[i] = (uint32_t)bits;
    else
        ((uint64_t *)buffer)[i] = bits;
}

static uint64_t get(const void *buffer, int64_t i, int dtype)
{
    const int is_float = dtype == FASTOPT_FLOAT32;
    const uint64_t bits = is_float ? ((const uint32_t *)buffer)[i] : ((const uint64_t *)buffer)[i];
    const uint64_t infinity = is_float ? 0x7f800000u : 0x7ff0000000000000u;
    const uint64_t magnitude = bits & (is_float ? 0x7fffffffu : 0x7fffffffffffffffu);
    return magnitude > infinity ? infinity + 1 : bits;
}

static void *allocate(size_t size)
{
    void *memory = malloc(size);
    if (!memory)
        abort();
    return memory;
}

static void check(int32_t code)
{
    if (code != FASTOPT_OK) {
        printf("%s\n", fastopt_error(code));
        exit(1);
    }
}

/* The checksum of all buffers after some steps, and of the sums of squares on the way. */
static uint64_t run(int32_t kernel, int dtype, int set, int row, int64_t length, int32_t isa, int32_t threads)
{
    const fastopt_kernel *about = fastopt_kernel_at(kernel);
    const size_t size = dtype == FASTOPT_FLOAT32 ? 4 : 8;
    uint64_t random = (uint64_t)set + 1, hash = 14695981039346656037u;
    if (about->coefficient_count > MOST_COEFFICIENTS)
        abort();
    void *k = allocate(MOST_COEFFICIENTS * size);
    for (int i = 0; i < MOST_COEFFICIENTS; i++) {
        const double value = row == FRACTIONS ? 0.5 + i / 128.0 : (double)(1 - i % 3); /* exact in float */
        put(k, i, dtype, dtype == FASTOPT_FLOAT32 ? bits_of_float((float)value) : bits_of(value));
    }
    fastopt_span span = {.length = length, .coefficients = k, .kernel = kernel, .dtype = dtype};
    for (int b = 0; b < 2 + about->state_count; b++) {
        span.streams[b] = (fastopt_stream){.parts = {allocate((size_t)length * size)}, .storage = dtype};
        for (int64_t i = 0; i < length; i++)
            put(span.streams[b].parts[0], i, dtype, number(set, dtype, b >= 2, &random));
    }
    const fastopt_call call = {&span, 1, threads, isa, 1};
    double *partials = allocate((size_t)fastopt_blocks(&call) * sizeof *partials);
    for (int step = 0; step < STEPS; step++) {
        double sum = 0;
        check(fastopt_step(&call));
        check(fastopt_sum_squares(&call, 0.5, partials, &sum));
        hash = (hash ^ get(&sum, 0, FASTOPT_FLOAT64)) * 1099511628211u;
    }
    for (int b = 0; b < 2 + about->state_count; b++) {
        for (int64_t i = 0; i < length; i++) {
            hash = (hash ^ get(span.streams[b].parts[0], i, dtype)) * 1099511628211u;
            hash ^= hash >> 32;
        }
        free(span.streams[b].parts[0]);
    }
    free(partials);
    free(k);
    return hash;
}

/* Prints a checksum that every instruction set must give, and threads. */
static void print(int32_t kernel, int dtype, int set, int row, int64_t length, const char *mode)
{
    const uint64_t expected = run(kernel, dtype, set, row, length, FASTOPT_BASELINE, 1);
    const char *const name = fastopt_kernel_at(kernel)->name, *const type = dtype == FASTOPT_FLOAT32 ? "float32" : "float64";
    printf("%s %s %s %s %d %s %016" PRIx64 "\n", name, type, data[set], rows[row], (int)length, mode, expected);
    for (int32_t isa = FASTOPT_BASELINE; isa <= fastopt_best_isa(); isa++)
        for (int32_t threads = 1; threads <= THREADS; threads += THREADS - 1)
            if (run(kernel, dtype, set, row, length, isa, threads) != expected) {
                printf("other bits with %s and %d threads\n", fastopt_isa_name(isa), (int)threads);
                exit(1);
            }
}

int main(void)
{
    printf("pool %s\n", fastopt_pool());
    for (int32_t kernel = 0; fastopt_kernel_at(kernel); kernel++)
        for (int dtype = FASTOPT_FLOAT32; dtype <= FASTOPT_FLOAT64; dtype++)
            for (int set = 0; set < DATA; set++)
                for (int row = 0; row < ROWS; row++)
                    print(kernel, dtype, set, row, SHORT, "nearest");
    const int32_t adam = fastopt_find("adam");
    for (int dtype = FASTOPT_FLOAT32; dtype <= FASTOPT_FLOAT64; dtype++) {
        print(adam, dtype, ORDINARY, FRACTIONS, LONG, "nearest");
        fesetround(FE_UPWARD); /* threads round as the one that calls */
        print(adam, dtype, ORDINARY, FRACTIONS, LONG, "upward");
        fesetround(FE_TONEAREST);
    }
    return 0;
}
