/* All loops for one dtype that kernels compute in and one instruction set, and the table of them. stamped.c includes this
 * file once for each pair, after it has defined DTYPE (32 or 64), ISA (a suffix), TARGET (the function attribute of the
 * instruction set) and HALVES (how many float16 at once the target's own instructions convert: 16, 8 or 0). */
#if DTYPE == 32
#define real float
#define word uint32_t
#define SQRT __builtin_sqrtf
#define ABS __builtin_fabsf
#else
#define real double
#define word uint64_t
#define SQRT __builtin_sqrt
#define ABS __builtin_fabs
#endif
#define STAMPED(name) PASTE(name, DTYPE, ISA)

#include "exactness.h"
#include "cbrt.h"
#include "codec.h"
#include "kernel.h"
#include "mixed.h"
#include "sum.h"

static const struct loops STAMPED(loops) = {
    STAMPED(kernels), STAMPED(codecs), STAMPED(fill_noise), STAMPED(blend), STAMPED(sums), STAMPED(is_exact),
};

#undef STAMPED
#undef CBRT
#undef ABS
#undef SQRT
#undef word
#undef real
#undef DTYPE
