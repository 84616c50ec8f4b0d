"""Archives and servers."""

import os
import stat
import threading
from pathlib import Path
from unittest import mock

from miniatures import CARD_FIELDS
from misbehaving_server import Server, md5
from packed import BODY, FILES, tarred, zipped

from data.prepare import archives, datasets, download
from lib.data import cards

from .fault import Fault, nothing, put

SET = zipped(FILES)


def unpack(folder):
    archives.unpack(folder / "s.zip", folder / "out", "set")
    return "unpacked"


def link(info):
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


def encrypted(content):
    return content.replace(b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00").replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
    )


def tar_link(info):
    import tarfile

    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"


def tar_device(info):
    import tarfile

    info.type = tarfile.CHRTYPE


def other_byte(content):
    """A zip in which one byte of its first file is another."""
    at = content.index(b"set/a/1.png") + len(b"set/a/1.png")
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


NOTHING = "Nothing was unpacked"
ARCHIVES = [
    ("empty", b"", ["s.zip is damaged, or no zip or tar archive"]),
    ("words", b"hello", ["s.zip is damaged, or no zip"]),
    ("a page", b"<!DOCTYPE html>", ["s.zip is damaged, or no zip"]),
    ("a RAR", b"Rar!\x1a\x07\0" + BODY[:999], ["s.zip is damaged, or no zip"]),
    ("a 7z", b"7z\xbc\xaf\x27\x1c" + BODY[:999], ["s.zip is damaged, or no zip"]),
    ("cut", SET[: len(SET) // 2], ["s.zip is damaged"]),
    ("a tar that was cut", tarred(FILES)[:1500], ["s.zip is damaged"]),
    ("a gzip that was cut", tarred(FILES, "w:gz")[:-30], ["s.zip is damaged"]),
    ("an xz that was cut", tarred(FILES, "w:xz")[:-30], ["s.zip is damaged"]),
    ("a sum that is wrong", other_byte(SET), ["s.zip is damaged"]),
    ("nothing in it", zipped({}), ["s.zip does not contain 'set'. At its top: nothing"]),
    (
        "something else in it",
        zipped({"other/a": b"x"}),
        ["does not contain 'set'. At its top: other"],
    ),
    ("a path above", zipped({"../set/a": b"x"}), ["'../set/a' would land outside", NOTHING]),
    ("a path from the root", tarred({"/set/a": b"x"}), ["'/set/a' is no relative path", NOTHING]),
    ("a path of Windows", zipped({"C:\\set\\a": b"x"}), ["is no relative path", NOTHING]),
    ("backslashes", zipped({"set\\a": b"x"}), ["is no relative path with forward slashes"]),
    ("a link", zipped({"set/a": b"/etc/passwd"}, link), ["'set/a' is a link or a device", NOTHING]),
    ("a tar's link", tarred({"set/a": b""}, change=tar_link), ["'set/a' is a link or a device"]),
    ("a device", tarred({"set/a": b""}, change=tar_device), ["'set/a' is a link or a device"]),
    ("a password", encrypted(SET), ["is encrypted", NOTHING]),
    ("a file twice", zipped({"set/a": b"x", "set/A": b"y"}), ["is there twice", NOTHING]),
    ("a file in a file", zipped({"set/a": b"x", "set/a/b": b"y"}), ["lies in a file", NOTHING]),
    ("a bomb", zipped({"set/a": b"\0" * 2**26}), ["unpacks to more than", NOTHING]),
    ("a tar's bomb", tarred({"set/a": b"\0" * 2**26}, "w:gz"), ["unpacks to more than"]),
    ("a long name", zipped({"set/" + "x" * 1200: b""}), ["has a name that is too long", NOTHING]),
    ("a deep one", zipped({"set/" + "d/" * 40 + "a": b""}), ["has a name that is too long"]),
]


def served(change=lambda server: None, known=None, name="s.zip", **files):
    """`download` of a file from a server that misbehaves."""

    def fetch(folder):
        server = Server()
        server.files = {name: SET, **files}
        change(server)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            with mock.patch.object(download, "PAUSE", 0.0):
                download.download(server.url("s.zip"), folder / "got" / "s.zip", known)
            return "downloaded"
        finally:
            server.shutdown()
            server.server_close()

    return fetch


def answers(*status):
    return lambda server: server.status.extend(status)


def breaks(*after):
    return lambda server: server.breaks.extend(after)


PART = ["got/s.zip.part", "got/s.zip.part.json"]
SERVERS = [
    ("404", served(answers(404)), ["/s.zip answers 404"], []),
    ("403", served(answers(403)), ["/s.zip answers 403"], []),
    ("401", served(answers(401)), ["/s.zip answers 401"], []),
    (
        "503 all the time",
        served(answers(*[503] * 9)),
        ["could not be downloaded in 5 tries", "503"],
        [],
    ),
    (
        "429 all the time",
        served(answers(*[429] * 9)),
        ["could not be downloaded in 5 tries", "429"],
        [],
    ),
    ("another file", served(known="md5:" + "0" * 32), ["gave another file: its md5 is"], []),
    (
        "a page in its place",
        served(known=md5(SET), **{"s.zip": b"<html>"}),
        ["gave another file"],
        [],
    ),
    (
        "breaks off all the time",
        served(breaks(*[10] * 9)),
        ["could not be downloaded in 5 tries", "the next call goes on from there"],
        PART,
    ),
]
ADDRESSES = [
    ("no server", "http://127.0.0.1:9/s.zip", ["127.0.0.1:9/s.zip could not be downloaded"]),
    ("no name", "http://no-such-host.invalid/s.zip", ["no-such-host.invalid/s.zip could not be"]),
    ("a file's address", "file:///etc/passwd", ["file:///etc/passwd cannot be downloaded"]),
    ("no address", "s.zip", ["s.zip cannot be downloaded"]),
]
TAKEN = [
    ("503 once", served(answers(503)), ["downloaded"]),
    ("breaks off once", served(breaks(100), md5(SET)), ["downloaded"]),
    (
        "goes on without ranges",
        served(lambda s: (breaks(100)(s), setattr(s, "ranges", False)), md5(SET)),
        ["downloaded"],
    ),
]


def card(**changes):
    return cards.checked(cards.Card, CARD_FIELDS | changes, "toy.yaml", name="toy")


def fetch(archive):
    return lambda _: str(datasets.fetch(card(archives=[archive])))


RAW = "results/data/raw/"
BY_HAND = [
    (
        "nothing",
        nothing,
        fetch({"contains": "set"}),
        ["'set' of dataset 'toy' is not here", "by hand"],
    ),
    (
        "another archive",
        put({RAW + "toy/s.zip": zipped({"x/a": b""})}),
        fetch({"contains": "set"}),
        ["s.zip is not it", "does not contain 'set'"],
    ),
    (
        "an archive of another hash",
        put({RAW + "toy/s.zip": SET}),
        fetch({"contains": "set", "hash": "md5:" + "0" * 32}),
        ["s.zip is not it: its md5 is"],
    ),
    (
        "not made here",
        put({RAW + "toy/mine.txt": "mine"}),
        lambda _: str(
            datasets.made(Path(os.environ["OUTPUT_ROOT"], "data/raw/toy"), {"size": 1}, print)
        ),
        ["was not made by this card, and is left alone"],
    ),
]


def no_room(folder):
    """A disk with as little room as is kept free."""
    few = mock.Mock(free=archives.RESERVE)
    with mock.patch.object(archives.shutil, "disk_usage", lambda _: few):
        unpack(folder)


AREA = "archives and hubs"
FAULTS = [Fault(AREA, f"an archive: {n}", put({"s.zip": c}), unpack, s) for n, c, s in ARCHIVES]
FAULTS += [
    Fault(AREA, f"a server: {n}", nothing, d, s, leaves=["got", *leaves])
    for n, d, s, leaves in SERVERS
]
FAULTS += [
    Fault(AREA, f"an address: {n}", nothing, lambda f, url=url: no_pause(url, f), s, leaves=["got"])
    for n, url, s in ADDRESSES
]
FAULTS += [Fault(AREA, f"a server: {n}", nothing, d, s, False, ["got/s.zip"]) for n, d, s in TAKEN]
FAULTS += [
    Fault(AREA, f"by hand: {n}", given, d, s, leaves=["results/data/raw"])
    for n, given, d, s in BY_HAND
]
FAULTS += [
    Fault(AREA, "an archive: no room", put({"s.zip": SET}), no_room, ["unpacking", "GB free"])
]


def no_pause(url, folder):
    with mock.patch.object(download, "PAUSE", 0.0):
        download.download(url, folder / "got" / "s.zip")
