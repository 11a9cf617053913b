/* Averaged gradient descent. */
KERNEL(asgd, (ax),
       (grad_scale, l2, shrink, step_size, keep, mu))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real moved = TERM(shrink, p[i]) - TERM(step_size, grad);
    const real average = ax[i];
    /* Where they are equal, too: inf - inf is NaN. */
    ax[i] = keep_is == ABSENT || average == moved ? moved : average + TERM(mu, moved - average);
    p[i] = moved;
}
END_KERNEL
