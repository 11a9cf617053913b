/* RMSprop. */
KERNEL(rmsprop, (square_avg),
       (grad_scale, l2, shrink, step_size, alpha, one_minus_alpha, eps))
{
    const real grad = grad_scale * g[i] + l2 * p[i];
    const real v = alpha * square_avg[i] + one_minus_alpha * (grad * grad);
    const real update = step_size * grad / (SQRT(v) + eps);
    square_avg[i] = v;
    p[i] = shrink * p[i] - update;
}
END_KERNEL
