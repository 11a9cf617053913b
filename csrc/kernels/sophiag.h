/* SophiaG, and its estimate of the Hessian. */
KERNEL(sophiag, (exp_avg, hessian),
       (grad_scale, l2, shrink, step_size, curvature, eps, beta1, one_minus_beta1, beta2, one_minus_beta2, keep, one))
{
    const real param = p[i];
    const real before = exp_avg[i];
    const real h = hessian[i];
    const real grad = grad_scale * g[i] + TERM(l2, param);
    /* Before the selections: what stands within makes GCC branch. */
    const real averaged = TERM(beta1, before) + one_minus_beta1 * grad;
    const real m = keep_is == ABSENT ? before : averaged;
    real ratio = m / (TERM(curvature, h) + eps);
    ratio = ratio > one ? one : ratio;
    ratio = ratio < -one ? -one : ratio;
    const real estimate = TERM(beta2, h) + one_minus_beta2 * (grad * grad);
    const real moved = TERM(shrink, param) - TERM(step_size, ratio);
    exp_avg[i] = m;
    hessian[i] = keep_is == ABSENT ? estimate : h;
    p[i] = keep_is == ABSENT ? param : moved;
}
END_KERNEL
