/* Rprop. */
KERNEL(rprop, (prev, step_size),
       (grad_scale, l2, shrink, eta_minus, eta_plus, smallest, largest, zero, one))
{
    real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real product = grad * prev[i];
    const real factor = product > zero ? eta_plus : (product < zero ? eta_minus : one);
    real size = step_size[i] * factor;
    size = size < smallest ? smallest : size;
    size = size > largest ? largest : size;
    grad = product < zero ? zero : grad;
    const real update = grad > zero ? size : (grad < zero ? -size : zero); /* none for NaN */
    prev[i] = grad;
    step_size[i] = size;
    p[i] = TERM(shrink, p[i]) - update;
}
END_KERNEL
