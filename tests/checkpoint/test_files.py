"""Files that are as they were or whole: names, links, permissions, full disks, other writers, living and dead."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import textwrap

import pytest

from fastopt import files
from fastopt.files import replacing


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, content: bytes = b"new") -> None:
    with replacing(path) as file:
        file.write(content)


def read(path) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def test_the_file_is_as_it_was_until_all_is_written(folder):
    (folder / "f").write_bytes(b"old")
    with replacing(folder / "f") as file:
        file.write(b"ne")
        file.flush()
        assert read("f") == b"old"
        assert read(file.name) == b"ne"
        file.write(b"w")
    assert read("f") == b"new"
    assert os.listdir() == ["f"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
def test_the_file_stays_as_it_was_when_writing_fails(error):
    write("f", b"old")
    with pytest.raises(error), replacing("f") as file:
        file.write(b"new")
        raise error
    assert read("f") == b"old"
    assert os.listdir() == ["f"]


@pytest.mark.parametrize(
    "name", ["a", "a" * 255, "é" * 127, "𝄞" * 63, os.fsdecode(b"\xff" * 255), "-", " ", "a\nb", ".part", "$x_$"]
)
def test_every_name_that_a_file_can_have(name):
    for content in (b"one", b"two"):
        write(name, content)
        assert read(name) == content
    assert os.listdir() == [name]


def test_the_longest_path(folder):
    path = str(folder)
    while len(path) < 4000:
        path += "/" + "d" * min(200, 4002 - len(path))
        os.mkdir(path)
    for content in (b"one", b"two"):
        write(path + "/" + "f" * (4094 - len(path)), content)
    assert len(os.listdir(path)) == 1


@pytest.mark.parametrize("name", ["", "new/", "nowhere/f", ".", "f/g", "a" * 256, "loop"])
def test_errors_are_those_of_open_and_name_the_file(name):
    write("f")
    os.symlink("loop", "loop")
    with pytest.raises(OSError) as expected, open(name, "wb"):
        pass
    with pytest.raises(OSError) as found:
        write(name)
    assert (type(found.value), found.value.errno) == (type(expected.value), expected.value.errno)
    assert str(found.value) == str(expected.value)
    assert sorted(os.listdir()) == ["f", "loop"]


def test_a_name_with_a_null_is_refused():
    with pytest.raises(ValueError, match="null"):
        write("a\0b")


@pytest.mark.parametrize("target", ["f", "sub/f", "../elsewhere/f"])
def test_links_stay_and_lead_to_the_new_content(folder, target):
    home = folder / "home"
    for each in (folder / "elsewhere", home, home / "sub"):
        each.mkdir()
    (home / "link").symlink_to(target)
    (folder / "second").symlink_to("home/link")
    for content in (b"one", b"two"):  # at first the link leads to nothing
        write(folder / "second", content)
        assert read(home / target) == content
    assert os.readlink(folder / "second") == "home/link"
    assert os.readlink(home / "link") == target


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o4755])
def test_permissions_are_kept(mode):
    write("f")
    os.chmod("f", mode)
    write("f", b"other")
    assert stat.S_IMODE(os.stat("f").st_mode) == mode
    assert read("f") == b"other"


def test_nobody_else_can_read_a_private_file_while_it_is_written():
    write("f")
    os.chmod("f", 0o600)
    with replacing("f") as file:
        assert stat.S_IMODE(os.stat(file.name).st_mode) == 0o600


def test_a_new_file_has_the_permissions_of_every_new_file():
    with open("plain", "wb"):
        pass
    write("f")
    assert os.stat("f").st_mode == os.stat("plain").st_mode


def test_what_is_no_regular_file_is_written_as_it_is():
    read_end, write_end = os.pipe()
    try:
        write(f"/dev/fd/{write_end}", b"through the pipe")
        assert os.read(read_end, 100) == b"through the pipe"
    finally:
        os.close(read_end)
        os.close(write_end)
    write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_device_is_named():
    with pytest.raises(OSError) as caught:
        write("/dev/full")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


@pytest.mark.parametrize("size", [1_000, 1_000_000])  # noticed when the buffer is flushed, and before
def test_a_full_disk_is_named_and_leaves_the_file(size):
    write("f", b"old")
    code = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        from fastopt.files import replacing
        with replacing("f") as file:
            file.write(bytes({size}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "OSError: [Errno 27] File too large: 'f'"
    assert read("f") == b"old"
    assert os.listdir() == ["f"]


def test_an_error_of_another_file_keeps_its_name():
    with pytest.raises(FileNotFoundError) as caught, replacing("f"):
        open("other", "rb")  # noqa: SIM115
    assert caught.value.filename == "other"
    with pytest.raises(OSError, match="^f: a library's own words$"), replacing("f"):
        raise OSError("a library's own words")


def killed_while_writing(path: str) -> None:
    code = f"""
        import os, signal
        from fastopt.files import replacing
        with replacing({path!r}) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -9


def test_leftovers_of_dead_writers_of_the_same_file_go():
    write("f", b"old")
    for path in ("f", "f", "g"):
        killed_while_writing(path)
    assert read("f") == b"old"
    assert len(os.listdir()) == 4 - 1  # the second writer of f has removed what the first one left
    write("f")
    left = [name for name in os.listdir() if name != "f"]
    assert len(left) == 1 and left[0].startswith(".g.")
    assert read("f") == b"new"


def test_two_writers_at_once_leave_the_file_of_the_last():
    with replacing("f") as first:
        first.write(b"first")
        with replacing("f") as second:
            second.write(b"second")
        assert read("f") == b"second"
    assert read("f") == b"first"
    assert os.listdir() == ["f"]


def test_two_processes_at_once():
    with replacing("f") as file:
        file.write(b"ours")
        code = "from fastopt.files import replacing\nwith replacing('f') as file: file.write(b'theirs')"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert read("f") == b"theirs"
    assert read("f") == b"ours"


def test_a_file_that_another_writer_removes_before_it_is_locked_is_made_anew(monkeypatch):
    lock, calls = fcntl.flock, []

    def late(file, how):
        calls.append(how)
        if len(calls) == 1:
            write("f", b"another's")
        lock(file, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    write("f", b"ours")
    assert read("f") == b"ours"
    assert os.listdir() == ["f"]


def test_without_locks_nothing_that_is_left_is_removed(monkeypatch):
    killed_while_writing("f")

    def flock(file, how):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    write("f")
    assert read("f") == b"new"
    assert len(os.listdir()) == 2


def test_files_of_similar_names_are_let_alone():
    names = [".f.part", ".f.0123.part", ".f.0123456789abcdef.part.gz", ".fx.0123456789abcdef.part", "g"]
    for name in names:
        write(name)
    os.mkdir(".f.0123456789abcdef.part")
    write("f")
    assert sorted(os.listdir()) == sorted([*names, ".f.0123456789abcdef.part", "f"])
