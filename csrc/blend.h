/* The moving average that follows a kernel, for one dtype and one instruction set, included by stamp.h. A coefficient of
 * zero means that its term is not there. */
TARGET static void STAMPED(blend)(void *average, const void *parameters, const void *k, int32_t count)
{
    real *restrict const mean = (real *)average;
    const real *restrict const p = (const real *)parameters;
    const real keep = ((const real *)k)[0], add = ((const real *)k)[1];
    for (int32_t i = 0; i < count; i++)
        mean[i] = (keep == 0 ? keep : keep * mean[i]) + (add == 0 ? add : add * p[i]);
}
