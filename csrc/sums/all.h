/* The list of sums. */
#include "sum_squares.h"
