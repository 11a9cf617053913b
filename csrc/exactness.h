/* Whether one dtype's arithmetic with one instruction set is that of IEEE 754 in the order written, by a few numbers. The
 * compiler has options that change results, and Clang defines no macro for most of them. fastopt.c includes this file as
 * it includes loop.h, and before that. */
#if DTYPE == 32
#define real float
#define SQRT __builtin_sqrtf
#define HALF_THE_DIGITS 0x1p-12f
#define EPSILON FLT_EPSILON
#define SMALLEST FLT_MIN
#else
#define real double
#define SQRT __builtin_sqrt
#define HALF_THE_DIGITS 0x1p-27
#define EPSILON DBL_EPSILON
#define SMALLEST DBL_MIN
#endif
#define STAMPED(name) PASTE(name, DTYPE, ISA)

struct STAMPED(numbers) {
    real odd[EACH], same[EACH], square[EACH], one[EACH], e[EACH], e_squared[EACH], tiny[EACH], zero[EACH], nan[EACH],
        smallest[EACH], half[EACH];
};

/* Loops as those of kernels, with and without what small processors have no vectors for: what the compiler does there, it
 * does here. */
TARGET __attribute__((noinline)) static void STAMPED(compute)(const struct STAMPED(numbers) *given, real (*result)[EACH])
{
    const real divisor = given->same[0], dividend = given->odd[0];
    NO_DEPENDENCIES
    for (int i = 0; i < EACH; i++) {
        result[0][i] = given->odd[i] / given->same[i];
        result[1][i] = dividend * given->one[i] / divisor;
        result[2][i] = given->odd[i] / SQRT(given->square[i]);
    }
    NO_DEPENDENCIES
    for (int i = 0; i < EACH; i++) {
        result[3][i] = given->e[i] * given->e[i] - given->e_squared[i];
        result[4][i] = (given->one[i] + given->tiny[i]) - given->one[i];
        result[5][i] = (real)0 - given->zero[i];
        result[6][i] = given->nan[i] != given->nan[i] ? given->one[i] : given->zero[i];
        result[7][i] = given->smallest[i] * given->half[i];
    }
}

static int STAMPED(is_exact)(void)
{
    static const real expected[] = {1, 1, 1, 0, 0, 0, 1, SMALLEST / 2};
    enum { TRIES = sizeof expected / sizeof *expected };
    /* Their reciprocals times themselves are not 1, in float and in double. */
    static const unsigned char odd[] = {41, 49, 47, 55, 61, 82, 83, 94, 97, 98, 103, 107, 109, 161, 187, 197};
    struct STAMPED(numbers) given;
    real result[TRIES][EACH];
    for (int i = 0; i < EACH; i++) {
        given.odd[i] = given.same[i] = odd[DTYPE == 32 ? i : (i + 1) % EACH];
        given.square[i] = given.odd[i] * given.odd[i];
        given.one[i] = 1;
        given.e[i] = 1 + HALF_THE_DIGITS;
        given.e_squared[i] = 1 + 2 * HALF_THE_DIGITS; /* rounded: what lies below is half a unit in the last place */
        given.tiny[i] = EPSILON / 4;
        given.zero[i] = 0;
        given.nan[i] = (real)__builtin_nan("");
        given.smallest[i] = SMALLEST;
        given.half[i] = (real)0.5;
    }
    __asm__ volatile("" : : "r"(&given) : "memory"); /* nothing of it is known when compiling */
    STAMPED(compute)(&given, result);
    for (int try = 0; try < TRIES; try++)
        for (int i = 0; i < EACH; i++)
            if (memcmp(&result[try][i], &expected[try], sizeof(real)) != 0)
                return 0;
    return 1;
}

#undef real
#undef SQRT
#undef HALF_THE_DIGITS
#undef EPSILON
#undef SMALLEST
#undef STAMPED
