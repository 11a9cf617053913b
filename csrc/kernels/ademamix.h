/* AdEMAMix. */
KERNEL(ademamix, (exp_avg, exp_avg_slow, exp_avg_sq),
       (grad_scale, l2, shrink, step_size, slow_size, beta1, one_minus_beta1, beta2, one_minus_beta2, beta3,
        one_minus_beta3, root, eps))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * grad;
    const real s = TERM(beta3, exp_avg_slow[i]) + one_minus_beta3 * grad;
    const real v = TERM(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad);
    const real update = (TERM(step_size, m) + TERM(slow_size, s)) / (root * SQRT(v) + eps);
    exp_avg[i] = m;
    exp_avg_slow[i] = s;
    exp_avg_sq[i] = v;
    p[i] = TERM(shrink, p[i]) - update;
}
END_KERNEL
