/* Every sum's loop for one dtype and one instruction set. A sum's file gives what `count` numbers of a block contribute:
 *
 *     SUM(name) { numbers to lanes }
 *
 * The element i is added to lane i % LANES, in order, so that the order of the additions is the same for every
 * instruction set; who calls starts at a multiple of LANES, and folds the lanes of a block in halves. */
#define SUM(name) TARGET static void STAMPED(name)(const void *numbers, int32_t count, double scale, double *lanes)

#include "sums/all.h"

#undef SUM
