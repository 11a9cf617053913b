/* The squares of parameters and of gradients. */
SUM(lars, (p, g), (grad_scale), (weights, gradients))
{
    const double weight = (double)p[i];
    const double gradient = (double)grad_scale * (double)g[i];
    ADD(weights, weight * weight);
    ADD(gradients, gradient * gradient);
}
END_SUM
