/* The way from a call to the loops: the choice of instruction set, what a call must be, and the shares of workers. */
#include "fastopt.h"

#include <stddef.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "float_mode.h"
#include "parallel.h"
#include "sizes.h"
#include "span.h"
#include "step.h"
#include "tables.h"

static int32_t best_isa; /* of this processor, its operating system and this build */
static int inexact;      /* whether the compiler's options have changed results */
static int32_t squares;  /* the sum that norms are made of */

static int32_t find_best_isa(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C))
        return FASTOPT_BASELINE;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        return FASTOPT_AVX512;
    return FASTOPT_AVX2;
#else
    return FASTOPT_BASELINE;
#endif
}

/* When the library is loaded. The test of exactness runs in the default floating-point mode and not in that of the thread
 * that loads it. */
__attribute__((constructor)) static void look_around(void)
{
    float_mode mode;
    best_isa = find_best_isa();
    squares = fastopt_find_sum("sum_squares");
    get_float_mode(&mode);
    set_default_float_mode();
    for (int32_t isa = 0; isa <= best_isa; isa++)
        inexact |= !isas[isa]->loops[FASTOPT_FLOAT32]->is_exact() || !isas[isa]->loops[FASTOPT_FLOAT64]->is_exact();
    set_float_mode(&mode);
}

int32_t fastopt_abi(void) { return FASTOPT_ABI_MAJOR * 1000 + FASTOPT_ABI_MINOR; }

const fastopt_kernel *fastopt_kernel_at(int32_t index)
{
    return index >= 0 && index < kernel_count ? kernels[index] : NULL;
}

int32_t fastopt_find(const char *name)
{
    for (int32_t index = 0; index < kernel_count; index++)
        if (strcmp(kernels[index]->name, name) == 0)
            return index;
    return -1;
}

int32_t fastopt_best_isa(void) { return best_isa; }

const char *fastopt_isa_name(int32_t isa) { return isa >= 0 && isa < isa_count ? isas[isa]->name : NULL; }

const char *fastopt_pool(void) { return parallel_pool(); }

const char *fastopt_error(int32_t code)
{
    switch (code) {
    case FASTOPT_OK: return "no error";
    case FASTOPT_NO_KERNEL: return "a span names a kernel that does not exist";
    case FASTOPT_NO_DTYPE: return "a span names a dtype that does not exist";
    case FASTOPT_NO_ISA: return "the call names an instruction set that this processor or build lacks";
    case FASTOPT_NO_BUFFER: return "a length or count is negative, or an array or the row of coefficients is NULL";
    case FASTOPT_NO_THREADS: return "the call asks for fewer than one thread";
    case FASTOPT_NO_MEMORY: return "there is not enough memory";
    case FASTOPT_NOT_EXACT:
        return "the library was compiled with options that change results, such as -ffp-contract=fast or a part of "
               "-ffast-math";
    case FASTOPT_NO_STORAGE: return "a stream names a storage that does not exist";
    case FASTOPT_NO_KEYS: return "a stream is rounded stochastically, and the span has no keys for it";
    case FASTOPT_NO_SUM: return "the sum does not exist, or reads more streams than a span's kernel has";
    case FASTOPT_NO_RUN: return "a count of runs is negative, or a run has elements that its span has not";
    default: return "unknown error code";
    }
}

static int32_t check_stream(const fastopt_span *span, const fastopt_stream *stream)
{
    if (stream->storage == span->dtype && stream->parts[0]) /* as in most steps, of which some have many short spans */
        return FASTOPT_OK;
    if (stream->storage < 0 || stream->storage >= storage_count)
        return FASTOPT_NO_STORAGE;
    for (int part = 0; part < storage_parts[stream->storage]; part++)
        if (!stream->parts[part] && span->length > 0)
            return FASTOPT_NO_BUFFER;
    return FASTOPT_OK;
}

static int32_t check_span(const fastopt_span *span)
{
    if (span->kernel < 0 || span->kernel >= kernel_count)
        return FASTOPT_NO_KERNEL;
    if (span->dtype != FASTOPT_FLOAT32 && span->dtype != FASTOPT_FLOAT64)
        return FASTOPT_NO_DTYPE;
    if (span->length < 0 || !span->coefficients || span->follower_count < 0 || (span->follower_count && !span->followers))
        return FASTOPT_NO_BUFFER;
    const int streams = 2 + kernels[span->kernel]->state_count;
    for (int index = 0; index < streams; index++) {
        const int32_t code = check_stream(span, &span->streams[index]);
        if (code != FASTOPT_OK)
            return code;
        if (span->streams[index].stochastic && !span->keys)
            return FASTOPT_NO_KEYS;
    }
    for (int64_t index = 0; index < span->follower_count; index++) {
        const int32_t code = check_stream(span, &span->followers[index].stream);
        if (code != FASTOPT_OK)
            return code;
    }
    return FASTOPT_OK;
}

