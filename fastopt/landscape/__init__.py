"""Paths of optimizers over classic surfaces, as one picture. Needs ``fastopt[bench]``."""
