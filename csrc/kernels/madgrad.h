/* MADGRAD. */
KERNEL(madgrad, (grad_sum_sq, s, x0),
       (grad_scale, l2, shrink, weight, keep, one_minus_momentum, eps))
{
    const real param = p[i];
    real start = x0[i];
    const real grad = grad_scale * g[i] + TERM(l2, param);
    const real v = grad_sum_sq[i] + TERM(weight, grad * grad);
    const real total = s[i] + TERM(weight, grad);
    start = keep == 0 ? param : start;
    /* The cube root of v. It is v^(1/4 + 1/16 + 1/64 + ...): five factors are right to a quarter, whatever the
     * exponent of a float64. Then three steps of Halley's method, each of which has thrice the digits. */
    const real fourth = SQRT(SQRT(v));
    real root = fourth * SQRT(SQRT(fourth));
    root = fourth * SQRT(SQRT(root));
    root = fourth * SQRT(SQRT(root));
    root = fourth * SQRT(SQRT(root));
    real quotient = v / (root * root);
    root = root + root * ((quotient - root) / (root + root + quotient));
    quotient = v / (root * root);
    root = root + root * ((quotient - root) / (root + root + quotient));
    quotient = v / (root * root);
    root = root + root * ((quotient - root) / (root + root + quotient));
    root = root >= 0 ? root : fourth; /* of zero, infinity and NaN, which are their own roots */
    const real z = start - total / (root + eps);
    grad_sum_sq[i] = v;
    s[i] = total;
    x0[i] = start;
    p[i] = TERM(shrink, param) + one_minus_momentum * z;
}
END_KERNEL
