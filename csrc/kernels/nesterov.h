/* Nesterov's accelerated gradient. */
KERNEL(nesterov, (momentum_buffer),
       (grad_scale, l2, shrink, step_size, momentum))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real velocity = TERM(momentum, momentum_buffer[i]) + grad;
    const real ahead = grad + TERM(momentum, velocity);
    momentum_buffer[i] = velocity;
    p[i] = TERM(shrink, p[i]) - TERM(step_size, ahead);
}
END_KERNEL
