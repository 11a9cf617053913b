"""Whether torch is to see the operations of a step: then kernels, which it does not see, must not make it."""

from torch import _C


def recorder() -> str:
    """The name of a dispatch mode that is to see every operation; empty if there is none."""
    size = _C._len_torch_dispatch_stack()
    if size:
        return type(_C._get_dispatch_stack_at(size - 1)).__name__
    return "PreDispatch" if _is_pre_dispatch() else ""


def makes_a_program() -> bool:
    """Whether a program is being made of the operations, as make_fx does, or they work on tensors without memory."""
    stack = map(_C._get_dispatch_stack_at, range(_C._len_torch_dispatch_stack()))
    return _is_pre_dispatch() or any(getattr(mode, "_mode_key", None) is not None for mode in stack)


def _is_pre_dispatch() -> bool:
    # Such a mode comes with one for functions, which is quicker to look for.
    return _C._len_torch_function_stack() > 0 and _C._dispatch_tls_is_dispatch_key_included(_C.DispatchKey.PreDispatch)
