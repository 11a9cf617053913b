/* Whether one dtype's arithmetic with one instruction set is that of IEEE 754 in the order written, by a few numbers. The
 * compiler has options that change results, and Clang defines no macro for most of them. stamp.h includes
 * this file. */
#if DTYPE == 32
#define HALF_THE_DIGITS 0x1p-12f
#define EPSILON FLT_EPSILON
#define SMALLEST FLT_MIN
#else
#define HALF_THE_DIGITS 0x1p-27
#define EPSILON DBL_EPSILON
#define SMALLEST DBL_MIN
#endif
#define COPIES 16 /* of each number: as many as the widest vector holds */

struct STAMPED(numbers) {
    real odd[COPIES], same[COPIES], square[COPIES], one[COPIES], e[COPIES], e_squared[COPIES], tiny[COPIES], zero[COPIES], nan[COPIES],
        smallest[COPIES], half[COPIES];
};

/* Loops as those of kernels, with and without what small processors have no vectors for: what the compiler does there, it
 * does here. */
TARGET __attribute__((noinline)) static void STAMPED(compute)(const struct STAMPED(numbers) *given, real (*result)[COPIES])
{
    const real divisor = given->same[0], dividend = given->odd[0];
    NO_DEPENDENCIES
    for (int i = 0; i < COPIES; i++) {
        result[0][i] = given->odd[i] / given->same[i];
        result[1][i] = dividend * given->one[i] / divisor;
        result[2][i] = given->odd[i] / SQRT(given->square[i]);
    }
    NO_DEPENDENCIES
    for (int i = 0; i < COPIES; i++) {
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
    real result[TRIES][COPIES];
    for (int i = 0; i < COPIES; i++) {
        given.odd[i] = given.same[i] = odd[DTYPE == 32 ? i : (i + 1) % COPIES];
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
        for (int i = 0; i < COPIES; i++)
            if (memcmp(&result[try][i], &expected[try], sizeof(real)) != 0)
                return 0;
    return 1;
}

#undef HALF_THE_DIGITS
#undef EPSILON
#undef SMALLEST
#undef COPIES
