/* Yogi. */
KERNEL(yogi, (exp_avg, exp_avg_sq),
       (grad_scale, l2, shrink, step_size, beta1, one_minus_beta1, one_minus_beta2, root, eps, zero))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * grad;
    const real old = exp_avg_sq[i];
    const real square = grad * grad;
    const real change = one_minus_beta2 * square;
    const real v = old + (old < square ? change : (old > square ? -change : zero));
    const real update = TERM(step_size, m) / (root * SQRT(v) + eps);
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    p[i] = TERM(shrink, p[i]) - update;
}
END_KERNEL
