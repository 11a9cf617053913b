/* Adamax. */
KERNEL(adamax, (exp_avg, exp_inf),
       (grad_scale, l2, shrink, step_size, beta1, one_minus_beta1, beta2, eps))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * grad;
    const real size = ABS(grad) + eps;
    const real faded = TERM(beta2, exp_inf[i]);
    const real u = faded >= size ? faded : size;
    const real update = TERM(step_size, m) / u;
    exp_avg[i] = m;
    exp_inf[i] = u;
    p[i] = TERM(shrink, p[i]) - update;
}
END_KERNEL
