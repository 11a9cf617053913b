/* Adam with the largest second moment so far. */
KERNEL(amsgrad, (exp_avg, exp_avg_sq, max_exp_avg_sq),
       (grad_scale, l2, shrink, step_size, beta1, one_minus_beta1, beta2, one_minus_beta2, root, eps, correction))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * grad;
    const real v = TERM(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad);
    real largest = max_exp_avg_sq[i];
    const real corrected = correction * v;
    largest = largest >= corrected ? largest : corrected;
    const real update = TERM(step_size, m) / (root * SQRT(largest) + eps);
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    max_exp_avg_sq[i] = largest;
    p[i] = TERM(shrink, p[i]) - update;
}
END_KERNEL
