"""Ctrl-C as a question that the training loop asks between two batches."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Interrupt:
    """While entered, the first Ctrl-C only sets ``raised``; a second one acts at once.

    Outside the main thread, where Python handles no signals, ``raised`` stays False.
    """

    def __init__(self) -> None:
        self.raised = False
        self._before: object = None

    def __call__(self) -> bool:
        return self.raised

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.raised = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
