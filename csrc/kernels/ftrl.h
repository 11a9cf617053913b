/* FTRL-Proximal. */
KERNEL(ftrl, (square_sum, z),
       (grad_scale, l2, shrink, step_size, offset, l1, zero))
{
    const real param = p[i];
    const real kept = z[i];
    const real grad = grad_scale * g[i] + TERM(l2, param);
    const real n = square_sum[i] + grad * grad;
    const real rate = step_size / (SQRT(n) + offset);
    const real moved = TERM(shrink, param) - rate * (grad + (param == zero ? kept : zero));
    /* The width of zero: a parameter leaves it on the side it is on as it came, on the other side by twice l1. */
    const real once = TERM(l1, rate), twice = once + once;
    const real high = param > zero ? zero : (param < zero ? twice : once);
    const real low = param < zero ? zero : (param > zero ? twice : once);
    const real neither = moved - moved; /* zero, or NaN */
    const real above = moved - high, below = moved + low;
    const real after = moved > high ? above : (moved < -low ? below : neither);
    const real left = (param > zero ? -l1 : l1) - param / rate;
    const real rest = grad + (param == zero ? kept : left);
    const real whole = (after > zero ? -l1 : l1) - after / rate;
    const real pulled = rate > zero ? whole : kept;
    square_sum[i] = n;
    z[i] = after == zero ? rest : pulled;
    p[i] = after;
}
END_KERNEL
