/* Borrows libgomp's thread pool: the one that PyTorch, SciPy or numba already runs, or else a new one.
 *
 * A second pool on the same cores costs a host framework more than an optimizer step takes, so no pool is made here and
 * no OpenMP runtime is linked. */
#include "parallel.h"

#include <stddef.h>

#if defined(__linux__)
#include <dlfcn.h>
#include <pthread.h>

typedef void (*region)(void (*)(void *), void *, unsigned, unsigned);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static region gomp_parallel;
static int (*thread_number)(void);
static int (*thread_count)(void);
static volatile int forked; /* libgomp's threads do not exist in a forked child */

static void note_fork(void) { forked = 1; }

static void find_pool(void)
{
    void *library = dlopen("libgomp.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (!library)
        library = dlopen("libgomp.so.1", RTLD_LAZY);
    if (!library)
        return;
    region run = (region)dlsym(library, "GOMP_parallel");
    thread_number = (int (*)(void))dlsym(library, "omp_get_thread_num");
    thread_count = (int (*)(void))dlsym(library, "omp_get_num_threads");
    if (run && thread_number && thread_count && pthread_atfork(NULL, NULL, note_fork) == 0)
        gomp_parallel = run;
}

struct job {
    void (*task)(void *, int, int);
    void *context;
};

static void enter(void *data)
{
    const struct job *job = data;
    job->task(job->context, thread_number(), thread_count());
}

void parallel_run(void (*task)(void *context, int worker, int workers), void *context, int threads)
{
    if (threads > 1) {
        pthread_once(&once, find_pool);
        if (gomp_parallel && !forked) {
            struct job job = {task, context};
            gomp_parallel(enter, &job, (unsigned)threads, 0);
            return;
        }
    }
    task(context, 0, 1);
}

const char *parallel_pool(void)
{
    pthread_once(&once, find_pool);
    return gomp_parallel ? "libgomp" : "none";
}

#else

void parallel_run(void (*task)(void *context, int worker, int workers), void *context, int threads)
{
    (void)threads;
    task(context, 0, 1);
}

const char *parallel_pool(void) { return "none"; }

#endif
