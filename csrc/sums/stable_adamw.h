/* The squares of gradients over their second moments, which are `least` at least. */
SUM(stable_adamw, (p, g, exp_avg, exp_avg_sq),
    (grad_scale, beta2, one_minus_beta2, correction, least),
    (squares))
{
    const real grad = grad_scale * g[i];
    const real second = correction * (TERM(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad));
    ADD(squares, (double)((grad * grad) / (second < least ? least : second)));
}
END_SUM
