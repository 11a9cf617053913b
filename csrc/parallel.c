/* Borrows libgomp's thread pool: the one that PyTorch, SciPy or numba already runs, or else a new one.
 *
 * A second pool on the same cores costs a host framework more than an optimizer step takes, so no pool is made here and
 * no OpenMP runtime is linked. */
#include "parallel.h"

#include <stddef.h>

#if defined(__linux__)
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "float_mode.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void (*gomp_parallel)(void (*)(void *), void *, unsigned, unsigned);
static int (*thread_number)(void);
static int (*thread_count)(void);
static int (*team_size)(void); /* of a region that asks for no number: the processors, or what the host has set */
static int (*processors)(void);
static volatile int forked; /* libgomp's threads do not exist in a forked child */
static int watching;        /* whether a fork is noticed */

static void note_fork(void) { forked = 1; }

/* Whether this process is a fork that has executed no program since; also if that cannot be known. */
static int is_fork(void)
{
    enum { FLAGS = 7, FORKED_AND_NOT_EXECUTED = 0x40 }; /* the field after the name; PF_FORKNOEXEC of Linux */
    char text[1024];
    FILE *file = fopen("/proc/self/stat", "r");
    if (!file)
        return 1;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    char *field = strrchr(text, ')'); /* the name may hold spaces and parentheses */
    for (int i = 0; field && i < FLAGS; i++)
        field = strchr(field + 1, ' ');
    return !field || (strtoul(field, NULL, 10) & FORKED_AND_NOT_EXECUTED);
}

/* When the library is loaded and not with the first call, before which others may use libgomp and fork. A libgomp that is
 * older than the library in a process that was forked may have lost its threads there. */
__attribute__((constructor)) static void watch_forks(void)
{
    watching = pthread_atfork(NULL, NULL, note_fork) == 0;
    void *library = dlopen("libgomp.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (library) {
        forked = is_fork();
        dlclose(library);
    }
}

static int find_function(void *library, const char *name, void *function)
{
    void *const address = dlsym(library, name);
    memcpy(function, &address, sizeof address);
    return address != NULL;
}

static void find_pool(void)
{
    void *library = dlopen("libgomp.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (!library)
        library = dlopen("libgomp.so.1", RTLD_LAZY);
    if (!library || !watching || !find_function(library, "omp_get_thread_num", &thread_number) ||
        !find_function(library, "omp_get_num_threads", &thread_count) ||
        !find_function(library, "omp_get_max_threads", &team_size) ||
        !find_function(library, "omp_get_num_procs", &processors))
        return;
    find_function(library, "GOMP_parallel", &gomp_parallel);
}

/* No more threads than there are processors, unless the host's own regions have more. */
static int reasonable(int threads)
{
    const int most = team_size();
    if (threads <= most)
        return threads;
    const int cores = processors();
    return cores > most ? (threads < cores ? threads : cores) : most;
}

struct job {
    parallel_task *task;
    void *context;
    float_mode mode; /* of the thread that calls: results must not depend on the thread that a share runs on */
};

static void enter(void *data)
{
    const struct job *job = data;
    float_mode mode;
    get_float_mode(&mode);
    set_float_mode(&job->mode);
    job->task(job->context, thread_number(), thread_count());
    set_float_mode(&mode);
}

void parallel_run(parallel_task *task, void *context, int threads)
{
    if (threads > 1 && !forked) {
        pthread_once(&once, find_pool);
        if (gomp_parallel && (threads = reasonable(threads)) > 1) {
            struct job job = {.task = task, .context = context};
            get_float_mode(&job.mode);
            gomp_parallel(enter, &job, (unsigned)threads, 0);
            return;
        }
    }
    task(context, 0, 1);
}

const char *parallel_pool(void)
{
    pthread_once(&once, find_pool);
    return gomp_parallel && !forked ? "libgomp" : "none";
}

#else

void parallel_run(parallel_task *task, void *context, int threads)
{
    (void)threads;
    task(context, 0, 1);
}

const char *parallel_pool(void) { return "none"; }

#endif
