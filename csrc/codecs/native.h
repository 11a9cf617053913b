/* float32 and float64 as they are, where kernels compute in the other one: a float64 is rounded to nearest. */
DECODE(float32)
{
    const float *restrict const stored = (const float *)parts[0] + start;
    EACH(i) values[i] = (real)stored[i];
}

ENCODE(float32)
{
    float *restrict const stored = (float *)parts[0] + start;
    EACH(i) stored[i] = (float)values[i];
}

DECODE(float64)
{
    const double *restrict const stored = (const double *)parts[0] + start;
    EACH(i) values[i] = (real)stored[i];
}

ENCODE(float64)
{
    double *restrict const stored = (double *)parts[0] + start;
    EACH(i) stored[i] = (double)values[i];
}
