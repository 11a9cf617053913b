/* SophiaG, and its estimate of the Hessian. */
KERNEL(sophiag, (exp_avg, hessian),
       (grad_scale, l2, shrink, step_size, curvature, eps, beta1, one_minus_beta1, beta2, one_minus_beta2, keep, one))
{
    const real param = p[i];
    const real before = exp_avg[i];
    const real h = hessian[i];
    const real grad = grad_scale * g[i] + TERM(l2, param);
    const real m = TERM(beta1, before) + one_minus_beta1 * grad;
    real ratio = m / (curvature * h + eps);
    ratio = ratio > one ? one : ratio;
    ratio = ratio < -one ? -one : ratio;
    const real moved = TERM(shrink, param) - TERM(step_size, ratio);
    const real estimate = TERM(beta2, h) + one_minus_beta2 * (grad * grad);
    exp_avg[i] = keep == 0 ? before : m;
    hessian[i] = keep == 0 ? estimate : h;
    p[i] = keep == 0 ? param : moved;
}
END_KERNEL
