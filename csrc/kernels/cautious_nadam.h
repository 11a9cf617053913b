/* NAdam, cautious: no step where the update has not the sign of the gradient. */
KERNEL(cautious_nadam, (exp_avg, exp_avg_sq),
       (grad_scale, l2, shrink, grad_size, momentum_size, beta1, one_minus_beta1, beta2, one_minus_beta2,
        root, eps, zero))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * grad;
    const real v = TERM(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad);
    const real direction = TERM(grad_size, grad) + TERM(momentum_size, m);
    const real update = direction / (root * SQRT(v) + eps);
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    p[i] = TERM(shrink, p[i]) - (direction * grad <= zero ? zero : update);
}
END_KERNEL
