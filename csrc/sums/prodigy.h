/* Products of the gradient and the way back to where the parameters started, and the magnitudes of Prodigy's new s. */
SUM(prodigy, (p, g, s, p0), (grad_scale, l2, beta3, sum_size, keep, weight), (products, magnitudes))
{
    const real param = p[i];
    real start = p0[i];
    const real grad = grad_scale * g[i] + TERM(l2, param);
    const real total = TERM(beta3, s[i]) + TERM(sum_size, grad);
    start = keep == 0 ? param : start;
    const double away = (double)start - (double)param;
    ADD(products, (double)weight * (double)grad * (start == param ? 0 : away)); /* where both are infinite, too */
    ADD(magnitudes, (double)ABS(total));
}
END_SUM
