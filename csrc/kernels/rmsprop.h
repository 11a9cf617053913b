/* RMSprop. */
KERNEL(rmsprop, (square_avg),
       (grad_scale, l2, shrink, step_size, alpha, one_minus_alpha, eps, eps_root))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real v = TERM(alpha, square_avg[i]) + TERM(one_minus_alpha, grad * grad);
    const real update = TERM(step_size, grad) / (SQRT(v + eps_root) + eps);
    square_avg[i] = v;
    p[i] = TERM(shrink, p[i]) - update;
}
END_KERNEL
