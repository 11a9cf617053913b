/* The list of storages, each with its number of parts: the order is that of their numbers, in fastopt.h and in
 * fastopt/storages/. */
#ifndef CODECS
#define EXACT(_, name, parts) _(name, parts, name, name)
#define ROUNDED(_, name, parts) _(name, parts, name, name##_stochastic)
#define CODECS(_) \
    EXACT(_, float32, 1) EXACT(_, float64, 1) ROUNDED(_, bfloat16, 1) ROUNDED(_, float16, 1) EXACT(_, split, 2) \
    ROUNDED(_, float8_signed, 2) ROUNDED(_, float8_unsigned, 2)
#endif

#include "native.h"
#include "bfloat16.h"
#include "float16.h"
#include "split.h"
#include "float8.h"
