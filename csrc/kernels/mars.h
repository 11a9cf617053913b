/* MARS. */
KERNEL(mars, (exp_avg, exp_avg_sq, last_grad),
       (grad_scale, l2, shrink, step_size, correction, clip, beta1, one_minus_beta1, beta2, one_minus_beta2, root,
        eps))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real corrected = clip * (grad + TERM(correction, grad - last_grad[i]));
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * corrected;
    const real v = TERM(beta2, exp_avg_sq[i]) + one_minus_beta2 * (corrected * corrected);
    const real update = TERM(step_size, m) / (root * SQRT(v) + eps);
    last_grad[i] = grad;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    p[i] = TERM(shrink, p[i]) - update;
}
END_KERNEL
