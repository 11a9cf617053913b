/* Gradient descent with a heavy ball, cautious: no step where the update has not the sign of the gradient. */
KERNEL(cautious_momentum, (momentum_buffer),
       (grad_scale, l2, shrink, step_size, momentum, one_minus_dampening, zero))
{
    const real grad = grad_scale * g[i] + TERM(l2, p[i]);
    const real velocity = TERM(momentum, momentum_buffer[i]) + TERM(one_minus_dampening, grad);
    p[i] = TERM(shrink, p[i]) - (velocity * grad <= zero ? zero : TERM(step_size, velocity));
    momentum_buffer[i] = velocity;
}
END_KERNEL
