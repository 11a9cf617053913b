"""fastopt in PyTorch: drop-in optimizers for models on the CPU.

``from fastopt.torch import AdamW`` takes the place of ``from torch.optim import AdamW``, and nothing else changes:
there is a ``torch.optim.Optimizer`` for every rule of fastopt, with torch's signature, state dicts and groups where
torch has the rule. All tensors are stepped in place, in one call, on torch's own threads.
"""

from typing import TYPE_CHECKING

from fastopt.rules import RULES
from fastopt.torch.classes import accelerate, optimizer_class
from fastopt.torch.optimizer import RuleOptimizer

if TYPE_CHECKING:

    def __getattr__(name: str) -> type[RuleOptimizer]: ...


globals().update({name: optimizer_class(rule) for name, rule in RULES.items()})

__all__ = ["RuleOptimizer", "accelerate", "optimizer_class", *RULES]
