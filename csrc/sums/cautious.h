/* How many elements of an update have the sign of their gradient. Its direction is grad_size grad + average_size m. */
SUM(cautious, (p, g, average),
    (grad_scale, l2, beta, one_minus_beta, grad_size, average_size, zero),
    (counts))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real m = TERM(beta, average[i]) + TERM(one_minus_beta, grad);
    const real direction = TERM(grad_size, grad) + TERM(average_size, m);
    ADD(counts, (double)(direction * grad > zero));
}
END_SUM
