/* Adadelta. */
KERNEL(adadelta, (square_avg, acc_delta),
       (grad_scale, l2, shrink, step_size, rho, one_minus_rho, eps))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real v = TERM(rho, square_avg[i]) + TERM(one_minus_rho, grad * grad);
    const real delta = SQRT((acc_delta[i] + eps) / (v + eps)) * grad;
    square_avg[i] = v;
    acc_delta[i] = TERM(rho, acc_delta[i]) + TERM(one_minus_rho, delta * delta);
    p[i] = TERM(shrink, p[i]) - TERM(step_size, delta);
}
END_KERNEL
