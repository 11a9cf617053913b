/* Steps every kernel, dtype and instruction set over several spans, from two threads at once, with one and with four
 * workers, and compares the bits. Also makes every error that a call can have. For sanitizers. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastopt.h"

enum { SPANS = 5, MOST_COEFFICIENTS = 16, STEPS = 3 };

static const int64_t lengths[SPANS] = {1, 0, 20000, 17, 45601};

static void *allocate(int64_t length, int32_t dtype, unsigned seed)
{
    const size_t size = dtype == FASTOPT_FLOAT32 ? sizeof(float) : sizeof(double);
    void *buffer = malloc((size_t)length * size + 1); /* exact: a sanitizer sees one element too many */
    for (int64_t i = 0; i < length; i++) {
        seed = seed * 1664525u + 1013904223u;
        const double value = (double)(seed >> 8) / (1 << 24) * (i % 3 ? 1 : dtype == FASTOPT_FLOAT32 ? 2e-38 : 4e-308);
        if (dtype == FASTOPT_FLOAT32)
            ((float *)buffer)[i] = (float)value;
        else
            ((double *)buffer)[i] = value;
    }
    return buffer;
}

static uint64_t bits(const void *buffer, int64_t i, int32_t dtype)
{
    uint32_t narrow;
    uint64_t wide;
    if (dtype == FASTOPT_FLOAT32)
        return memcpy(&narrow, (const float *)buffer + i, sizeof narrow), narrow;
    return memcpy(&wide, (const double *)buffer + i, sizeof wide), wide;
}

/* A checksum of all buffers after some steps of a kernel, and of the norm of the gradients. */
static uint64_t run(int32_t kernel, int32_t dtype, int32_t isa, int32_t threads)
{
    const fastopt_kernel *about = fastopt_kernel_at(kernel);
    float row32[MOST_COEFFICIENTS];
    double row64[MOST_COEFFICIENTS];
    for (int i = 0; i < MOST_COEFFICIENTS; i++)
        row32[i] = (float)(row64[i] = 0.5 + 0.01 * i);

    fastopt_span spans[SPANS];
    memset(spans, 0, sizeof spans);
    for (int s = 0; s < SPANS; s++) {
        spans[s].length = lengths[s];
        spans[s].kernel = kernel;
        spans[s].dtype = dtype;
        spans[s].coefficients = dtype == FASTOPT_FLOAT32 ? (void *)row32 : (void *)row64;
        for (int b = 0; b < 2 + about->state_count; b++)
            spans[s].buffers[b] = allocate(lengths[s], dtype, (unsigned)(s * 100 + b));
    }
    const fastopt_call call = {spans, SPANS, threads, isa, 16384};
    double *partials = malloc((size_t)fastopt_blocks(&call) * sizeof *partials);
    double norm = 0;
    for (int step = 0; step < STEPS; step++)
        if (fastopt_step(&call) || fastopt_sum_squares(&call, 0.5, partials, &norm))
            abort();
    uint64_t hash = 0;
    memcpy(&hash, &norm, sizeof norm);
    for (int s = 0; s < SPANS; s++)
        for (int b = 0; b < 2 + about->state_count; b++) {
            for (int64_t i = 0; i < lengths[s]; i++)
                hash = (hash ^ bits(spans[s].buffers[b], i, dtype)) * 1099511628211u;
            free(spans[s].buffers[b]);
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
    run(0, FASTOPT_FLOAT32, FASTOPT_BASELINE, 4); /* makes the workers, which inherit the mode of this thread */
    flush_subnormals(flush != NULL);
    for (int32_t kernel = 0; fastopt_kernel_at(kernel); kernel++)
        for (int32_t dtype = FASTOPT_FLOAT32; dtype <= FASTOPT_FLOAT64; dtype++) {
            const uint64_t expected = run(kernel, dtype, FASTOPT_BASELINE, 1);
            for (int32_t isa = FASTOPT_BASELINE; isa <= fastopt_best_isa(); isa++)
                for (int32_t threads = 1; threads <= 4; threads += 3)
                    if (run(kernel, dtype, isa, threads) != expected) {
                        printf("%s: other bits with %s\n", fastopt_kernel_at(kernel)->name, fastopt_isa_name(isa));
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
    fastopt_span span = {1, k, {&p, &g}, sgd, FASTOPT_FLOAT32};
    fastopt_call call = {&span, 1, 1, FASTOPT_BASELINE, 0};
    int32_t code;
    expect(fastopt_find("adm"), -1);
    call.isa = fastopt_best_isa() + 1, expect(fastopt_step(&call), FASTOPT_NO_ISA), call.isa = 0;
    call.threads = 0, expect(fastopt_step(&call), FASTOPT_NO_THREADS), call.threads = 1;
    span.kernel = 10000, expect(fastopt_step(&call), FASTOPT_NO_KERNEL), span.kernel = sgd;
    span.dtype = 7, expect(fastopt_step(&call), FASTOPT_NO_DTYPE), span.dtype = FASTOPT_FLOAT32;
    span.length = -1, expect(fastopt_step(&call), FASTOPT_NO_BUFFER), span.length = 1;
    span.buffers[1] = NULL, expect(fastopt_step(&call), FASTOPT_NO_BUFFER), span.buffers[1] = &g;
    span.coefficients = NULL, expect(fastopt_step(&call), FASTOPT_NO_BUFFER), span.coefficients = k;
    if (p != 1)
        abort();
    expect(fastopt_step(&call), FASTOPT_OK);
    if (p != 0)
        abort();

    if (fastopt_create("adm", FASTOPT_FLOAT32, 1, &code) || code != FASTOPT_NO_KERNEL ||
        fastopt_create(NULL, FASTOPT_FLOAT32, 1, NULL) || fastopt_create("sgd", 9, 1, &code) ||
        code != FASTOPT_NO_DTYPE || fastopt_create("sgd", FASTOPT_FLOAT32, -1, &code) || code != FASTOPT_NO_BUFFER ||
        fastopt_create("adam", FASTOPT_FLOAT64, INT64_MAX, &code) || code != FASTOPT_NO_MEMORY)
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
