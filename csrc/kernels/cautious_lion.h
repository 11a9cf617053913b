/* Lion, cautious: no step where the update has not the sign of the gradient. */
KERNEL(cautious_lion, (exp_avg),
       (grad_scale, l2, shrink, step_size, beta1, one_minus_beta1, beta2, one_minus_beta2, zero))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real mixed = TERM(beta1, exp_avg[i]) + one_minus_beta1 * grad;
    const real update = mixed > zero ? step_size : (mixed < zero ? -step_size : mixed);
    exp_avg[i] = TERM(beta2, exp_avg[i]) + one_minus_beta2 * grad;
    p[i] = TERM(shrink, p[i]) - (mixed * grad <= zero ? zero : update);
}
END_KERNEL