/* Checks the runs of a span, of which there are none if it is worked on as a whole, and adds up their elements. */
static int32_t check_runs(const fastopt_span *span, const fastopt_runs *runs, int64_t *total)
{
    if (runs && runs->count < 0)
        return FASTOPT_NO_RUN;
    if (!runs || !runs->runs)
        *total += span->length;
    for (const fastopt_run *run = runs ? runs->runs : NULL; run && run < runs->runs + runs->count; run++) {
        if (run->start < 0 || run->source < 0 || run->length < 0 || run->length > span->length - run->start)
            return FASTOPT_NO_RUN;
        *total += run->length;
    }
    return FASTOPT_OK;
}

/* Checks a call and the runs of its spans, NULL if these are all, and counts the elements that it is about. */
static int32_t check_call(const fastopt_call *call, const fastopt_runs *runs, int64_t *total)
{
    if (inexact)
        return FASTOPT_NOT_EXACT;
    if (call->isa < 0 || call->isa >= isa_count || call->isa > best_isa)
        return FASTOPT_NO_ISA;
    if (call->threads < 1)
        return FASTOPT_NO_THREADS;
    if (call->count < 0 || (call->count > 0 && !call->spans))
        return FASTOPT_NO_BUFFER;
    *total = 0;
    int32_t code = FASTOPT_OK;
    for (int64_t index = 0; index < call->count && code == FASTOPT_OK; index++) {
        code = check_span(&call->spans[index]);
        if (code == FASTOPT_OK)
            code = check_runs(&call->spans[index], runs ? &runs[index] : NULL, total);
    }
    return code;
}

static int useful_threads(int64_t elements, const fastopt_call *call)
{
    const int64_t grains = elements / (call->grain > 0 ? call->grain : GRAIN);
    return grains < call->threads ? (grains < 1 ? 1 : (int)grains) : (int)call->threads;
}

/* The first element of a worker's share, counted over all spans: no two threads write to one cache line. */
static int64_t share(int64_t total, int worker, int workers)
{
    if (worker == workers)
        return total;
    const int64_t lines = total / LINE;
    return (lines / workers * worker + lines % workers * worker / workers) * LINE;
}

/* Where a share that begins or ends `offset` elements after the start of a run of so many cuts it: tiles stay whole. */
static int64_t cut(const fastopt_span *span, int64_t length, int64_t offset)
{
    if (offset <= 0)
        return 0;
    if (offset >= length)
        return length;
    return is_tiled(span) ? offset / TILE * TILE : offset;
}

struct step {
    const fastopt_call *call;
    const fastopt_runs *runs;
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
        const fastopt_run whole = {0, 0, span->length};
        fastopt_runs runs = {&whole, 1};
        if (step->runs && step->runs[index].runs)
            runs = step->runs[index];
        for (int64_t number = 0; number < runs.count && offset < last; number++) {
            const fastopt_run *run = &runs.runs[number];
            const int64_t start = cut(span, run->length, first - offset), stop = cut(span, run->length, last - offset);
            if (start < stop) {
                if (number + AHEAD < runs.count)
                    fetch_ahead(span, run + AHEAD);
                step_run(isas[call->isa], span, run->start + start, run->start + stop, run->source - run->start);
            }
            offset += run->length;
        }
    }
}

int32_t step_on(const fastopt_call *call, const fastopt_runs *runs, parallel_runner *run, void *pool)
{
    struct step step = {.call = call, .runs = runs};
    const int32_t code = check_call(call, runs, &step.total);
    if (code == FASTOPT_OK)
        run(pool, step_share, &step, useful_threads(step.total, call));
    return code;
}

static void run_on_own_pool(void *pool, parallel_task *task, void *context, int threads)
{
    (void)pool;
    parallel_run(task, context, threads);
}

int32_t fastopt_step(const fastopt_call *call) { return step_on(call, NULL, run_on_own_pool, NULL); }

int32_t fastopt_step_runs(const fastopt_call *call, const fastopt_runs *runs)
{
    return step_on(call, runs, run_on_own_pool, NULL);
}

