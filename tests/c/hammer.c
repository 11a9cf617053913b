/* Steps every kernel, dtype, mix of storages and instruction set over several spans, from two threads at once, with four
 * workers, and compares the bits with those of one. Also makes every error that a call can have. For sanitizers. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastopt.h"

enum { SPANS = 5, MOST_COEFFICIENTS = 16, STEPS = 2, FOLLOWERS = 2, MIXES = 5 };

/* The storages of p, g, states and the two followers: a moving average and a copy. */
static const struct {
    int32_t p, g, state, average, copy, stochastic, followers;
} mixes[MIXES] = {
    {-1, -1, -1, -1, -1, 0, 0}, /* -1: as the kernel computes */
    {-1, -1, -1, -1, FASTOPT_BFLOAT16, 0, 2},
    {-1, FASTOPT_BFLOAT16, -1, -1, FASTOPT_FLOAT16, 0, 2},
    {FASTOPT_SPLIT, FASTOPT_FLOAT16, FASTOPT_BFLOAT16, FASTOPT_BFLOAT16, FASTOPT_FLOAT64, 1, 2},
    {FASTOPT_BFLOAT16, FASTOPT_FLOAT8_SIGNED, FASTOPT_FLOAT8_UNSIGNED, FASTOPT_FLOAT32, FASTOPT_SPLIT, 1, 1},
};

static const int64_t lengths[SPANS] = {1, 0, 20000, 17, 45601};

/* How many bytes a part of a storage takes: exactly, so that a sanitizer sees one element too many. */
static size_t bytes(int32_t storage, int part, int64_t length)
{
    const size_t n = (size_t)length, blocks = (n + 255) / 256;
    switch (storage) {
    case FASTOPT_FLOAT32: return part ? 0 : 4 * n;
    case FASTOPT_FLOAT64: return part ? 0 : 8 * n;
    case FASTOPT_SPLIT: return 2 * n;
    case FASTOPT_FLOAT8_SIGNED:
    case FASTOPT_FLOAT8_UNSIGNED: return part ? 4 * blocks : n;
    default: return part ? 0 : 2 * n;
    }
}

static void put(void *part, int64_t i, double value, int32_t dtype)
{
    if (dtype == FASTOPT_FLOAT32)
        ((float *)part)[i] = (float)value;
    else
        ((double *)part)[i] = value;
}

static fastopt_stream allocate(int32_t storage, int32_t dtype, int64_t length, int stochastic, unsigned seed)
{
    fastopt_stream stream = {.storage = storage < 0 ? dtype : storage, .stochastic = stochastic};
    for (int part = 0; part < FASTOPT_MAX_PARTS; part++) {
        const size_t size = bytes(stream.storage, part, length);
        stream.parts[part] = malloc(size ? size : 1);
        if (stream.storage == FASTOPT_FLOAT32 || stream.storage == FASTOPT_FLOAT64) {
            const double tiny = stream.storage == FASTOPT_FLOAT32 ? 2e-38 : 4e-308;
            for (int64_t i = 0; i < length && part == 0; i++) {
                seed = seed * 1664525u + 1013904223u;
                put(stream.parts[part], i, (double)(seed >> 8) / (1 << 24) * (i % 3 ? 1 : tiny), stream.storage);
            }
        } else if (part == 1 && stream.storage >= FASTOPT_FLOAT8_SIGNED) {
            for (size_t block = 0; block < size / 4; block++)
                put(stream.parts[part], (int64_t)block, 0x1p-9, FASTOPT_FLOAT32);
        } else {
            for (size_t i = 0; i < size; i++) {
                seed = seed * 1664525u + 1013904223u;
                ((unsigned char *)stream.parts[part])[i] = (unsigned char)(i % 2 ? 0x3c : seed >> 24);
            }
        }
    }
    return stream;
}

/* A checksum of a stream's bytes, which frees them. */
static uint64_t finish(const fastopt_stream *stream, int64_t length, uint64_t hash)
{
    for (int part = 0; part < FASTOPT_MAX_PARTS; part++) {
        for (size_t i = 0; i < bytes(stream->storage, part, length); i++)
            hash = (hash ^ ((const unsigned char *)stream->parts[part])[i]) * 1099511628211u;
        free(stream->parts[part]);
    }
    return hash;
}

/* All of a span, the last elements first, in runs of as many as tell rows from tiles. */
static fastopt_runs apart(int64_t length)
{
    enum { ROW = 768 };
    const int64_t count = (length + ROW - 1) / ROW;
    fastopt_run *runs = malloc((size_t)(count + 1) * sizeof *runs);
    for (int64_t i = 0, start = (count - 1) * ROW; i < count; i++, start -= ROW)
        runs[i] = (fastopt_run){start, start, length - start < ROW ? length - start : ROW};
    return (fastopt_runs){runs, count};
}

