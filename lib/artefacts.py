"""Files and folders that appear when they are complete, and never half."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOST = re.sub(r"\W", "_", socket.gethostname())


def digest_of(file: Path, settings: Mapping[str, Any]) -> str:
    """Twelve hex digits of a file's bytes and of settings: names what was computed from both.

    So that a result is found again for the same ones, and for no others.
    """
    content = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    content.update(file.read_bytes())
    return content.hexdigest()[:12]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary neighbour of `path` to write a file or a folder to; renamed when complete.

    After an error or an interruption the temporary is removed and `path` is as it was.
    Raises OSError naming `path` when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{HOST}-{os.getpid()}-{path.name}")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC, f"the disk is full, nothing was written to {path}"
            ) from error
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporaries of `atomic` below a folder whose process, on this host, is gone."""
    for leftover in list(folder.rglob(f".part-{HOST}-*")):
        if not _alive(int(leftover.name.split("-")[2])):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
