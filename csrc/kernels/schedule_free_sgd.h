/* ScheduleFreeSGD. */
KERNEL(schedule_free_sgd, (z),
       (grad_scale, l2, shrink, step_size, share, pull, keep))
{
    const real param = p[i];
    real before = z[i];
    const real grad = grad_scale * g[i] + TERM(l2, param);
    before = keep_is == ABSENT ? param : before;
    /* Before the selection: what stands within makes GCC branch. Where they are equal, too: inf - inf is NaN. */
    const real nearer = param + TERM(share, before - param);
    const real near = before == param ? param : nearer;
    z[i] = before - TERM(step_size, grad);
    p[i] = TERM(shrink, near) - TERM(pull, grad);
}
END_KERNEL
