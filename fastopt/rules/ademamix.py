"""AdEMAMix."""

from math import exp, expm1, log, sqrt
from typing import ClassVar

import numpy as np

from fastopt.declared import LearningRate, NonNegative, UnitInterval
from fastopt.rule import Rule, State


class AdEMAMix(Rule):
    """AdEMAMix: Adam with a second, slow momentum.

    Pagliardini, Ablin & Grangier, ICLR 2025, arXiv:2409.03137, Algorithm 1::

        m = beta1 m + (1 - beta1) g
        s = beta3(step) s + (1 - beta3(step)) g
        v = beta2 v + (1 - beta2) g^2
        u = (m / (1 - beta1^step) + alpha(step) s) / (sqrt(v / (1 - beta2^step)) + eps)
        p = p - lr (u + weight_decay p)

        alpha(t) = alpha a;  a = min(t / alpha_warmup, 1)
        1 / log(beta3(t)) = (1 - b) / log(beta1) + b / log(beta3);  b = min(t / beta3_warmup, 1)

    with m the state ``exp_avg``, s ``exp_avg_slow`` and v ``exp_avg_sq``. Both warm-ups are numbers of steps, usually
    all of a run, and zero for none: without them a large alpha or beta3 may diverge at the start. beta3(t) lets the
    memory of s, in steps, grow evenly from that of m, and is never larger than beta3. The weight decay is decoupled.
    s moves by a ten-thousandth: in ``8bit``, or rounded to nearest in 16 bits, it stands still. Leave its storage as it
    is, as ``state_dtype={"exp_avg": "8bit", "exp_avg_sq": "8bit"}`` does.

    Elsewhere: alpha is 5 in bitsandbytes and optax, as here, and 2 in the authors' code. bitsandbytes decays by 0.01
    unless told otherwise, and calls the warm-ups t_alpha and t_beta3. The schedules that optax has for alpha and beta3
    begin at step 0, one step later than the paper's.
    """

    lr: LearningRate = 1e-3
    betas: tuple[UnitInterval, UnitInterval, UnitInterval] = (0.9, 0.999, 0.9999)
    alpha: NonNegative = 5.0
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    alpha_warmup: NonNegative = 0.0
    beta3_warmup: NonNegative = 0.0

    ulp = 64
    kernel = "ademamix"
    decoupled_weight_decay: ClassVar = True
    states: ClassVar = {"exp_avg": 0.0, "exp_avg_slow": 0.0, "exp_avg_sq": State(signed=False)}

    def coefficients(self, step):
        lr = self.rate(step)
        beta1, beta2, _ = self.betas
        beta3, one_minus_beta3 = self._slow(step)
        alpha = self.alpha if step >= self.alpha_warmup else self.alpha * (step / self.alpha_warmup)
        return self.common(lr) | {
            "step_size": lr / (1 - beta1**step),
            "slow_size": lr * alpha,
            "beta1": beta1,
            "one_minus_beta1": 1 - beta1,
            "beta2": beta2,
            "one_minus_beta2": 1 - beta2,
            "beta3": beta3,
            "one_minus_beta3": one_minus_beta3,
            "root": 1 / sqrt(1 - beta2**step),
            "eps": self.eps,
        }

    def _slow(self, step: int) -> tuple[float, float]:
        """beta3(step) and one minus it. The memory of a beta is -1 / log(beta) steps: none of zero."""
        beta1, _, beta3 = self.betas
        if step >= self.beta3_warmup:
            return beta3, 1 - beta3
        share = step / self.beta3_warmup
        first, last = (-1 / log(beta) if beta else 0.0 for beta in (beta1, beta3))
        memory = min((1 - share) * first + share * last, last)
        return (exp(-1 / memory), -expm1(-1 / memory)) if memory else (0.0, 1.0)

    def reference(self, step, p, g, exp_avg, exp_avg_slow, exp_avg_sq):
        lr = self.rate(step)
        p, g = self.decayed(lr, p, g)
        beta1, beta2, beta3 = self.betas
        alpha = self.alpha * min(step / self.alpha_warmup, 1) if self.alpha_warmup else self.alpha
        if step < self.beta3_warmup:
            a, (fast, slow) = step / self.beta3_warmup, np.log(np.array([beta1, beta3], g.dtype))
            beta3 = min(np.exp(fast * slow / ((1 - a) * slow + a * fast)), beta3)
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        exp_avg_slow = beta3 * exp_avg_slow + (1 - beta3) * g
        exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g**2
        direction = exp_avg / (1 - beta1**step) + alpha * exp_avg_slow
        p = p - lr * direction / (np.sqrt(exp_avg_sq / (1 - beta2**step)) + self.eps)
        return p, {"exp_avg": exp_avg, "exp_avg_slow": exp_avg_slow, "exp_avg_sq": exp_avg_sq}
