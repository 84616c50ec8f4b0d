"""Files and folders that appear when they are complete, and never half."""

import ctypes
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HOST = hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()
# A folder with what is being written, of a process of this host.
TEMPORARY = re.compile(rf"\.part-{HOST}-(\d{{1,9}})-[0-9a-f]{{8}}")
ASIDE = ".aside"  # in it: what is being replaced, where two folders cannot be exchanged at once
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LONGEST_FOR_SOCKETS = 50  # bytes of TMPDIR, of the 107 of a socket's name on Linux
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)


def digest_of(settings: Mapping[str, Any], *files: Path) -> str:
    """Twelve hex digits of settings and of the bytes of files: names what was computed from them.

    So that a result is found again for the same ones, and for no others.
    """
    content = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for file in files:
        with file.open("rb") as opened:
            content.update(hashlib.file_digest(opened, "sha256").digest())
    return content.hexdigest()[:12]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path to write a file or a folder to; it becomes `path` when complete.

    What stood there is exchanged in one step and then removed: whenever the process is killed,
    `path` is the old one or the new one. After an error it is as it was, and leftovers of killed
    processes beside it are removed. Inside of a folder that is itself being written this is `path`.
    Raises OSError naming `path` when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    nested = any(TEMPORARY.fullmatch(part) for part in path.parent.parts)
    scratch = path if nested else _new_temporary(path.parent)
    temporary = path if nested else scratch / path.name
    try:
        yield temporary
        if not nested:
            _flush(temporary)
            with _alone(path.parent):
                _swap(temporary, path)
    except BaseException as error:
        _remove(scratch)
        short = "requested and" in str(error)  # what NumPy says, without a number
        if isinstance(error, OSError) and (error.errno in NO_ROOM or short):
            full = f"the disk or a quota is full, nothing was written to {path}"
            raise OSError(error.errno or errno.ENOSPC, full) from error
        raise
    if not nested:
        _remove(scratch)


@contextmanager
def naming(file: Path) -> Iterator[Path]:
    """Raise ValueError naming a file where what is inside cannot read it as it was written here."""
    try:
        yield file
    except (ValueError, TypeError, LookupError, AttributeError, EOFError, RecursionError) as error:
        decoding = isinstance(error, UnicodeDecodeError)
        why = "no text in UTF-8" if decoding else " ".join(str(error).split())[:200]
        raise ValueError(
            f"{file} is damaged, or not written here: restore it, or remove it and run again what "
            f"writes it ({why})"
        ) from error


@contextmanager
def scratch_folder(*, sockets: bool = False) -> Iterator[Path]:
    """A folder for temporary files; if this process is killed, the next call removes it.

    sockets: lie in it, whose names are bounded: a TMPDIR that is too long for them is not used.
    """
    place = tempfile.gettempdir()
    long = sockets and len(os.fsencode(place)) > LONGEST_FOR_SOCKETS
    folder = _new_temporary(Path("/tmp" if long else place))  # nosec B108
    try:
        yield folder
    finally:
        _remove(folder)


@contextmanager
def locked(file: Path, *, wait: bool = True) -> Iterator[None]:
    """Only one process at a time is inside, by a lock on `file`, which is there as long as it is.

    wait: for the other one; else BlockingIOError says which process it is.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        opened = file.open("a+")
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if file.exists() and os.path.samestat(os.fstat(opened.fileno()), file.stat()):
                break
        except BlockingIOError:
            opened.seek(0)
            with opened:
                raise BlockingIOError(opened.read() or "another process") from None
        except FileNotFoundError:
            pass
        opened.close()  # of one who has finished, and removed it
    with opened:
        opened.truncate(0)
        opened.write(f"process {os.getpid()} on {socket.gethostname()}")
        opened.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def new_array(file: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array mapped to a new .npy file, to be filled.

    Its room on the disk is taken first: written to a map, a full disk would end the process.
    """
    if math.prod(shape) * np.dtype(dtype).itemsize > shutil.disk_usage(file.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    with file.open("r+b") as opened:
        os.posix_fallocate(opened.fileno(), 0, os.fstat(opened.fileno()).st_size)
    return array


def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this host that are gone were writing below a folder."""
    for parent, folders, _ in os.walk(folder):
        for name in [name for name in folders if TEMPORARY.fullmatch(name)]:
            folders.remove(name)
            _remove_dead(Path(parent, name))


def _new_temporary(folder: Path) -> Path:
    with os.scandir(folder) as entries:
        leftovers = [Path(entry.path) for entry in entries if TEMPORARY.fullmatch(entry.name)]
    for leftover in leftovers:
        _remove_dead(leftover)
    temporary = folder / f".part-{HOST}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir()
    return temporary


def _remove_dead(temporary: Path) -> None:
    process = TEMPORARY.fullmatch(temporary.name)
    if process is None or _alive(int(process[1])):
        return
    if (temporary / ASIDE).exists():  # killed between two renames: the new one is complete
        with _alone(temporary.parent):
            for new in temporary.iterdir():
                if new.name != ASIDE and not (temporary.parent / new.name).exists():
                    new.rename(temporary.parent / new.name)
    _remove(temporary)


def _remove(path: Path) -> None:
    """Remove a file or folder that somebody else may be removing as well."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:  # in many containers nobody waits for orphans: what has ended keeps its number
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def _flush(path: Path) -> None:
    """Bring a file, or all files of a folder, to the disk."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time changes the names in a folder."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
        except OSError:  # some network disks do not lock folders
            pass
        yield
        os.fsync(opened)
    finally:
        os.close(opened)


def _swap(new: Path, path: Path) -> None:
    """Give `new` the name `path`; what has it takes the name of `new`."""
    if (new.is_file() and not path.is_dir()) or not os.path.lexists(path):
        os.replace(new, path)
    elif not _exchange(new, path):
        path.rename(new.with_name(ASIDE))
        new.rename(path)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names at once, where the system and its disk can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other)
    return rename is not None and rename(*names, RENAME_EXCHANGE) == 0
