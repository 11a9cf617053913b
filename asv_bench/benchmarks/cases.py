"""The parameters of the benchmarks: literal lists, so that a result keeps its name from commit to commit."""

from types import ModuleType

#: A rule for every kernel and every rule of ``fastopt.RULES``: what is not the default, by label.
CASES = {
    "SGD": {},
    "Momentum": {},
    "Nesterov": {},
    "Adagrad": {},
    "Adadelta": {},
    "RMSprop": {},
    "RMSprop(momentum=0.9)": {"momentum": 0.9},
    "RMSprop(centered=True)": {"centered": True},
    "RMSprop(momentum=0.9, centered=True)": {"momentum": 0.9, "centered": True},
    "Adam": {},
    "AMSGrad": {},
    "AdamW": {},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
    "AdaBelief": {},
    "Yogi": {},
    "ADOPT": {},
    "ASGD": {},
    "Rprop": {},
    "Lion": {},
    "Adan": {},
    "AdEMAMix": {},
    "MADGRAD": {},
    "SophiaG": {},
    "FTRL": {},
}

BACKENDS = ["numba", "c"]
DTYPES = ["float32", "float64"]
THREADS = ["1", "all"]

#: Elements. With the states of any rule and either dtype, these stay in the cache, or do not.
IN_L2, IN_L3, IN_MEMORY = 20_000, 300_000, 10_000_000


def rule(fastopt: ModuleType, label: str):
    """The rule of a label. NotImplementedError, by which asv skips a benchmark, if the commit does not have it."""
    kind = getattr(fastopt, label.partition("(")[0], None)
    if kind is None:
        raise NotImplementedError(f"this commit has no {label}")
    return kind(**CASES[label])
