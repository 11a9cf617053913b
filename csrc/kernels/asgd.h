/* Averaged gradient descent. */
KERNEL(asgd, (ax),
       (grad_scale, l2, shrink, step_size, keep, mu))
{
    const real grad = grad_scale * g[i] + l2 * p[i];
    const real moved = shrink * p[i] - step_size * grad;
    const real average = keep * ax[i];
    ax[i] = average + mu * (moved - average);
    p[i] = moved;
}
END_KERNEL
