"""How sums over gradients, parameters and states are taken, in numba; ``csrc/sums/`` adds in the same order."""
