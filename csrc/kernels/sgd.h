/* Plain gradient descent. */
KERNEL(sgd, (),
       (grad_scale, l2, shrink, step_size))
{
    const real grad = grad_scale * g[i] + l2 * p[i];
    p[i] = shrink * p[i] - step_size * grad;
}
END_KERNEL
