/* The squares of the parameters, and of LAMB's update before it is scaled. */
SUM(lamb, (p, g, exp_avg, exp_avg_sq),
    (grad_scale, decay, step_size, beta1, one_minus_beta1, beta2, one_minus_beta2, root, eps),
    (weights, updates))
{
    const real grad = grad_scale * g[i];
    const real m = TERM(beta1, exp_avg[i]) + one_minus_beta1 * grad;
    const real v = TERM(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad);
    const double weight = (double)p[i];
    const double update = (double)(TERM(step_size, m) / (TERM(root, SQRT(v)) + eps) + TERM(decay, p[i]));
    ADD(weights, weight * weight);
    ADD(updates, update * update);
}
END_SUM
