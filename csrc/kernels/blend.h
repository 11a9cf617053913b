/* Averages, sums and copies: no rule's, but what other buffers than parameters are updated by. */
KERNEL(blend, (),
       (past, add))
{
    p[i] = TERM(past, p[i]) + add * g[i];
}
END_KERNEL
