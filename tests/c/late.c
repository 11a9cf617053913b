/* Uses libgomp, forks, and loads the library in the child, by the path that is given: it must not wait for threads that
 * its parent had. "threads" as a second argument: libgomp is not used before, and the child has threads of its own. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fastopt.h"

enum { LENGTH = 200000 };

static float p[LENGTH], g[LENGTH];

static void *function(void *library, const char *name)
{
    void *address = dlsym(library, name);
    if (!address)
        _exit(3);
    return address;
}

static int step(const char *path)
{
    void *library = dlopen(path, RTLD_NOW);
    if (!library)
        return 4;
    int32_t (*find)(const char *), (*run)(const fastopt_call *);
    const char *(*pool)(void);
    *(void **)&find = function(library, "fastopt_find");
    *(void **)&run = function(library, "fastopt_step");
    *(void **)&pool = function(library, "fastopt_pool");
    const float k[] = {1, 0, 1, 1};
    const fastopt_span span = {.length = LENGTH, .coefficients = k, .streams = {{.parts = {p}}, {.parts = {g}}},
                               .kernel = find("sgd")};
    const fastopt_call call = {&span, 1, 4, FASTOPT_BASELINE, 1};
    const int32_t code = run(&call);
    printf("%s\n", pool());
    fflush(stdout);
    return code;
}

static void nothing(void *data) { (void)data; }

int main(int count, char **arguments)
{
    if (count == 2) {
        void *libgomp = dlopen("libgomp.so.1", RTLD_NOW);
        void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
        *(void **)&parallel = function(libgomp, "GOMP_parallel");
        parallel(nothing, NULL, 4, 0);
    }
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        _exit(step(arguments[1]));
    }
    int status;
    waitpid(child, &status, 0);
    return status != 0;
}
