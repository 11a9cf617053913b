/* Uses libgomp, forks, and only then steps for the first time, in the child: it must not wait for threads that it lacks. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fastopt.h"

enum { LENGTH = 200000 };

static float p[LENGTH], g[LENGTH];

int main(void)
{
    int threads = 0;
#pragma omp parallel num_threads(4) reduction(+ : threads)
    threads++;
    if (threads < 2)
        return 2;
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        const float k[] = {1, 0, 1, 1};
        const fastopt_span span = {.length = LENGTH, .coefficients = k, .streams = {{.parts = {p}}, {.parts = {g}}},
                                   .kernel = fastopt_find("sgd")};
        const fastopt_call call = {&span, 1, 4, FASTOPT_BASELINE, 1};
        _exit(fastopt_step(&call));
    }
    int status;
    waitpid(child, &status, 0);
    printf("the child ended with %d\n", status);
    return status != 0;
}
