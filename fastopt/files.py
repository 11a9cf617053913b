"""Files that are either as they were or whole: what is written takes the place of a file at once, or not at all."""

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

_SHOWN = 100  # bytes of a target's name in a temporary name, which so is short enough for every filesystem
_RANDOM = 8


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file to write, which takes the place of ``path`` when the block ends, once all of it is on the disk.

    Until then, and if the block raises, ``path`` stays as it was. The file is written in the same folder, under a
    temporary name, which is its ``name``; what writers that are dead have left of the same target is removed. A
    symbolic link stays and its target is replaced; owner and permissions are kept. What is no regular file, such as a
    pipe or ``/dev/stdout``, is written as it is.

    Raises OSError where :func:`open` does, where the folder cannot be written to and where the disk is full. It names
    ``path``, as does any that is raised in the block and names no file.
    """
    path = os.fsdecode(path)
    folder, name = os.path.split(_behind_links(path))
    with _naming(path, folder, _stem(name)):
        before = _status(path)
        if not name or (before and not stat.S_ISREG(before.st_mode)):
            with open(path, "wb") as file:
                yield file
            return
        mode = stat.S_IMODE(before.st_mode) if before else 0o666
        with _temporary(folder, name, mode & 0o666) as (file, place):
            yield file
            file.flush()
            if before:
                with suppress(PermissionError):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            os.replace(os.path.basename(file.name), name, src_dir_fd=place, dst_dir_fd=place)
        _sync(folder)


@contextmanager
def _naming(path: str, folder: str, stem: str) -> Iterator[None]:
    """An OSError that names no file, or one of the writer's own, names ``path``."""
    try:
        yield
    except OSError as error:
        other = error.filename
        if error.errno is None:
            error.args = (f"{path}: {error}",)
        elif not isinstance(other, str) or other == (folder or ".") or os.path.basename(other).startswith(stem):
            error.filename = path
            if error.filename2 is not None:
                del error.filename2
        raise


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _behind_links(path: str) -> str:
    """The path that a symbolic link leads to, whether there is something or not; links to folders stay."""
    for _ in range(40):  # more than that is a loop, for the system too
        if not os.path.islink(path):
            break
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return path


@contextmanager
def _temporary(folder: str, name: str, mode: int) -> Iterator[tuple[BinaryIO, int]]:
    """A new file with a temporary name for the target ``name``, and the folder's descriptor: a path that ends in a
    longer name than the target's may be too long.

    The file is locked while it is open, gone if the block raises, and never open to more users than ``mode`` says.
    """
    place = os.open(folder or ".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
    try:
        _remove_leftovers(folder, name, place)
        while True:
            temporary = f"{_stem(name)}{os.urandom(_RANDOM).hex()}.part"

            def opener(path: str, flags: int, temporary: str = temporary) -> int:
                return os.open(temporary, flags, mode, dir_fd=place)

            try:
                with open(os.path.join(folder, temporary), "xb", opener=opener) as file:
                    with suppress(OSError):  # a filesystem without locks: there nobody removes what is left
                        fcntl.flock(file, fcntl.LOCK_EX)
                    if os.fstat(file.fileno()).st_nlink:  # else somebody took it for left before it was locked
                        yield file, place
                        return
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=place)
                raise
    finally:
        os.close(place)


def _stem(name: str) -> str:
    shown = name[:_SHOWN]
    while len(os.fsencode(shown)) > _SHOWN:
        shown = shown[:-1]
    return f".{shown}."


def _remove_leftovers(folder: str, name: str, place: int) -> None:
    """Remove the temporary files of the target ``name`` that no living process has locked."""
    temporary = re.compile(f"{re.escape(_stem(name))}[0-9a-f]{{{2 * _RANDOM}}}\\.part")
    with suppress(OSError):
        for found in filter(temporary.fullmatch, os.listdir(folder or ".")):
            with suppress(OSError):
                file = os.open(found, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(found, dir_fd=place)
                finally:
                    os.close(file)


def _sync(folder: str) -> None:
    """Have the new name on the disk, too. The file is whole either way."""
    with suppress(OSError):
        descriptor = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
