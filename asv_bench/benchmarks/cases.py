"""The parameters of the benchmarks: literal lists, so that a result keeps its name from commit to commit."""

from types import ModuleType

#: A rule for every kernel and every rule of ``fastopt.RULES`` that has no stage: what is not the default, by label.
CASES = {
    "LARS": {},
    "MARS": {},
    "SGD": {},
    "Momentum": {},
    "Momentum(cautious=True)": {"cautious": True},
    "Nesterov": {},
    "Nesterov(cautious=True)": {"cautious": True},
    "Adagrad": {},
    "Adadelta": {},
    "RMSprop": {},
    "RMSprop(momentum=0.9)": {"momentum": 0.9},
    "RMSprop(centered=True)": {"centered": True},
    "RMSprop(momentum=0.9, centered=True)": {"momentum": 0.9, "centered": True},
    "Adam": {},
    "Adam(cautious=True)": {"cautious": True},
    "AMSGrad": {},
    "AdamW": {},
    "Adamax": {},
    "NAdam": {},
    "NAdam(cautious=True)": {"cautious": True},
    "RAdam": {},
    "AdaBelief": {},
    "StableAdamW": {},
    "Yogi": {},
    "ADOPT": {},
    "LAMB": {},
    "LaProp": {},
    "QHAdam": {},
    "ASGD": {},
    "Rprop": {},
    "Signum": {},
    "Lion": {},
    "Lion(cautious=True)": {"cautious": True},
    "Adan": {},
    "AdEMAMix": {},
    "MADGRAD": {},
    "SophiaG": {},
    "Prodigy(growth_rate=1.0)": {"growth_rate": 1.0},
    "DAdaptAdam(growth_rate=1.0)": {"growth_rate": 1.0},
    "SparseAdam": {},
    "FTRL": {},
    "ScheduleFreeSGD": {},
    "ScheduleFreeAdamW": {},
    "ScheduleFreeRAdam": {},
}

#: The same of the rules that have a stage.
STAGED = {
    "Adafactor": {},
    "Muon": {},
    "RowwiseAdagrad": {},
    "SOAP": {},
}

#: How numbers are stored: the dtypes of parameters and gradient, and what the optimizer is asked for.
MIXES = {
    "float32": ("float32", "float32", {}),
    "gradient and copy in bfloat16": ("float32", "bfloat16", {"copy": "bfloat16"}),
    "gradient in float16, average": ("float32", "float16", {"ema_decay": 0.999}),
    "states in bfloat16": ("float32", "float32", {"state_dtype": "bfloat16"}),
    "states in bfloat16, nearest": ("float32", "float32", {"state_dtype": "bfloat16", "rounding": "nearest"}),
    "states in 8 bits": ("float32", "float32", {"state_dtype": "8bit"}),
    "bfloat16": ("bfloat16", "bfloat16", {"state_dtype": "bfloat16"}),
    "float16, nearest": ("float16", "float16", {"state_dtype": "float16", "rounding": "nearest"}),
    "bfloat16, master": ("bfloat16", "bfloat16", {"master": "float32"}),
    "bfloat16, split": ("bfloat16", "bfloat16", {"master": "split"}),
    "bfloat16, split, states in bfloat16": ("bfloat16", "bfloat16", {"master": "split", "state_dtype": "bfloat16"}),
    "bfloat16, split, states in 8 bits": ("bfloat16", "bfloat16", {"master": "split", "state_dtype": "8bit"}),
}

#: The rules that are measured in every mix: without a state, with one, with one more that has no sign.
STORED_RULES = ["SGD", "Momentum", "AdamW"]

BACKENDS = ["numba", "c"]
DTYPES = ["float32", "float64"]
THREADS = ["1", "all"]

#: Rows and columns of matrices: a product of two takes some hundred microseconds, or some milliseconds.
SIDES = [128, 512]

#: Elements: the least that have states of 8 bits, in or close to the first-level cache.
IN_CACHE = 4096

#: Elements. With the states of any rule and either dtype, these stay in the cache, or do not.
IN_L2, IN_L3, IN_MEMORY = 20_000, 300_000, 10_000_000


def rule(fastopt: ModuleType, label: str):
    """The rule of a label. NotImplementedError, by which asv skips a benchmark, if the commit does not have it."""
    kind, options = getattr(fastopt, label.partition("(")[0], None), (CASES | STAGED)[label]
    if kind is None or not options.keys() <= kind.fields.keys():
        raise NotImplementedError(f"this commit has no {label}")
    return kind(**options)
