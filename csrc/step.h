/* A step, and the sums before it, on somebody else's threads. */
#ifndef FASTOPT_STEP_H
#define FASTOPT_STEP_H
#include "fastopt.h"
#include "parallel.h"

/* Runs a task as parallel_run() does, on threads that `pool` stands for. */
typedef void parallel_runner(void *pool, parallel_task *task, void *context, int threads);

/* fastopt_step_runs() by that runner. */
__attribute__((visibility("hidden"))) int32_t step_on(const fastopt_call *call, const fastopt_runs *runs,
                                                      parallel_runner *run, void *pool);

/* fastopt_measure() by that runner. */
__attribute__((visibility("hidden"))) int32_t measure_on(const fastopt_call *call, int32_t sum, double *partials,
                                                         double *numbers, parallel_runner *run, void *pool);

#endif
