/* The square of a gradient that is corrected by the one before: for its norm. */
SUM(mars, (p, g, exp_avg, exp_avg_sq, last_grad), (grad_scale, correction), (squares))
{
    const real grad = grad_scale * g[i];
    const double corrected = (double)(grad + TERM(correction, grad - last_grad[i]));
    ADD(squares, corrected * corrected);
}
END_SUM
