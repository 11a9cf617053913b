from collections.abc import Mapping
from typing import Any

KERNELS: dict[str, Any]

def twin(kernel: Any, variant: str, names: Mapping[str, Any] = ..., **options: Any) -> Any: ...
def __getattr__(name: str) -> Any: ...  # every kernel, by its name