int64_t fastopt_blocks(const fastopt_call *call)
{
    int64_t blocks = 0;
    for (int64_t index = 0; index < call->count; index++)
        blocks += (call->spans[index].length + BLOCK - 1) / BLOCK;
    return blocks;
}

const fastopt_sum *fastopt_sum_at(int32_t index) { return index >= 0 && index < sum_count ? sums[index] : NULL; }

int32_t fastopt_find_sum(const char *name)
{
    for (int32_t index = 0; index < sum_count; index++)
        if (strcmp(sums[index]->name, name) == 0)
            return index;
    return -1;
}

struct measure {
    const fastopt_call *call;
    int32_t sum;
    int32_t width;       /* the sum's numbers */
    const double *scale; /* of gradients, each of which is summed up in its own dtype; or NULL: spans say all */
    int64_t blocks;
    double *partials;
};

static void measure_block(const struct measure *measure, const fastopt_span *span, int64_t start, int64_t stop,
                          double *numbers)
{
    const struct isa *isa = isas[measure->call->isa];
    const float one = 1;
    if (!measure->scale) {
        sum_run(isa, span, measure->sum, span->dtype, span->coefficients, start, stop, numbers);
    } else if (span->streams[1].storage == FASTOPT_FLOAT64) {
        sum_run(isa, span, measure->sum, FASTOPT_FLOAT64, measure->scale, start, stop, numbers);
    } else { /* squares of float numbers neither overflow nor vanish, and the scale may be no float */
        sum_run(isa, span, measure->sum, FASTOPT_FLOAT32, &one, start, stop, numbers);
        *numbers = *numbers * *measure->scale * *measure->scale;
    }
}

/* Sums up one worker's share of the blocks. */
static void measure_share(void *context, int worker, int workers)
{
    const struct measure *measure = context;
    const fastopt_call *call = measure->call;
    const int64_t last = measure->blocks * (worker + 1) / workers;
    int64_t block = measure->blocks * worker / workers;
    int64_t offset = 0; /* blocks of the spans before this one */
    for (int64_t index = 0; index < call->count && block < last; index++) {
        const fastopt_span *span = &call->spans[index];
        const int64_t blocks = (span->length + BLOCK - 1) / BLOCK;
        for (; block < last && block - offset < blocks; block++) {
            const int64_t start = (block - offset) * BLOCK;
            const int64_t stop = start + BLOCK < span->length ? start + BLOCK : span->length;
            measure_block(measure, span, start, stop, measure->partials + block * measure->width);
        }
        offset += blocks;
    }
}

static int32_t measure_all(struct measure *measure, parallel_runner *run, void *pool)
{
    const fastopt_call *call = measure->call;
    int64_t total;
    const int32_t code = check_call(call, NULL, &total);
    if (code != FASTOPT_OK)
        return code;
    if (measure->sum < 0 || measure->sum >= sum_count)
        return FASTOPT_NO_SUM;
    const fastopt_sum *sum = sums[measure->sum];
    for (int64_t index = 0; index < call->count; index++)
        if (first_stream(sum) + sum->stream_count > 2 + kernels[call->spans[index].kernel]->state_count)
            return FASTOPT_NO_SUM;
    measure->width = sum->number_count;
    measure->blocks = fastopt_blocks(call);
    run(pool, measure_share, measure, useful_threads(total, call));
    return FASTOPT_OK;
}

int32_t measure_on(const fastopt_call *call, int32_t sum, double *partials, double *numbers, parallel_runner *run,
                   void *pool)
{
    struct measure measure = {.call = call, .sum = sum, .partials = partials};
    const int32_t code = measure_all(&measure, run, pool);
    for (int64_t index = 0; code == FASTOPT_OK && index < call->count; index++, numbers += measure.width) {
        memset(numbers, 0, (size_t)measure.width * sizeof *numbers);
        for (int64_t start = 0; start < call->spans[index].length; start += BLOCK)
            for (int32_t number = 0; number < measure.width; number++)
                numbers[number] += *partials++;
    }
    return code;
}

int32_t fastopt_measure(const fastopt_call *call, int32_t sum, double *partials, double *numbers)
{
    return measure_on(call, sum, partials, numbers, run_on_own_pool, NULL);
}

int32_t fastopt_sum_squares(const fastopt_call *call, double scale, double *partials, double *total)
{
    struct measure measure = {.call = call, .sum = squares, .scale = &scale, .partials = partials};
    const int32_t code = measure_all(&measure, run_on_own_pool, NULL);
    if (code == FASTOPT_OK) {
        *total = 0;
        for (int64_t block = 0; block < measure.blocks; block++)
            *total += partials[block];
    }
    return code;
}
