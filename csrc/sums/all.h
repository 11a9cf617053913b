/* The list of sums, by name and by file; the order is that of fastopt_sum_at(). */
#ifndef SUMS
#define SUMS(_) _(cautious) _(dadapt_adam) _(lamb) _(lars) _(mars) _(prodigy) _(stable_adamw) _(sum_squares)
#endif

#include "cautious.h"
#include "dadapt_adam.h"
#include "lamb.h"
#include "lars.h"
#include "mars.h"
#include "prodigy.h"
#include "stable_adamw.h"
#include "sum_squares.h"
