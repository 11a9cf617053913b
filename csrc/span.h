/* A span's elements, whatever storage they are in. */
#ifndef FASTOPT_SPAN_H
#define FASTOPT_SPAN_H
#include <stdint.h>

#include "fastopt.h"
#include "tables.h"

/* Whether a span is worked on in tiles: something is encoded, or follows. */
int is_tiled(const fastopt_span *span);

/* Steps the elements [start, stop) by those of the gradient from start + shift on. Of a tiled span, start is a multiple of
 * every storage's block. */
void step_run(const struct isa *isa, const fastopt_span *span, int64_t start, int64_t stop, int64_t shift);

/* Has memory send a run that is short: rows of a table lie anywhere, and no processor guesses where. */
void fetch_ahead(const fastopt_span *span, const fastopt_run *run);

/* The index of the first stream that a sum reads: the parameters, or the gradient. */
int first_stream(const fastopt_sum *sum);

/* The numbers of a sum over the elements [start, stop), no more than a block, computed in a dtype; start is a multiple of
 * BLOCK. */
void sum_run(const struct isa *isa, const fastopt_span *span, int32_t sum, int32_t dtype, const void *k, int64_t start,
             int64_t stop, double *numbers);

#endif
