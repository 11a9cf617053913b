/* The square of the gradient times `scale`: for its norm. */
SUM(sum_squares, (g), (scale), (squares))
{
    const double x = (double)scale * (double)g[i];
    ADD(squares, x * x);
}
END_SUM
