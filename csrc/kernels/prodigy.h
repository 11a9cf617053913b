/* Prodigy. */
KERNEL(prodigy, (s, p0, exp_avg, exp_avg_sq),
       (grad_scale, l2, shrink, step_size, beta3, sum_size, keep, beta1, gradient_size, beta2, square_size, eps))
{
    const real param = p[i];
    real start = p0[i];
    const real grad = grad_scale * g[i] + TERM(l2, param);
    const real total = TERM(beta3, s[i]) + TERM(sum_size, grad);
    const real m = TERM(beta1, exp_avg[i]) + TERM(gradient_size, grad);
    const real v = TERM(beta2, exp_avg_sq[i]) + TERM(square_size, grad * grad);
    start = keep_is == ABSENT ? param : start;
    const real update = TERM(step_size, m) / (SQRT(v) + eps);
    s[i] = total;
    p0[i] = start;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    p[i] = TERM(shrink, param) - update;
}
END_KERNEL
