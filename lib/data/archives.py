"""Unpack zip and tar archives that nobody vouches for."""

import errno
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from lib.artefacts import atomic
from lib.progress import progress

CHUNK = 2**20  # bytes
# Tiles are compressed already: archives of them unpack to 1 or 2 times their size, with masks to
# less than 10 times. A small archive of text may be above that.
LARGEST_RATIO, ALWAYS_ALLOWED = 20, 2**20
LONGEST_END = 2**20  # bytes of zeros after the last member of a tar; tar itself fills up 10 KiB
NOT_DATA = {"__MACOSX", ".DS_Store"}  # what a Mac adds at the top of an archive
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)


@dataclass(frozen=True)
class _Member:
    """A file or folder in an archive; `refused` says why it is neither, if so."""

    name: str
    n_bytes: int
    is_folder: bool
    refused: str
    open: Callable[[], IO[bytes]]

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.name)


def unpack(archive: Path, folder: Path, contains: str) -> None:
    """Unpack the file or folder `contains` of a zip or tar archive to `folder/contains`.

    It is taken from the top of the archive or from the one folder there, and appears only when
    complete. Raises ValueError naming the archive, and its member, if one would land elsewhere, is
    a link, a device, encrypted, twice there or too large, or if `contains` is not there; nothing is
    written then. Raises OSError saying how much is needed when the disk has too little room.
    """
    with _opened(archive) as members:
        wanted = _wanted(archive, members, contains)
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_room(folder.parent, sum(m.n_bytes for m in wanted.values()), f"unpacking {archive}")
        with arriving(folder, contains) as place:
            for path, member in progress(wanted.items(), contains, "file", total=len(wanted)):
                _copy(archive, member, place / path)


def check_contains(archive: Path, contains: str) -> None:
    """Raise ValueError as `unpack` does, without unpacking."""
    with _opened(archive) as members:
        _wanted(archive, members, contains)


def is_archive(file: Path) -> bool:
    """Whether a file is a zip or tar archive, be it damaged."""
    try:
        return tarfile.is_tarfile(file) or zipfile.is_zipfile(file)
    except DAMAGE:
        return True


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[_Member]]:
    """Members of an archive; what shows that it is damaged becomes a ValueError naming it."""
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                yield _tar_members(tar)
        else:
            with zipfile.ZipFile(archive) as packed:
                yield _zip_members(packed)
    except DAMAGE as error:
        raise ValueError(f"{archive} is damaged, or no zip or tar archive: {error}") from error
    except NotImplementedError as error:  # such as Deflate64, in large archives made on Windows
        raise RuntimeError(f"{archive} has to be unpacked by hand: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{archive} is damaged: {error}") from error  # as gzip and bz2 say it


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
        refused = "" if plain else "is a link or a device"
        refused = "is encrypted" if info.flag_bits & 1 else refused
        get = partial(archive.open, info)
        yield _Member(info.filename, info.file_size, info.is_dir(), refused, get)


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        refused = "" if info.isreg() or info.isdir() else "is a link or a device"
        get: Any = partial(archive.extractfile, info)
        yield _Member(info.name, info.size, info.isdir(), refused, get)
    # tarfile takes a header that it cannot read, and a missing one, for the end. The sum of a gzip
    # file is compared only when all of it is read.
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    end = archive.fileobj.read(LONGEST_END + 1)
    if not tarfile.BLOCKSIZE <= len(end) <= LONGEST_END or end.strip(b"\0"):
        raise tarfile.ReadError("it breaks off, or goes on after its end")


def _checked(archive: Path, members: Iterable[_Member]) -> list[_Member]:
    """The members, none of which may be dangerous; reading ends at the first that is."""
    bound = max(ALWAYS_ALLOWED, LARGEST_RATIO * archive.stat().st_size)
    seen: dict[PurePosixPath, _Member] = {}
    total = 0
    for member in members:
        twin = seen.setdefault(member.path, member)
        total += member.n_bytes
        refused = member.refused or outside(member.name)
        if twin is not member and not (twin.is_folder and member.is_folder):
            refused = refused or "is there twice"
        if member.n_bytes < 0 or total > bound:
            refused = refused or f"unpacks to more than the {bound:,} bytes that are expected"
        if refused:
            raise ValueError(f"{archive}: {member.name!r} {refused}. Nothing was unpacked")
    for member in seen.values():
        if any(p in seen and not seen[p].is_folder for p in member.path.parents):
            raise ValueError(f"{archive}: {member.name!r} lies in a file. Nothing was unpacked")
    return list(seen.values())


def outside(name: str) -> str:
    """Why a relative path could leave its folder, on any system; empty if it cannot."""
    if name.startswith("/") or re.match("[A-Za-z]:", name) or "\\" in name:
        return "is no relative path with forward slashes"
    return "would land outside its folder" if ".." in PurePosixPath(name).parts else ""


def _wanted(
    archive: Path, members: Iterable[_Member], contains: str
) -> dict[PurePosixPath, _Member]:
    """Files of an archive by their path below `contains`, at its top or in its only folder."""
    files = [m for m in _checked(archive, members) if not m.is_folder]
    tops = sorted({m.path.parts[0] for m in files if m.path.parts} - NOT_DATA)
    for place in (PurePosixPath(contains), PurePosixPath(*tops[:1], contains)):
        below = {m.path.relative_to(place): m for m in files if m.path.is_relative_to(place)}
        if below and (len(tops) == 1 or place == PurePosixPath(contains)):
            return below
    top_names = ", ".join(tops[:10]) + (", …" if len(tops) > 10 else "")
    raise ValueError(
        f"{archive} does not contain {contains!r}. At its top: {top_names or 'nothing'}"
    )


@contextmanager
def arriving(folder: Path, contains: str) -> Iterator[Path]:
    """Where to write `folder/contains` to, with no trace of a new folder before it is complete."""
    if folder.exists():
        with atomic(folder / contains) as place:
            yield place
    else:
        with atomic(folder) as new:
            (new / contains).parent.mkdir(parents=True, exist_ok=True)
            yield new / contains


def _copy(archive: Path, member: _Member, file: Path) -> None:
    # Bytes alone, in place of extract(): no links, owners or permissions, and the same on every
    # Python (the first releases of 3.11 know no extraction filter).
    file.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, file.open("xb") as target:
        shutil.copyfileobj(source, target, CHUNK)
        if target.tell() != member.n_bytes:
            raise ValueError(f"{archive} is damaged: {member.name!r} has not the size it says")


def check_room(folder: Path, n_bytes: int, what: str) -> None:
    """Raise OSError saying what needs how much if the disk of a folder has less than that free."""
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise OSError(
            errno.ENOSPC,
            f"{what} needs {n_bytes / 1e9:.3g} GB, but {folder} has {free / 1e9:.3g} GB free",
        )
