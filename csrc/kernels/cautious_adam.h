/* Adam and AdamW, cautious: no step where the update has not the sign of the gradient. */
KERNEL(cautious_adam, (exp_avg, exp_avg_sq),
       (grad_scale, l2, shrink, step_size, beta1, one_minus_beta1, beta2, one_minus_beta2, root, eps, zero))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * grad;
    const real v = TERM(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad);
    const real update = TERM(step_size, m) / (TERM(root, SQRT(v)) + eps);
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    p[i] = TERM(shrink, p[i]) - (m * grad <= zero ? zero : update);
}
END_KERNEL
