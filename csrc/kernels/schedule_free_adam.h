/* ScheduleFreeAdamW and ScheduleFreeRAdam. */
KERNEL(schedule_free_adam, (z, exp_avg_sq),
       (grad_scale, l2, shrink, step_size, share, pull, decay_size, beta2, one_minus_beta2, root, eps, keep))
{
    const real param = p[i];
    real before = z[i];
    const real grad = grad_scale * g[i] + TERM(l2, param);
    const real v = TERM(beta2, exp_avg_sq[i]) + one_minus_beta2 * (grad * grad);
    const real update = grad / (TERM(root, SQRT(v)) + eps);
    before = keep_is == ABSENT ? param : before;
    const real shrunk = TERM(shrink, param);
    /* Before the selection: what stands within makes GCC branch. Where they are equal, too: inf - inf is NaN. */
    const real nearer = shrunk + TERM(share, before - param);
    const real near = before == param ? shrunk : nearer;
    exp_avg_sq[i] = v;
    z[i] = before - TERM(decay_size, param) - TERM(step_size, update);
    p[i] = near - TERM(pull, update);
}
END_KERNEL
