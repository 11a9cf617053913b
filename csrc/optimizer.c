/* An optimizer that keeps its states: one span over memory of its own. */
#include "fastopt.h"

#include <stdlib.h>
#include <string.h>

#include "sizes.h"

struct fastopt_optimizer {
    fastopt_span span;
    int32_t states;
};

static size_t item_size(int32_t dtype) { return dtype == FASTOPT_FLOAT32 ? sizeof(float) : sizeof(double); }

static fastopt_optimizer *failed(fastopt_optimizer *optimizer, int32_t code, int32_t *error)
{
    fastopt_destroy(optimizer);
    if (error)
        *error = code;
    return NULL;
}

fastopt_optimizer *fastopt_create(const char *kernel, int32_t dtype, int64_t length, int32_t *error)
{
    const int32_t index = kernel ? fastopt_find(kernel) : -1;
    if (index < 0)
        return failed(NULL, FASTOPT_NO_KERNEL, error);
    if (dtype != FASTOPT_FLOAT32 && dtype != FASTOPT_FLOAT64)
        return failed(NULL, FASTOPT_NO_DTYPE, error);
    if (length < 0)
        return failed(NULL, FASTOPT_NO_BUFFER, error);
    if ((uint64_t)length > (SIZE_MAX - LINE) / item_size(dtype))
        return failed(NULL, FASTOPT_NO_MEMORY, error);

    fastopt_optimizer *optimizer = calloc(1, sizeof *optimizer);
    if (!optimizer)
        return failed(NULL, FASTOPT_NO_MEMORY, error);
    optimizer->span.kernel = index;
    optimizer->span.dtype = dtype;
    optimizer->span.length = length;
    optimizer->states = fastopt_kernel_at(index)->state_count;
    const size_t bytes = (size_t)length * item_size(dtype) / LINE * LINE + LINE;
    for (int32_t state = 0; state < optimizer->states; state++) {
        void *buffer = aligned_alloc(LINE, bytes);
        if (!buffer)
            return failed(optimizer, FASTOPT_NO_MEMORY, error);
        optimizer->span.buffers[2 + state] = memset(buffer, 0, bytes);
    }
    if (error)
        *error = FASTOPT_OK;
    return optimizer;
}

void *fastopt_state(fastopt_optimizer *optimizer, int32_t index)
{
    return index >= 0 && index < optimizer->states ? optimizer->span.buffers[2 + index] : NULL;
}

int32_t fastopt_update(fastopt_optimizer *optimizer, void *p, const void *g, const void *coefficients, int32_t threads,
                       int32_t isa)
{
    optimizer->span.buffers[0] = p;
    optimizer->span.buffers[1] = (void *)g; /* kernels only read it */
    optimizer->span.coefficients = coefficients;
    const fastopt_call call = {&optimizer->span, 1, threads, isa, 0};
    return fastopt_step(&call);
}

void fastopt_destroy(fastopt_optimizer *optimizer)
{
    if (optimizer)
        for (int32_t state = 0; state < optimizer->states; state++)
            free(optimizer->span.buffers[2 + state]);
    free(optimizer);
}
