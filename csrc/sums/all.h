/* The list of sums, by name and by file; the order is that of fastopt_sum_at(). */
#ifndef SUMS
#define SUMS(_) _(lamb) _(sum_squares)
#endif

#include "lamb.h"
#include "sum_squares.h"