/* A checksum of all streams after some steps of a kernel, and of the norm of the gradients; steps of runs if there are
 * `rows`. */
static uint64_t run(int32_t kernel, int32_t dtype, int mix, int32_t isa, int32_t threads, int rows)
{
    const fastopt_kernel *about = fastopt_kernel_at(kernel);
    const uint64_t keys[] = {0x0123456789abcdefu, 0xfedcba9876543210u, 77, 0};
    float row32[MOST_COEFFICIENTS];
    double row64[MOST_COEFFICIENTS];
    for (int i = 0; i < MOST_COEFFICIENTS; i++)
        row32[i] = (float)(row64[i] = 0.5 + 0.01 * i);
    const void *row = dtype == FASTOPT_FLOAT32 ? (const void *)row32 : (const void *)row64;

    fastopt_span spans[SPANS];
    fastopt_follower followers[SPANS][FOLLOWERS];
    memset(spans, 0, sizeof spans);
    for (int s = 0; s < SPANS; s++) {
        const unsigned seed = (unsigned)s * 100;
        const int64_t n = lengths[s];
        spans[s].length = n;
        spans[s].kernel = kernel;
        spans[s].dtype = dtype;
        spans[s].coefficients = row;
        spans[s].keys = keys;
        spans[s].follower_count = mixes[mix].followers;
        spans[s].followers = followers[s];
        for (int b = 0; b < 2 + about->state_count; b++) {
            const int32_t storage = b == 0 ? mixes[mix].p : b == 1 ? mixes[mix].g : mixes[mix].state;
            spans[s].streams[b] = allocate(storage, dtype, n, mixes[mix].stochastic, seed + (unsigned)b);
        }
        followers[s][0] = (fastopt_follower){allocate(mixes[mix].average, dtype, n, 0, seed + 50), row};
        followers[s][1] = (fastopt_follower){allocate(mixes[mix].copy, dtype, n, 0, seed + 51), NULL};
    }
    const fastopt_call call = {spans, SPANS, threads, isa, 16384};
    double *partials = malloc((size_t)fastopt_blocks(&call) * sizeof *partials);
    double norm = 0;
    fastopt_runs runs[SPANS];
    for (int s = 0; s < SPANS; s++)
        runs[s] = rows && s ? apart(lengths[s]) : (fastopt_runs){NULL, 0};
    for (int step = 0; step < STEPS; step++)
        if ((rows ? fastopt_step_runs(&call, runs) : fastopt_step(&call)) || fastopt_sum_squares(&call, 0.5, partials, &norm))
            abort();
    uint64_t hash = 0;
    memcpy(&hash, &norm, sizeof norm);
    for (int s = 0; s < SPANS; s++) {
        free((void *)runs[s].runs);
        for (int b = 0; b < 2 + about->state_count; b++)
            hash = finish(&spans[s].streams[b], lengths[s], hash);
        for (int f = 0; f < FOLLOWERS; f++)
            hash = finish(&followers[s][f].stream, lengths[s], hash);
    }
    free(partials);
    return hash;
}

/* Flushes subnormals to zero in this thread, or no longer: workers must follow. */
static void flush_subnormals(int on)
{
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(on ? 0x9fc0 : 0x1f80);
#else
    (void)on;
#endif
}

static void *hammer(void *flush)
{
    run(0, FASTOPT_FLOAT32, 0, FASTOPT_BASELINE, 4, 0); /* makes the workers, which inherit the mode of this thread */
    flush_subnormals(flush != NULL);
    for (int32_t kernel = 0; fastopt_kernel_at(kernel); kernel++)
        for (int32_t dtype = FASTOPT_FLOAT32; dtype <= FASTOPT_FLOAT64; dtype++)
            for (int mix = 0; mix < MIXES; mix++) {
                const uint64_t expected = run(kernel, dtype, mix, FASTOPT_BASELINE, 1, 0);
                for (int32_t isa = FASTOPT_BASELINE; isa <= fastopt_best_isa(); isa++)
                    if (run(kernel, dtype, mix, isa, 4, isa == fastopt_best_isa()) != expected) {
                        printf("%s, mix %d: other bits with %s\n", fastopt_kernel_at(kernel)->name, mix,
                               fastopt_isa_name(isa));
                        abort();
                    }
            }
    return NULL;
}

static void expect(int32_t got, int32_t wanted)
{
    if (got != wanted) {
        printf("got \"%s\", not \"%s\"\n", fastopt_error(got), fastopt_error(wanted));
        abort();
    }
}

