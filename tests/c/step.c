/* Says what the library says of a step. */
#include <stdio.h>

#include "fastopt.h"

int main(void)
{
    float p = 1, g = 1;
    const float k[] = {1, 0, 1, 1};
    const fastopt_span span = {.length = 1, .coefficients = k, .streams = {{.parts = {&p}}, {.parts = {&g}}},
                               .kernel = fastopt_find("sgd")};
    const fastopt_call call = {&span, 1, 1, FASTOPT_BASELINE, 0};
    const int32_t code = fastopt_step(&call);
    if ((p == 0) != (code == FASTOPT_OK))
        return 1;
    printf("%s\n", fastopt_error(code));
    return 0;
}
