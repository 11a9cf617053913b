/* Fits a line to points by Adam, in plain C11 or C++17, and prints the bits of what it found.
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

int main(void)
{
    int32_t error = FASTOPT_OK;
    fastopt_optimizer *adam = fastopt_create("adam", FASTOPT_FLOAT32, PARAMETERS, &error);
    float p[PARAMETERS] = {0.0f, 0.0f}, g[PARAMETERS], k[10];
    float loss = 0.0f;
    for (int step = 1; adam && step <= STEPS; step++) {
        loss = loss_and_gradient(p, g);
        printf("%a %a\n", (double)g[0], (double)g[1]);
        adam_coefficients(k, step);
        error = fastopt_update(adam, p, g, k, 1, fastopt_best_isa());
        if (error != FASTOPT_OK)
            break;
    }
    fastopt_destroy(adam);
    if (error != FASTOPT_OK) {
        fprintf(stderr, "example: %s\n", fastopt_error(error));
        return 1;
    }
    printf("line %a x + %a, loss %g\n", (double)p[0], (double)p[1], (double)loss);
    return 0;
}
