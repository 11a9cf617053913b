/* (scale * g)^2, in double. */
SUM(sum_squares)
{
    const real *const g = (const real *)numbers;
    const int32_t whole = count - count % LANES;
    double sums[LANES];
    memcpy(sums, lanes, sizeof sums);
    for (int32_t i = 0; i < whole; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            const double x = scale * (double)g[i + lane];
            sums[lane] += x * x;
        }
    }
    for (int32_t i = whole; i < count; i++) {
        const double x = scale * (double)g[i];
        sums[i - whole] += x * x;
    }
    memcpy(lanes, sums, sizeof sums);
}
