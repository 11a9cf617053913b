/* Nesterov's accelerated gradient. */
KERNEL(nesterov, (momentum_buffer),
       (grad_scale, l2, shrink, step_size, momentum))
{
    const real grad = grad_scale * g[i] + l2 * p[i];
    const real velocity = momentum * momentum_buffer[i] + grad;
    momentum_buffer[i] = velocity;
    p[i] = shrink * p[i] - step_size * (grad + momentum * velocity);
}
END_KERNEL
