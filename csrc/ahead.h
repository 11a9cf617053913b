/* Asks memory for what comes FETCH bytes after `bytes` at `place`. Where nothing is any more, asking does nothing. */
#ifndef FASTOPT_AHEAD_H
#define FASTOPT_AHEAD_H
#include <stdint.h>

#include "sizes.h"

static inline __attribute__((always_inline)) void ask_ahead(const void *place, int64_t bytes)
{
    for (int64_t byte = 0; byte < bytes; byte += LINE)
        __builtin_prefetch((const void *)((uintptr_t)place + FETCH + (uintptr_t)byte));
}

#endif
