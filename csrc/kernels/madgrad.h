/* MADGRAD. */
KERNEL(madgrad, (grad_sum_sq, s, x0),
       (grad_scale, l2, shrink, weight, keep, one_minus_momentum, eps))
{
    const real param = p[i];
    real start = x0[i];
    const real grad = grad_scale * g[i] + TERM(l2, param);
    const real v = grad_sum_sq[i] + TERM(weight, grad * grad);
    const real total = s[i] + TERM(weight, grad);
    start = keep_is == ABSENT ? param : start;
    const real z = start - total / (CBRT(v) + eps);
    grad_sum_sq[i] = v;
    s[i] = total;
    x0[i] = start;
    p[i] = TERM(shrink, param) + one_minus_momentum * z;
}
END_KERNEL
