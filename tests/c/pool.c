/* What fastopt borrows from libgomp, in plain threads: a pool whose synchronization thread sanitizers understand. */
#include <pthread.h>

enum { MOST = 64 };

static __thread int number, count = 1;

struct worker {
    void (*function)(void *);
    void *data;
    int number, count;
};

int omp_get_thread_num(void) { return number; }
int omp_get_num_threads(void) { return count; }
int omp_get_max_threads(void) { return MOST; }
int omp_get_num_procs(void) { return MOST; }

static void *work(void *argument)
{
    const struct worker *worker = argument;
    number = worker->number;
    count = worker->count;
    worker->function(worker->data);
    number = 0;
    count = 1;
    return 0;
}

void GOMP_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags)
{
    pthread_t handles[MOST];
    struct worker workers[MOST];
    (void)flags;
    for (unsigned i = 0; i < threads; i++)
        workers[i] = (struct worker){function, data, (int)i, (int)threads};
    for (unsigned i = 1; i < threads; i++)
        pthread_create(&handles[i], 0, work, &workers[i]);
    work(&workers[0]);
    for (unsigned i = 1; i < threads; i++)
        pthread_join(handles[i], 0);
}
