/* CBRT(x), the cube root of any number, for kernels: less than 0.81 units in the last place away. stamp.h includes this
 * file. */
#include "bits.h"

#define CBRT STAMPED(cbrt)
#if DTYPE == 32
#define CBRT_START 0x54a23000u
#else
#define CBRT_START 0x553ef0d900000000u
#endif

ALWAYS_INLINE real STAMPED(cbrt)(real x)
{
    const real third = (real)(1.0 / 3);
    const real v = x * (ABS(x) < 1 ? (real)0x1p60 : 1), magnitude = ABS(v); /* no subnormal number */
    /* The bits of a number are its logarithm, nearly: minus a third of them gives 1 / cbrt(v) to four percent. */
    word bits;
    real y;
    memcpy(&bits, &magnitude, sizeof bits);
    bits = CBRT_START - (bits >> DTYPE / 2) * (((word)1 << DTYPE / 2) / 3);
    memcpy(&y, &bits, sizeof y);
    /* The root is v y^2 (v y^3)^(-2/3), and v y^3 is close to 1: four terms of Taylor's series around 1 leave four digits
     * right. Each step of Newton's method doubles them. */
    const real square = y * y, cube = magnitude * y * square;
    const real a = (real)(220.0 / 81), b = (real)(264.0 / 81), c = (real)(165.0 / 81), d = (real)(40.0 / 81);
    real root = v * square;
    root = root * ((a - b * cube) + cube * cube * (c - d * cube));
    root = root + third * (v / (root * root) - root);
#if DTYPE == 64
    root = root + third * (v / (root * root) - root);
#endif
    root = root * (ABS(x) < 1 ? (real)0x1p-20 : 1);
    return root == root ? root : x; /* zero, infinity and NaN are their own roots */
}

#undef CBRT_START
