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

from tqdm import tqdm

from lib.artefacts import atomic

CHUNK = 2**20  # bytes
# Tiles are compressed already: archives of them unpack to 1 or 2 times their size, with masks to
# less than 10 times. A small archive of text may be above that.
LARGEST_RATIO, ALWAYS_ALLOWED = 20, 2**20
MOST_MEMBERS = 300_000  # three times those of NCT-CRC-HE-100K; each takes 2 KB of memory
LONGEST_NAME, DEEPEST = 1000, 32  # letters, and folders in folders
# Bytes of what stands before a member of a tar, and of the list of members of a zip.
LONGEST_HEADER, LONGEST_LIST = 2**16, 2**25
LONGEST_END = 2**20  # bytes of zeros after the last member of a tar; tar itself fills up 10 KiB
RESERVE = 2**29  # bytes of a disk that stay free
NOT_DATA = {"__MACOSX", ".DS_Store"}  # what a Mac adds at the top of an archive
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RecursionError,
    MemoryError,
    OverflowError,
)


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

    @property
    def lower(self) -> PurePosixPath:
        return PurePosixPath(self.name.casefold())


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
            for path, member in tqdm(wanted.items(), contains, unit="file"):
                _copy(archive, member, place / path)


def check_contains(archive: Path, contains: str) -> None:
    """Raise ValueError as `unpack` does, without unpacking."""
    with _opened(archive) as members:
        _wanted(archive, members, contains)


def is_archive(file: Path) -> bool:
    """Whether a file is a zip or tar archive, be it damaged."""
    try:
        with file.open("rb") as opened:
            return _as_tar(file, opened) is not None or zipfile.is_zipfile(opened)
    except (*DAMAGE, ValueError):
        return True


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[_Member]]:
    """Members of an archive; what shows that it is damaged becomes a ValueError naming it."""
    try:
        with archive.open("rb") as file:
            tar = _as_tar(archive, file)
            if tar is not None:
                yield _tar_members(tar)
            else:
                bounded: Any = _Bounded(file, archive, LONGEST_LIST, archive.stat().st_size)
                yield _zip_members(zipfile.ZipFile(bounded))
    except DAMAGE as error:
        raise ValueError(f"{archive} is damaged, or no zip or tar archive: {error!r}") from error
    except NotImplementedError as error:  # such as Deflate64, in large archives made on Windows
        raise RuntimeError(f"{archive} has to be unpacked by hand: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{archive} is damaged: {error}") from error  # as gzip and bz2 say it


class _Bounded:
    """A file that is read no further than `end`, and at most `most` bytes on from one place.

    tarfile and zipfile read as much at once as a header says, before anybody can look at it.
    """

    def __init__(self, file: Any, archive: Path | str, most: int, end: int) -> None:
        self.file, self.archive, self.most, self.end = file, archive, most, end
        self.left = most

    def read(self, n: int = -1) -> bytes:
        content = self.file.read(n if 0 <= n <= self.left else self.left + 1)
        self.left -= len(content)
        if self.left < 0:
            raise ValueError(f"{self.archive}: its list of contents is larger than any is")
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset < 0:
            raise zipfile.BadZipFile("its list of contents lies before its beginning")
        if whence == 0 and offset > self.end:  # in a compressed file all up to there is unpacked
            raise ValueError(f"{self.archive} unpacks to more than the bytes that are expected")
        self.left = self.most
        return self.file.seek(offset, whence)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class _Tar(tarfile.TarFile):
    @classmethod
    def taropen(cls, name: Any, mode: Any = "r", fileobj: Any = None, **more: Any) -> Any:
        end = _most_bytes(Path(name)) + MOST_MEMBERS * 4 * tarfile.BLOCKSIZE
        return super().taropen(name, mode, _Bounded(fileobj, name, LONGEST_HEADER, end), **more)


def _as_tar(archive: Path, file: IO[bytes]) -> tarfile.TarFile | None:
    try:
        return _Tar.open(archive, fileobj=file)
    except tarfile.TarError:
        return None


def _most_bytes(archive: Path) -> int:
    return max(ALWAYS_ALLOWED, LARGEST_RATIO * archive.stat().st_size)


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
        refused = "" if plain else "is a link or a device"
        refused = "is encrypted" if info.flag_bits & 1 else refused
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # zipfile would unpack a megabyte of bzip2 or LZMA at once, to any size
            raise NotImplementedError(f"{info.filename!r} has an unusual compression")
        get = partial(archive.open, info)
        is_folder = info.filename.endswith("/")  # is_dir() takes no empty name
        yield _Member(info.filename, info.file_size, is_folder, refused, get)


def _tar_members(archive: Any) -> Iterator[_Member]:
    file = archive.fileobj
    for info in archive:
        file.seek(file.tell())  # so that the next header has a bound of its own
        archive.members, archive.pax_headers, info.pax_headers = [], {}, {}  # would add up
        refused = "" if info.isreg() or info.isdir() else "is a link or a device"
        get: Any = partial(archive.extractfile, info)
        yield _Member(info.name, info.size, info.isdir(), refused, get)
    # tarfile takes a header that it cannot read, and a missing one, for the end. The sum of a gzip
    # file is compared only when all of it is read.
    file.most = 2 * CHUNK
    file.seek(archive.offset)
    end = file.read(LONGEST_END + 1)
    if not tarfile.BLOCKSIZE <= len(end) <= LONGEST_END or end.strip(b"\0"):
        raise tarfile.ReadError("it breaks off, or goes on after its end")


def _checked(archive: Path, members: Iterable[_Member]) -> list[_Member]:
    """The members, none of which may be dangerous; reading ends at the first that is."""
    bound = _most_bytes(archive)
    seen: dict[PurePosixPath, _Member] = {}  # in small letters: some systems tell no difference
    total = 0
    for member in members:
        refused = member.refused or outside(member.name)
        twin = seen.setdefault(member.lower, member) if not refused else member
        total += member.n_bytes
        if twin is not member and not (twin.is_folder and member.is_folder):
            refused = refused or "is there twice"
        if member.n_bytes < 0 or total > bound:
            refused = refused or f"unpacks to more than the {bound:,} bytes that are expected"
        if len(seen) > MOST_MEMBERS:
            refused = refused or f"is one more than the {MOST_MEMBERS:,} files that are read"
        if refused:
            shown = member.name[:LONGEST_NAME]
            raise ValueError(f"{archive}: {shown!r} {refused}. Nothing was unpacked")
    for path, member in seen.items():
        if any(p in seen and not seen[p].is_folder for p in path.parents):
            raise ValueError(f"{archive}: {member.name!r} lies in a file. Nothing was unpacked")
    return list(seen.values())


def outside(name: str) -> str:
    """Why a relative path could leave its folder, on any system; empty if it cannot."""
    if len(name) > LONGEST_NAME or name.count("/") > DEEPEST:
        return "has a name that is too long"
    if name.startswith("/") or re.match("[A-Za-z]:", name) or "\\" in name or "\0" in name:
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
    """Raise OSError saying what needs how much if a folder's disk would have no reserve left."""
    free = shutil.disk_usage(folder).free
    if n_bytes > free - RESERVE:
        raise OSError(
            errno.ENOSPC,
            f"{what} needs {n_bytes / 1e9:.3g} GB, but {folder} has {free / 1e9:.3g} GB free, "
            f"of which {RESERVE / 1e9:.2g} GB are kept",
        )
