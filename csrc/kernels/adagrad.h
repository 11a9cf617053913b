/* Adagrad. */
KERNEL(adagrad, (sum),
       (grad_scale, l2, shrink, step_size, eps, eps_root))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real total = sum[i] + grad * grad;
    const real update = TERM(step_size, grad) / (SQRT(total + eps_root) + eps);
    sum[i] = total;
    p[i] = TERM(shrink, p[i]) - update;
}
END_KERNEL
