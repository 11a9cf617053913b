/* Gradient descent with a heavy ball. */
KERNEL(momentum, (momentum_buffer),
       (grad_scale, l2, shrink, step_size, momentum, one_minus_dampening))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real velocity = TERM(momentum, momentum_buffer[i]) + TERM(one_minus_dampening, grad);
    p[i] = TERM(shrink, p[i]) - TERM(step_size, velocity); /* stored first: in memory GCC's loop is a sixth faster so */
    momentum_buffer[i] = velocity;
}
END_KERNEL
