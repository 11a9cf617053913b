/* LaProp. */
KERNEL(laprop, (exp_avg, exp_avg_sq),
       (grad_scale, l2, shrink, step_size, beta1, one_minus_beta1, beta2, one_minus_beta2, root, eps))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real v = TERM(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad);
    const real normalized = grad / (root * SQRT(v) + eps);
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * normalized;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    p[i] = TERM(shrink, p[i]) - TERM(step_size, m);
}
END_KERNEL
