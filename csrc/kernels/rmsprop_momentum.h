/* RMSprop with momentum. */
KERNEL(rmsprop_momentum, (square_avg, momentum_buffer),
       (grad_scale, l2, shrink, step_size, alpha, one_minus_alpha, eps, eps_root, momentum))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real v = TERM(alpha, square_avg[i]) + TERM(one_minus_alpha, grad * grad);
    const real velocity = TERM(momentum, momentum_buffer[i]) + grad / (SQRT(v + eps_root) + eps);
    square_avg[i] = v;
    momentum_buffer[i] = velocity;
    p[i] = TERM(shrink, p[i]) - TERM(step_size, velocity);
}
END_KERNEL
