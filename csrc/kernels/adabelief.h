/* AdaBelief. */
KERNEL(adabelief, (exp_avg, exp_avg_var),
       (grad_scale, l2, shrink, step_size, beta1, one_minus_beta1, beta2, one_minus_beta2, root, eps))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * grad;
    const real surprise = grad - m;
    const real s = TERM(beta2, exp_avg_var[i]) + one_minus_beta2 * (surprise * surprise) + eps;
    const real update = TERM(step_size, m) / (root * SQRT(s) + eps);
    exp_avg[i] = m;
    exp_avg_var[i] = s;
    p[i] = TERM(shrink, p[i]) - update;
}
END_KERNEL
