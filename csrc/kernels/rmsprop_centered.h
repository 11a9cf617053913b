/* RMSprop, centered. */
KERNEL(rmsprop_centered, (square_avg, grad_avg),
       (grad_scale, l2, shrink, step_size, alpha, one_minus_alpha, eps, zero))
{
    const real grad = grad_scale * g[i] + l2 * p[i];
    const real v = alpha * square_avg[i] + one_minus_alpha * (grad * grad);
    const real m = alpha * grad_avg[i] + one_minus_alpha * grad;
    const real difference = v - m * m;
    const real variance = difference < zero ? zero : difference;
    const real update = step_size * grad / (SQRT(variance) + eps);
    square_avg[i] = v;
    grad_avg[i] = m;
    p[i] = shrink * p[i] - update;
}
END_KERNEL
