/* QHAdam. */
KERNEL(qhadam, (exp_avg, exp_avg_sq),
       (grad_scale, l2, shrink, grad_size, momentum_size, beta1, one_minus_beta1, beta2, one_minus_beta2,
        square_part, moment_part, eps))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real square = grad * grad;
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * grad;
    const real v = TERM(beta2, exp_avg_sq[i]) + one_minus_beta2 * square;
    const real mixed = TERM(square_part, square) + TERM(moment_part, v);
    const real update = (TERM(grad_size, grad) + TERM(momentum_size, m)) / (SQRT(mixed) + eps);
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    p[i] = TERM(shrink, p[i]) - update;
}
END_KERNEL
