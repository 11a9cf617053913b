/* The thread pool that the process already has. */
#ifndef FASTOPT_PARALLEL_H
#define FASTOPT_PARALLEL_H

/* Runs task(context, worker, workers) once for each worker in [0, workers), with at most `threads` workers, and returns
 * when all have ended. The number of workers is one where there is no pool and in a forked child. */
void parallel_run(void (*task)(void *context, int worker, int workers), void *context, int threads);

/* "libgomp" or "none". */
const char *parallel_pool(void);

#endif
