/* Nesterov's accelerated gradient, cautious: no step where the update has not the sign of the gradient. */
KERNEL(cautious_nesterov, (momentum_buffer),
       (grad_scale, l2, shrink, step_size, momentum, zero))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real velocity = TERM(momentum, momentum_buffer[i]) + grad;
    const real ahead = grad + TERM(momentum, velocity);
    momentum_buffer[i] = velocity;
    p[i] = TERM(shrink, p[i]) - (ahead * grad <= zero ? zero : TERM(step_size, ahead));
}
END_KERNEL
