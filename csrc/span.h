/* A span's elements, whatever storage they are in. */
#ifndef FASTOPT_SPAN_H
#define FASTOPT_SPAN_H
#include <stdint.h>

#include "fastopt.h"
#include "tables.h"

/* Whether a span is worked on in tiles: something is encoded, or follows. */
int is_tiled(const fastopt_span *span);

/* Steps the elements [start, stop). Of a tiled span, start is a multiple of TILE. */
void step_run(const struct isa *isa, const fastopt_span *span, int64_t start, int64_t stop);

/* The sum of (scale * g)^2 over the elements [start, stop), no more than a block; start is a multiple of BLOCK. */
double sum_run(const struct isa *isa, const fastopt_span *span, double scale, int64_t start, int64_t stop);

#endif
