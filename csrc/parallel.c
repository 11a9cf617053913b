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
static int watching;        /* whether a fork is noticed */

static void note_fork(void) { forked = 1; }

/* When the library is loaded and not with the first call, before which others may use libgomp and fork. */
__attribute__((constructor)) static void watch_forks(void) { watching = pthread_atfork(NULL, NULL, note_fork) == 0; }

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
    if (run && thread_number && thread_count && watching)
        gomp_parallel = run;
}

/* How a thread rounds and whether it flushes subnormals to zero: it must not depend on the thread that a share runs on. */
#if defined(__x86_64__)
static unsigned long float_mode(void) { return __builtin_ia32_stmxcsr() & ~0x3ful; /* less the sticky flags */ }
static void set_float_mode(unsigned long mode) { __builtin_ia32_ldmxcsr((unsigned)mode); }
#elif defined(__aarch64__)
static unsigned long float_mode(void)
{
    unsigned long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static void set_float_mode(unsigned long mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#else
static unsigned long float_mode(void) { return 0; }
static void set_float_mode(unsigned long mode) { (void)mode; }
#endif

struct job {
    void (*task)(void *, int, int);
    void *context;
    unsigned long mode; /* of the thread that calls */
};

static void enter(void *data)
{
    const struct job *job = data;
    const unsigned long mode = float_mode();
    set_float_mode(job->mode);
    job->task(job->context, thread_number(), thread_count());
    set_float_mode(mode);
}

void parallel_run(void (*task)(void *context, int worker, int workers), void *context, int threads)
{
    if (threads > 1) {
        pthread_once(&once, find_pool);
        if (gomp_parallel && !forked) {
            struct job job = {task, context, float_mode()};
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
