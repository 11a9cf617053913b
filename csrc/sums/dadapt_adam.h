/* Products of the gradient and DAdaptAdam's s over the root of the second moment, and the magnitudes of the new s. */
SUM(dadapt_adam, (p, g, s, exp_avg_sq), (grad_scale, l2, root, sum_size, eps, weight), (products, magnitudes))
{
    const real before = s[i];
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real total = TERM(root, before) + TERM(sum_size, grad);
    const real quotient = before / (SQRT(exp_avg_sq[i]) + eps);
    const real way = before == 0 ? before : quotient; /* without eps it is 0 / 0 before the first gradient */
    ADD(products, (double)weight * (double)grad * (double)way);
    ADD(magnitudes, (double)ABS(total));
}
END_SUM
