/* RMSprop, centered and with momentum. */
KERNEL(rmsprop_centered_momentum, (square_avg, grad_avg, momentum_buffer),
       (grad_scale, l2, shrink, step_size, alpha, one_minus_alpha, eps, eps_root, zero, momentum))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real v = TERM(alpha, square_avg[i]) + TERM(one_minus_alpha, grad * grad);
    const real m = TERM(alpha, grad_avg[i]) + TERM(one_minus_alpha, grad);
    const real difference = v - m * m;
    const real below = difference < v ? difference : v; /* v where it is infinite: inf - inf is NaN */
    const real variance = below < zero ? zero : below;
    const real velocity = TERM(momentum, momentum_buffer[i]) + grad / (SQRT(variance + eps_root) + eps);
    square_avg[i] = v;
    grad_avg[i] = m;
    momentum_buffer[i] = velocity;
    p[i] = TERM(shrink, p[i]) - TERM(step_size, velocity);
}
END_KERNEL
