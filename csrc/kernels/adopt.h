/* ADOPT. */
KERNEL(adopt, (exp_avg, exp_avg_sq),
       (grad_scale, l2, shrink, step_size, beta1, one_minus_beta1, beta2, one_minus_beta2, eps, largest))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real old = exp_avg_sq[i];
    real size = SQRT(old);
    size = size < eps ? eps : size;
    real normalized = grad / size;
    normalized = normalized < -largest ? -largest : normalized;
    normalized = normalized > largest ? largest : normalized;
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * normalized;
    exp_avg[i] = m;
    exp_avg_sq[i] = TERM(beta2, old) + one_minus_beta2 * (grad * grad);
    p[i] = TERM(shrink, p[i]) - TERM(step_size, m);
}
END_KERNEL