static void errors(void)
{
    float p = 1, g = 1, k[4] = {1, 0, 1, 1};
    const int32_t sgd = fastopt_find("sgd");
    const uint64_t key = 1;
    const fastopt_follower copy = {.stream = {.storage = 7}};
    fastopt_span span = {
        .length = 1, .coefficients = k, .streams = {{.parts = {&p}}, {.parts = {&g}}}, .kernel = sgd, .dtype = FASTOPT_FLOAT32};
    fastopt_call call = {&span, 1, 1, FASTOPT_BASELINE, 0};
    int32_t code;
    expect(fastopt_find("adm"), -1);
    call.isa = fastopt_best_isa() + 1, expect(fastopt_step(&call), FASTOPT_NO_ISA), call.isa = 0;
    call.threads = 0, expect(fastopt_step(&call), FASTOPT_NO_THREADS), call.threads = 1;
    span.kernel = 10000, expect(fastopt_step(&call), FASTOPT_NO_KERNEL), span.kernel = sgd;
    span.dtype = 7, expect(fastopt_step(&call), FASTOPT_NO_DTYPE), span.dtype = FASTOPT_FLOAT32;
    span.length = -1, expect(fastopt_step(&call), FASTOPT_NO_BUFFER), span.length = 1;
    span.streams[1].parts[0] = NULL, expect(fastopt_step(&call), FASTOPT_NO_BUFFER), span.streams[1].parts[0] = &g;
    span.streams[0].storage = -1, expect(fastopt_step(&call), FASTOPT_NO_STORAGE);
    span.streams[0].storage = 7, expect(fastopt_step(&call), FASTOPT_NO_STORAGE);
    span.streams[0].storage = FASTOPT_SPLIT, expect(fastopt_step(&call), FASTOPT_NO_BUFFER), span.streams[0].storage = 0;
    span.streams[0].stochastic = 1, expect(fastopt_step(&call), FASTOPT_NO_KEYS);
    span.keys = &key, span.follower_count = 1, expect(fastopt_step(&call), FASTOPT_NO_BUFFER);
    span.followers = &copy, expect(fastopt_step(&call), FASTOPT_NO_STORAGE);
    span.follower_count = -1, expect(fastopt_step(&call), FASTOPT_NO_BUFFER), span.follower_count = 0;
    span.coefficients = NULL, expect(fastopt_step(&call), FASTOPT_NO_BUFFER), span.coefficients = k;
    fastopt_run row = {0, 0, 1};
    fastopt_runs runs = {&row, -1};
    expect(fastopt_step_runs(&call, &runs), FASTOPT_NO_RUN), runs.count = 1;
    row.length = 2, expect(fastopt_step_runs(&call, &runs), FASTOPT_NO_RUN);
    row.length = -1, expect(fastopt_step_runs(&call, &runs), FASTOPT_NO_RUN), row.length = 1;
    row.start = 1, expect(fastopt_step_runs(&call, &runs), FASTOPT_NO_RUN);
    row.start = -1, expect(fastopt_step_runs(&call, &runs), FASTOPT_NO_RUN), row.start = 0;
    row.source = -1, expect(fastopt_step_runs(&call, &runs), FASTOPT_NO_RUN), row.source = 0;
    runs.count = 0, expect(fastopt_step_runs(&call, &runs), FASTOPT_OK), runs.count = 1;
    if (p != 1)
        abort();
    expect(fastopt_step_runs(&call, &runs), FASTOPT_OK);
    if (p != 0)
        abort();
    p = 1;
    expect(fastopt_step(&call), FASTOPT_OK);
    if (p != 0)
        abort();

    if (fastopt_create("adm", FASTOPT_FLOAT32, 1, &code) || code != FASTOPT_NO_KERNEL ||
        fastopt_create(NULL, FASTOPT_FLOAT32, 1, NULL) || fastopt_create("sgd", 9, 1, &code) ||
        code != FASTOPT_NO_DTYPE || fastopt_create("sgd", FASTOPT_FLOAT32, -1, &code) || code != FASTOPT_NO_BUFFER ||
        fastopt_create("amsgrad", FASTOPT_FLOAT64, INT64_MAX, &code) || code != FASTOPT_NO_MEMORY)
        abort();
    fastopt_optimizer *adam = fastopt_create("amsgrad", FASTOPT_FLOAT64, 3, &code);
    if (!adam || code != FASTOPT_OK || !fastopt_state(adam, 2) || fastopt_state(adam, 3) || fastopt_state(adam, -1))
        abort();
    fastopt_destroy(adam);
    fastopt_destroy(NULL);
}

int main(void)
{
    pthread_t other;
    errors();
    if (pthread_create(&other, NULL, hammer, NULL))
        abort();
    hammer(&other);
    pthread_join(other, NULL);
    printf("same bits, pool %s\n", fastopt_pool());
    return 0;
}
