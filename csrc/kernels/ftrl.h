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
    const real once = TERM(l1, rate);
    const real side = param > zero ? once : (param < zero ? -once : zero);
    const real above = moved - (once - side), below = moved + (once + side);
    const real after = (above < zero ? zero : above) + (below > zero ? zero : below);
    /* The z of where the parameter is; or, if it became zero, of where it was. */
    const real place = after == zero ? param : after;
    const real pulled = (place > zero ? -l1 : l1) - place / rate;
    const real gathered = grad + (param == zero ? kept : pulled);
    square_sum[i] = n;
    z[i] = after == zero ? gathered : (rate > zero ? pulled : kept);
    p[i] = after;
}
END_KERNEL
