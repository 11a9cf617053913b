"""Measuring steps: against the traffic that memory allows, and against other libraries. Needs ``fastopt[bench]``."""
