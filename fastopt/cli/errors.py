"""What goes wrong, in one line on the standard error, with an exit code."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from fastopt.errors import CheckpointError, InputError

EXTRA = {
    "rich": "rich",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "ml_dtypes": "ml_dtypes",
    "threadpoolctl": "threadpoolctl",
}


class OneLineErrors(click.Group):
    """Says what is wrong in one line: exit code 2 for wrong input, 130 after Ctrl-C, 1 for the rest."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        os.environ.pop("MPLBACKEND", None)  # a notebook's, which may not be there: only files are written
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # names of files may be of any bytes
        try:
            code = super().main(*args, **kwargs)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            _fail(context.command_path if context else self.name, error.format_message(), error.exit_code)
        except click.Abort:
            _fail(self.name, "interrupted", 130)
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module not in EXTRA:
                raise
            _fail(self.name, f"this needs {EXTRA[module]}: pip install 'fastopt[train]'", 1)
        except OSError as error:
            _fail(self.name, str(error), 1)
        except MemoryError as error:
            _fail(self.name, f"not enough memory: {error}" if str(error) else "not enough memory", 1)
        sys.exit(code if isinstance(code, int) else 0)


def _fail(command: str | None, message: str, code: int) -> None:
    click.echo(f"{command}: {' '.join(message.split())}", err=True)
    sys.exit(code)


@contextmanager
def named_errors(context: click.Context) -> Iterator[None]:
    """Errors of the library as those of the option that caused them."""
    try:
        yield
    except InputError as error:
        raise click.UsageError(error.named(f"--{error.argument.replace('_', '-')}"), context) from None
    except CheckpointError as error:
        raise click.UsageError(f"--resume: {error}", context) from None
