"""What training rejects, named by the argument that was wrong."""

from __future__ import annotations


class InputError(ValueError):
    """An argument of training that cannot be used.

    ``argument`` is its name with underscores ("batch_size"); ``message`` is one line that says
    what was given and what is allowed.
    """

    def __init__(self, argument: str, message: str) -> None:
        self.argument = argument
        self.message = " ".join(message.split())
        super().__init__(f"{argument}: {self.message}")
