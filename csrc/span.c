/* From a span to the loops: over memory where a kernel can work on it in place, else through the first-level cache. */
#include "span.h"

#include <stddef.h>
#include <string.h>

#include "ahead.h"
#include "sizes.h"

enum { GRADIENT = 1 }; /* its place among a span's streams */

enum { ROW = TILE * sizeof(double) + 3 * LINE }; /* no multiple of a page: rows would share lines of the cache */

/* Memory for a tile: decoded numbers of each stream, and random words. */
struct scratch {
    _Alignas(LINE) char rows[FASTOPT_MAX_STREAMS][ROW];
    _Alignas(LINE) uint32_t noise[TILE];
};

static int stream_count(const fastopt_span *span) { return 2 + kernels[span->kernel]->state_count; }

int is_tiled(const fastopt_span *span)
{
    int tiled = span->follower_count > 0;
    for (int stream = 0; stream < stream_count(span); stream++)
        tiled |= span->streams[stream].storage != span->dtype;
    return tiled;
}

/* Whether all numbers are float32 or, rounded to nearest, bfloat16, and at most a copy in bfloat16 follows. */
static int is_in_chunks(const fastopt_span *span)
{
    const fastopt_follower *copy = span->followers;
    int found = span->dtype == FASTOPT_FLOAT32 && span->follower_count <= 1;
    if (found && span->follower_count)
        found = !copy->coefficients && copy->stream.storage == FASTOPT_BFLOAT16;
    for (int stream = 0; stream < stream_count(span); stream++) {
        const int32_t storage = span->streams[stream].storage;
        found &= storage == FASTOPT_FLOAT32 || (storage == FASTOPT_BFLOAT16 && !span->streams[stream].stochastic);
    }
    return found;
}

static const int64_t sizes[] = {4, 8, 2, 2, 2, 1, 1}; /* of a number's item in the first part, by the storage */

/* Where a number's item is in the first part. */
static void *element(const fastopt_stream *stream, int64_t number)
{
    return (char *)stream->parts[0] + number * sizes[stream->storage];
}

/* Runs a kernel over streams as they lie in memory. */
static void step_in_place(kernel_loop *kernel, const fastopt_span *span, int64_t start, int64_t stop, int64_t shift)
{
    void *buffers[FASTOPT_MAX_STREAMS];
    for (int stream = 0; stream < stream_count(span); stream++)
        buffers[stream] = element(&span->streams[stream], stream == GRADIENT ? start + shift : start);
    kernel(buffers, span->coefficients, 0, stop - start);
}

/* A stream's numbers in a dtype that loops compute in: where they lie, or decoded into the row. */
static void *fetch(const struct loops *loops, int32_t dtype, const fastopt_stream *stream, int64_t start, int32_t count,
                  void *row)
{
    if (stream->storage == dtype)
        return element(stream, start);
    loops->codecs[stream->storage].decode(stream->parts, start, count, row);
    return row;
}

static int is_random(const struct codec *codec, const fastopt_stream *stream)
{
    return stream->stochastic && codec->encode[0] != codec->encode[1];
}

/* Encodes what a kernel wrote. Two streams share their random words. */
static void store(const struct loops *loops, const fastopt_span *span, int64_t start, int32_t count, void *const *numbers,
                  uint32_t *noise)
{
    int pair = -1; /* whose words `noise` holds */
    for (int index = 0; index < stream_count(span); index++) {
        const fastopt_stream *stream = &span->streams[index];
        const struct codec *codec = &loops->codecs[stream->storage];
        const int random = is_random(codec, stream);
        if (index == GRADIENT || stream->storage == span->dtype)
            continue;
        if (random && pair != index / 2) {
            pair = index / 2;
            const noise_key key = {(uint32_t)span->keys[pair], (uint32_t)(span->keys[pair] >> 32)};
            loops->fill_noise(key, (uint32_t)(span->first + start), count, noise);
        }
        codec->encode[random](numbers[index], count, stream->parts, start, noise, index % 2 * 16);
    }
}

static void follow(const struct loops *loops, int32_t dtype, const fastopt_follower *follower, int64_t start,
                   int32_t count, const void *p, void *row)
{
    const fastopt_stream *stream = &follower->stream;
    const struct codec *codec = &loops->codecs[stream->storage];
    if (!follower->coefficients) {
        codec->encode[0](p, count, stream->parts, start, NULL, 0);
        return;
    }
    void *const mean = fetch(loops, dtype, stream, start, count, row);
    void *const buffers[] = {mean, (void *)p};
    loops->blend(buffers, follower->coefficients, 0, count);
    if (mean == row)
        codec->encode[0](mean, count, stream->parts, start, NULL, 0);
}

