/* Adan. */
KERNEL(adan, (exp_avg, exp_avg_diff, exp_avg_sq, previous_grad),
       (grad_scale, l2, shrink, step_size, diff_size, keep, ahead_size, beta1, one_minus_beta1, beta2, one_minus_beta2,
        beta3, one_minus_beta3, root, eps, eps_root))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real previous = previous_grad[i];
    const real difference = grad - (keep_is == ABSENT ? grad : previous);
    const real ahead = grad + TERM(ahead_size, difference);
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * grad;
    const real n = TERM(beta2, exp_avg_diff[i]) + one_minus_beta2 * difference;
    const real v = TERM(beta3, exp_avg_sq[i]) + one_minus_beta3 * (ahead * ahead);
    const real update = (TERM(step_size, m) + TERM(diff_size, n)) / (root * SQRT(v + eps_root) + eps);
    exp_avg[i] = m;
    exp_avg_diff[i] = n;
    exp_avg_sq[i] = v;
    previous_grad[i] = grad;
    p[i] = TERM(shrink, p[i]) - update;
}
END_KERNEL
