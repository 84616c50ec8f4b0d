"""Archives in bytes, of every kind that is unpacked."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

SIZE = 400_000
BODY = hashlib.shake_256(b"tiles").digest(SIZE)  # cannot be compressed
FILES = {"set/a/1.png": b"one", "set/a/2.png": b"two" * 50, "set/b/3.png": b""}
SECOND = {"more/x/4.png": b"four"}


def listed(folder: Path) -> list[str]:
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def zipped(files, change=lambda info: None) -> bytes:
    """A zip of names (or `ZipInfo`s) and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            archive.writestr(info, content)
    return buffer.getvalue()


def tarred(files, mode="w", change=lambda info: None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


MAKERS = {"zip": zipped, "tar": tarred} | {
    f"tar.{kind}": lambda files, kind=kind, **change: tarred(files, f"w:{kind}", **change)
    for kind in ("gz", "bz2", "xz")
}
