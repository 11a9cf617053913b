/* DAdaptAdam. */
KERNEL(dadapt_adam, (s, exp_avg_sq, exp_avg),
       (grad_scale, l2, shrink, root, sum_size, beta1, gradient_size, beta2, one_minus_beta2, eps))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real total = TERM(root, s[i]) + TERM(sum_size, grad);
    const real m = TERM(beta1, exp_avg[i]) + TERM(gradient_size, grad);
    const real v = TERM(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad);
    const real update = m / (SQRT(v) + eps);
    s[i] = total;
    exp_avg_sq[i] = v;
    exp_avg[i] = m;
    p[i] = TERM(shrink, p[i]) - update;
}
END_KERNEL
