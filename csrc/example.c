/* Fits a line to points by Adam, in plain C11 or C++17, in float32 and in mixed precision, and prints the bits of the
 * gradients and of what it found.
 *
 *     cc -O2 example.c -lfastopt -lm && ./a.out
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fastopt.h"

enum { POINTS = 64, STEPS = 200, PARAMETERS = 2 };

/* The coefficients of one step of Adam, in the order of the kernel's names. All in double, rounded once. */
static void adam_coefficients(float k[10], int step)
{
    const double lr = 0.05, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.0;
    k[0] = 1.0f;                                              /* grad_scale */
    k[1] = (float)weight_decay;                               /* l2 */
    k[2] = 1.0f;                                              /* shrink */
    k[3] = (float)(lr / (1 - pow(beta1, (double)step)));      /* step_size */
    k[4] = (float)beta1;                                      /* beta1 */
    k[5] = (float)(1 - beta1);                                /* one_minus_beta1 */
    k[6] = (float)beta2;                                      /* beta2 */
    k[7] = (float)(1 - beta2);                                /* one_minus_beta2 */
    k[8] = (float)(1 / sqrt(1 - pow(beta2, (double)step)));   /* root */
    k[9] = (float)eps;                                        /* eps */
}

/* The mean squared error of the line p[0] x + p[1] over points of the line 3 x - 1, and its gradient. */
static float loss_and_gradient(const float p[PARAMETERS], float g[PARAMETERS])
{
    float loss = 0.0f;
    g[0] = g[1] = 0.0f;
    for (int i = 0; i < POINTS; i++) {
        const float x = (float)i / POINTS;
        const float error = p[0] * x + p[1] - (3.0f * x - 1.0f);
        loss += error * error / POINTS;
        g[0] += 2.0f * error * x / POINTS;
        g[1] += 2.0f * error / POINTS;
    }
    return loss;
}

/* In float32, with states that the library keeps. */
static int32_t fit(void)
{
    int32_t error = FASTOPT_OK;
    fastopt_optimizer *adam = fastopt_create("adam", FASTOPT_FLOAT32, PARAMETERS, &error);
    float p[PARAMETERS] = {0.0f, 0.0f}, g[PARAMETERS], k[10];
    float loss = 0.0f;
    for (int step = 1; error == FASTOPT_OK && step <= STEPS; step++) {
        loss = loss_and_gradient(p, g);
        printf("%a %a\n", (double)g[0], (double)g[1]);
        adam_coefficients(k, step);
        error = fastopt_update(adam, p, g, k, 1, fastopt_best_isa());
    }
    fastopt_destroy(adam);
    printf("line %a x + %a, loss %g\n", (double)p[0], (double)p[1], (double)loss);
    return error;
}

/* The upper half of a finite float, rounded to nearest even. */
static uint16_t to_bfloat16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

static float from_bfloat16(uint16_t code)
{
    const uint32_t bits = (uint32_t)code << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void set(fastopt_stream *stream, void *numbers, int32_t storage)
{
    stream->parts[0] = numbers;
    stream->storage = storage;
}

/* In mixed precision, with a span over memory of our own: a model in bfloat16 gives gradients in bfloat16, Adam applies them
 * to float32 parameters, and what it finds is rounded into the model in the same pass. */
static int32_t fit_mixed(void)
{
    uint16_t model[PARAMETERS] = {0, 0}, gradient[PARAMETERS];
    float p[PARAMETERS] = {0.0f, 0.0f}, exp_avg[PARAMETERS] = {0.0f, 0.0f}, exp_avg_sq[PARAMETERS] = {0.0f, 0.0f}, k[10];

    fastopt_follower copy;
    memset(&copy, 0, sizeof copy); /* no coefficients: a copy and no average */
    set(&copy.stream, model, FASTOPT_BFLOAT16);

    fastopt_span span;
    memset(&span, 0, sizeof span);
    span.length = PARAMETERS;
    span.kernel = fastopt_find("adam");
    span.dtype = FASTOPT_FLOAT32;
    span.coefficients = k;
    set(&span.streams[0], p, FASTOPT_FLOAT32);
    set(&span.streams[1], gradient, FASTOPT_BFLOAT16);
    set(&span.streams[2], exp_avg, FASTOPT_FLOAT32);
    set(&span.streams[3], exp_avg_sq, FASTOPT_FLOAT32);
    span.followers = &copy;
    span.follower_count = 1;
    const fastopt_call call = {&span, 1, 1, fastopt_best_isa(), 0};

    int32_t error = FASTOPT_OK;
    float loss = 0.0f;
    for (int step = 1; error == FASTOPT_OK && step <= STEPS; step++) {
        const float line[PARAMETERS] = {from_bfloat16(model[0]), from_bfloat16(model[1])};
        float g[PARAMETERS];
        loss = loss_and_gradient(line, g);
        for (int i = 0; i < PARAMETERS; i++)
            gradient[i] = to_bfloat16(g[i]);
        printf("%a %a\n", (double)from_bfloat16(gradient[0]), (double)from_bfloat16(gradient[1]));
        adam_coefficients(k, step);
        error = fastopt_step(&call);
    }
    printf("line %a x + %a, ", (double)p[0], (double)p[1]);
    printf("in bfloat16 %a x + %a, loss %g\n", (double)from_bfloat16(model[0]), (double)from_bfloat16(model[1]),
           (double)loss);
    return error;
}

int main(void)
{
    int32_t error = fit();
    if (error == FASTOPT_OK)
        error = fit_mixed();
    if (error != FASTOPT_OK)
        fprintf(stderr, "example: %s\n", fastopt_error(error));
    return error != FASTOPT_OK;
}
