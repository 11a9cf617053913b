/* The thread pool that the process already has. */
#ifndef FASTOPT_PARALLEL_H
#define FASTOPT_PARALLEL_H

/* The share of a worker, of so many, in something. */
typedef void parallel_task(void *context, int worker, int workers);

/* Runs task(context, worker, workers) once for each worker in [0, workers), with at most `threads` workers, and returns
 * when all have ended. The number of workers is one where there is no pool and in a forked child. */
void parallel_run(parallel_task *task, void *context, int threads);

/* "libgomp" or "none". */
const char *parallel_pool(void);

#endif
