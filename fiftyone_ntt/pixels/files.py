"""Files that are written whole or not at all, read within bounds, and errors that name the file they happened to.

A full disk, a broken mount or a killed process must not leave half a file under the right name, nor pass for success.
What is read may be a stranger's: a pipe waits for ever, a device never ends.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fiftyone_ntt.errors import InputError, WrongTypeError

MOST_SIDE, MOST_PIXELS = 1 << 17, 1 << 28
"""Of an image. More than PIL decodes unasked; and a forged file of the index must not ask for any amount of memory."""
PART_SUFFIX = ".part"
"""Of files that are not whole yet; what a killed process left of them may be deleted."""
_ADVICE = {
    errno.ENOSPC: "the disk is full: make room, or choose a folder on another one",
    errno.EDQUOT: "your share of the disk is used up: make room, or choose a folder on another one",
    errno.EFBIG: "no file may be as large here: see `ulimit -f`, or choose a folder on another disk",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that can be written to",
    errno.ENAMETOOLONG: "choose a folder with a shorter path",
    errno.ENOTDIR: "a file lies where a folder should: choose another folder",
    errno.EEXIST: "a file lies where a folder should: choose another folder",
}


_NODES = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def read_file(path: str | Path, most: int) -> bytes:
    """The content of a file that may be a stranger's.

    Args:
        path: the file.
        most: bytes that it may have; checked before it is read.

    Raises:
        InputError: if it is no plain file, or a larger one; the message does not name it.
        OSError: if it cannot be read.
    """
    facts = Path(path).stat()
    if not stat.S_ISREG(facts.st_mode):
        raise InputError(_no_plain_file(facts.st_mode))
    if facts.st_size > most:
        raise InputError(f"expected a file of at most {most} bytes, got one of {facts.st_size}")
    # Those that the system makes up (/proc) have no size, and some have no end.
    return Path(path).read_bytes() if facts.st_size else b""


def plain_file(path: str | Path) -> Path:
    """The path of a file that is about to be opened, if reading it comes to an end.

    Raises:
        OSError: if there is no plain file, or nothing; a pipe would be waited for without end.
    """
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, _no_plain_file(mode), str(path))
    return Path(path)


def _no_plain_file(mode: int) -> str:
    return f"it is no plain file, but {next((name for test, name in _NODES if test(mode)), 'a device')}"


def expanded(path: str | Path) -> Path:
    """The path with ``~`` and ``~user`` spelt out.

    Args:
        path: as a person writes it.

    Raises:
        InputError: if there is no such user.
        WrongTypeError: if it is no path at all.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise WrongTypeError(f"expected a path, as a text or a Path, got {path!r}")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"expected a path, got {str(path)!r}: nobody here has that name; give the full path"
        ) from error


@contextmanager
def naming(path: str | Path, part: str | Path | None = None) -> Iterator[None]:
    """An OSError that comes out of this says which file it happened to: writing to an open file does not tell.

    Args:
        path: the file.
        part: another name that it has meanwhile, and that nobody knows.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename) == str(part):
            error.filename, error.filename2 = str(path), None
        raise


def write_file(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Writes a file, and the folders above it, so that others see all of it or none.

    It is made under another name, and gets its own once all of it is there, even if this process is killed or the power
    fails meanwhile.

    Args:
        path: where to.
        content: text is written as UTF-8.
        durable: wait until the disk has it; not needed for one of many files that are checked or renamed together.

    Raises:
        OSError: as the system does, with the name of the file; nothing is left behind then.
    """
    write_files({path: content}, durable=durable)


def write_files(contents: Mapping[Path, str | bytes], *, durable: bool = True) -> None:
    """``write_file`` for files that belong together: none gets its name before all of them are there.

    Raises:
        OSError: as the system does, with the name of the file; nothing is left behind then.
    """
    for attempts_left in (1, 0):
        parts = {path: path.with_name(f"{path.name}.{uuid.uuid4().hex}{PART_SUFFIX}") for path in contents}
        try:
            for path, part in parts.items():
                with naming(path, part):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _write(part, contents[path], durable)
            for path, part in parts.items():
                with naming(path, part):
                    part.replace(path)
            return
        except FileNotFoundError:  # deleted under our hands: the part, or the folder
            if not attempts_left:
                raise
        finally:
            for part in parts.values():
                with suppress(OSError):
                    part.unlink(missing_ok=True)


def check_sizes(contents: Mapping[Path, bytes], most: Sequence[int]) -> None:
    """Raises InputError where a file is about to be written that would be too large to be read again.

    Args:
        contents: the files.
        most: bytes that ``read_file`` will be told of each.
    """
    for (path, content), bound in zip(contents.items(), most, strict=True):
        if len(content) > bound:
            raise InputError(f"expected {path} of at most {bound} bytes, got {len(content)}; it could not be read")


def _write(part: Path, content: str | bytes, durable: bool) -> None:
    data = content.encode("utf-8") if isinstance(content, str) else content
    with part.open("xb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())  # or the name could reach the disk before the content
    size = part.stat().st_size
    if size != len(data):  # some file systems take what they have no room for without a word
        raise OSError(errno.ENOSPC, f"{size} of {len(data)} bytes were written")


def write_problem(error: OSError, path: str | Path | None = None) -> str:
    """What to tell a person: ``"cannot write FILE: No space left on device; the disk is full: make room, ..."``.

    Args:
        error: what came of writing.
        path: what to call the file; the one that the error names where ``None``.
    """
    named = path or error.filename
    reason = error.strerror or str(error) or type(error).__name__
    advice = _ADVICE.get(error.errno or 0, "see to that file and try again")
    return f"cannot write {named or 'a file'}: {reason}; {advice}"
