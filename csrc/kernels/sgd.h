/* Plain gradient descent. */
KERNEL(sgd, (),
       (grad_scale, l2, shrink, step_size))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    p[i] = TERM(shrink, p[i]) - TERM(step_size, grad);
}
END_KERNEL
