/* The list of storages: the order is that of their numbers, in fastopt.h and in fastopt/storages/. */
#ifndef CODECS
#define EXACT(_, name) _(name, name, name)
#define ROUNDED(_, name) _(name, name, name##_stochastic)
#define CODECS(_) \
    EXACT(_, float32) EXACT(_, float64) ROUNDED(_, bfloat16) ROUNDED(_, float16) EXACT(_, split) \
    ROUNDED(_, float8_signed) ROUNDED(_, float8_unsigned)
#endif

#include "native.h"
#include "bfloat16.h"
#include "float16.h"
#include "split.h"
#include "float8.h"