static void step_tile(const struct loops *loops, const fastopt_span *span, int64_t start, int64_t shift, int32_t count,
                      struct scratch *scratch)
{
    void *numbers[FASTOPT_MAX_STREAMS];
    for (int stream = 0; stream < stream_count(span); stream++) {
        const int64_t first = stream == GRADIENT ? start + shift : start;
        numbers[stream] = fetch(loops, span->dtype, &span->streams[stream], first, count, scratch->rows[stream]);
    }
    loops->kernels[span->kernel](numbers, span->coefficients, 0, count);
    store(loops, span, start, count, numbers, scratch->noise);
    for (int64_t index = 0; index < span->follower_count; index++) /* in the row of the gradient, which is done with */
        follow(loops, span->dtype, &span->followers[index], start, count, numbers[0], scratch->rows[1]);
}

/* Steps whole chunks of numbers that are float32 and bfloat16, or bfloat16 alone. */
static void step_chunks(const struct isa *isa, const fastopt_span *span, int64_t start, int64_t stop, int64_t shift)
{
    const int streams = stream_count(span);
    void *numbers[FASTOPT_MAX_STREAMS] = {NULL}, *codes[FASTOPT_MAX_STREAMS + 1] = {NULL};
    int encoded = 0;
    for (int stream = 0; stream < streams; stream++) {
        const int is_encoded = span->streams[stream].storage == FASTOPT_BFLOAT16;
        void *const place = element(&span->streams[stream], stream == GRADIENT ? start + shift : start);
        *(is_encoded ? &codes[stream] : &numbers[stream]) = place;
        encoded += is_encoded;
    }
    if (span->follower_count)
        codes[streams] = element(&span->followers->stream, start);
    if (encoded == streams && !span->follower_count)
        isa->kernels_bfloat16[span->kernel](codes, span->coefficients, 0, stop - start);
    else
        isa->step_mixed(isa->loops[span->dtype]->kernels[span->kernel], streams, numbers, codes, span->coefficients,
                        stop - start);
}

static void step_tiles(const struct isa *isa, const fastopt_span *span, int64_t start, int64_t stop, int64_t shift)
{
    struct scratch scratch;
    if (stop - start >= CHUNK && is_in_chunks(span)) {
        const int64_t last = stop - (stop - start) % CHUNK;
        step_chunks(isa, span, start, last, shift);
        start = last;
    }
    for (; start < stop; start += TILE)
        step_tile(isa->loops[span->dtype], span, start, shift, (int32_t)(stop - start < TILE ? stop - start : TILE), &scratch);
}

void step_run(const struct isa *isa, const fastopt_span *span, int64_t start, int64_t stop, int64_t shift)
{
    if (is_tiled(span))
        step_tiles(isa, span, start, stop, shift);
    else
        step_in_place(isa->loops[span->dtype]->kernels[span->kernel], span, start, stop, shift);
}

void fetch_ahead(const fastopt_span *span, const fastopt_run *run)
{
    if (run->length > TILE)
        return;
    for (int stream = 0; stream < stream_count(span); stream++) {
        const fastopt_stream *numbers = &span->streams[stream];
        const int64_t start = stream == GRADIENT ? run->source : run->start;
        if (numbers->storage != FASTOPT_FLOAT32 && numbers->storage != FASTOPT_FLOAT64)
            continue;
        const char *stop = element(numbers, start + run->length);
        for (const char *line = element(numbers, start); line < stop; line += LINE)
            __builtin_prefetch(line, 0, 2); /* into the second-level cache: it waits for more lines at once */
    }
}

int first_stream(const fastopt_sum *sum) { return sum->streams[0] == 'g'; }

void sum_run(const struct isa *isa, const fastopt_span *span, int32_t sum, int32_t dtype, const void *k, int64_t start,
             int64_t stop, double *numbers)
{
    const struct loops *loops = isa->loops[dtype];
    const fastopt_sum *about = sums[sum];
    const fastopt_stream *streams = &span->streams[first_stream(about)];
    struct scratch scratch;
    _Alignas(LINE) double lanes[FASTOPT_MAX_NUMBERS][LANES];
    void *buffers[FASTOPT_MAX_STREAMS];
    memset(lanes, 0, (size_t)about->number_count * sizeof *lanes);
    int64_t most = stop - start; /* at once: all where nothing is to be decoded */
    for (int stream = 0; stream < about->stream_count; stream++)
        most = streams[stream].storage == dtype ? most : TILE;
    for (; start < stop; start += most) {
        const int32_t count = (int32_t)(stop - start < most ? stop - start : most);
        for (int stream = 0; stream < about->stream_count; stream++) {
            if (streams[stream].storage != dtype)
                ask_ahead(element(&streams[stream], start), count * sizes[streams[stream].storage]);
            buffers[stream] = fetch(loops, dtype, &streams[stream], start, count, scratch.rows[stream]);
        }
        loops->sums[sum](buffers, k, count, lanes);
    }
    for (int number = 0; number < about->number_count; number++) {
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int lane = 0; lane < half; lane++)
                lanes[number][lane] += lanes[number][lane + half];
        numbers[number] = lanes[number][0];
    }
}
