/* RMSprop, centered and with momentum. */
KERNEL(rmsprop_centered_momentum, (square_avg, grad_avg, momentum_buffer),
       (grad_scale, l2, shrink, step_size, alpha, one_minus_alpha, eps, zero, momentum))
{
    const real grad = grad_scale * g[i] + l2 * p[i];
    const real v = alpha * square_avg[i] + one_minus_alpha * (grad * grad);
    const real m = alpha * grad_avg[i] + one_minus_alpha * grad;
    const real difference = v - m * m;
    const real variance = difference < zero ? zero : difference;
    const real velocity = momentum * momentum_buffer[i] + grad / (SQRT(variance) + eps);
    square_avg[i] = v;
    grad_avg[i] = m;
    momentum_buffer[i] = velocity;
    p[i] = shrink * p[i] - step_size * velocity;
}
END_KERNEL
