/* RMSprop with momentum. */
KERNEL(rmsprop_momentum, (square_avg, momentum_buffer),
       (grad_scale, l2, shrink, step_size, alpha, one_minus_alpha, eps, momentum))
{
    const real grad = grad_scale * g[i] + l2 * p[i];
    const real v = alpha * square_avg[i] + one_minus_alpha * (grad * grad);
    const real velocity = momentum * momentum_buffer[i] + grad / (SQRT(v) + eps);
    square_avg[i] = v;
    momentum_buffer[i] = velocity;
    p[i] = shrink * p[i] - step_size * velocity;
}
END_KERNEL
