"""Archives of every kind are unpacked; those that lie, bomb or are broken are refused by name."""

import gzip
import io
import os
import re
import shutil
import stat
import tarfile
import tracemalloc
import zipfile
import zlib

import pytest
from cases import case
from packed import BODY, FILES, MAKERS, SECOND, SIZE, listed, tarred, zipped

from data.prepare import archives

ZIP_AND_TAR = {"zip": zipped, "tar": tarred}


@pytest.fixture
def unpack(tmp_path):
    """Unpack bytes and give the contents by path; nothing else may appear in the folder."""

    def unpacked(content, contains="set"):
        archive, folder = tmp_path / "archive", tmp_path / "raw" / "toy"
        shutil.rmtree(tmp_path / "raw", ignore_errors=True)
        archive.write_bytes(content)
        try:
            archives.unpack(archive, folder, contains)
        except (ValueError, OSError, RuntimeError):
            assert not folder.exists() and listed(tmp_path) == ["archive"]
            raise
        assert [f.name for f in folder.parent.iterdir()] == ["toy"]
        return {name: (folder / name).read_bytes() for name in listed(folder)}

    return unpacked


def test_an_archive_is_unpacked(unpack):
    for kind, make in MAKERS.items():
        assert unpack(make(FILES)) == FILES, kind


def test_one_folder_around_what_is_wanted_is_left_out(unpack):
    around = {f"download v2/{name}": content for name, content in FILES.items()}
    for kind, make in MAKERS.items():
        content = make(around | {"__MACOSX/._set": b"x", "download v2/read me": b"x"})
        assert unpack(content) == FILES, kind


def test_of_several_folders_only_the_wanted_one_is_taken(unpack):
    for kind, make in ZIP_AND_TAR.items():
        content = make({"other/set/x": b"x", "./set/y": b"y", "settled/z": b"z"})
        assert unpack(content) == {"set/y": b"y"}, kind


def test_a_single_file_or_a_folder_further_down_can_be_wanted(unpack):
    for kind, make in ZIP_AND_TAR.items():
        assert unpack(make(FILES), "set/a/1.png") == {"set/a/1.png": b"one"}, kind
        assert unpack(make(FILES), "set/b") == {"set/b/3.png": b""}, kind


def test_what_an_archive_contains_instead_is_said(unpack):
    for kind, make in ZIP_AND_TAR.items():
        many = make({f"folder{n:02}/x": b"x" for n in range(12)})
        message = r"archive does not contain 'set'.*folder00.*folder09, …"
        with case(kind), pytest.raises(ValueError, match=message):
            unpack(many)
        two = make({"a/set/x": b"x", "b/set/x": b"x"})
        message = r"does not contain 'set'\. At its top: a, b"
        with case(kind), pytest.raises(ValueError, match=message):
            unpack(two)
    with pytest.raises(ValueError, match="At its top: nothing"):
        unpack(zipped({}))


OUTSIDE = [
    "/evil",
    "../evil",
    "set/../../evil",
    "set/..",
    "C:/evil",
    "c:evil",
    "..\\evil",
    "set\\evil",
    "x" * 1001,
    "x/" * 33 + "x",
]


def test_a_member_that_would_land_outside_is_refused_by_name(unpack):
    for kind, make in MAKERS.items():
        for name in OUTSIDE:
            with case(kind, name):
                with pytest.raises(ValueError, match=re.escape(f"{name[:1000]!r}")) as error:
                    unpack(make(FILES | {name: b"evil"}))
                assert "archive: " in str(error.value)
                assert "Nothing was unpacked" in str(error.value)


def test_links_and_devices_in_a_tar_are_refused(unpack):
    for kind in (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        b"Q",
    ):

        def change(info, kind=kind):
            if info.name == "set/evil":
                info.type, info.linkname, info.size = kind, "a/1.png", 0

        message = "'set/evil' is a link or a device"
        with case(kind), pytest.raises(ValueError, match=message):
            unpack(tarred(FILES | {"set/evil": b""}, change=change))


def test_links_and_devices_in_a_zip_are_refused(unpack):
    for kind in (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO):

        def change(info, kind=kind):
            if info.filename == "set/evil":
                info.external_attr = (kind | 0o777) << 16

        message = "'set/evil' is a link or a device"
        with case(kind), pytest.raises(ValueError, match=message):
            unpack(zipped(FILES | {"set/evil": b"/etc/passwd"}, change))


def test_an_encrypted_member_is_refused(unpack):
    content = zipped({"set/secret": b"x"})
    central = content.index(b"PK\1\2")
    content = content[: central + 8] + b"\1" + content[central + 9 :]
    with pytest.raises(ValueError, match="'set/secret' is encrypted"):
        unpack(content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(unpack):
    for twin in ("set/a/1.png", "set/./a//1.png", "./set/a/1.png", "SET/a/1.PNG"):
        buffer = io.BytesIO(zipped(FILES))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(twin, b"twin")
        end = 2 * tarfile.BLOCKSIZE
        both = tarred({"set/a/1.png": b"one"}).rstrip(b"\0")
        both += bytes(-len(both) % end) + tarred({twin: b"twin"})
        for kind, content in (("zip", buffer.getvalue()), ("tar", both)):
            message = f"{re.escape(repr(twin))} is there twice"
            with case(twin, kind), pytest.raises(ValueError, match=message):
                unpack(content)


def test_a_file_that_is_also_a_folder_is_refused(unpack):
    for kind, make in ZIP_AND_TAR.items():
        message = r"'set/a/1.png/x' lies in a file"
        with case(kind), pytest.raises(ValueError, match=message):
            unpack(make({"set/a/1.png/x": b""} | FILES))


def test_a_bomb_is_refused(unpack):
    for kind in ("zip", "tar.gz", "tar.xz"):
        make = MAKERS[kind]
        message = r"'set/bomb' unpacks to more than the 1,048,576 bytes"
        with case(kind), pytest.raises(ValueError, match=message):
            unpack(make(FILES | {"set/bomb": bytes(2**20)}))
        assert unpack(make({"set/large": bytes(2**20)})) == {"set/large": bytes(2**20)}, kind


def test_many_small_members_are_a_bomb_too_and_large_archives_may_hold_more(unpack):
    many = {f"set/{n}": bytes(2**16) for n in range(17)}
    with pytest.raises(ValueError, match="'set/16' unpacks to more"):
        unpack(zipped(many))
    assert len(unpack(zipped(many | {"set/tiles": BODY}))) == 18


def header(kind, size, name="x"):
    """One block of a tar, with any type and any size, also one that tarfile would not write."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


HUGE = 3 * 2**30
LARGE_HEADERS = {
    "a long name of 3 GB": header(tarfile.GNUTYPE_LONGNAME, HUGE) + bytes(2**21),
    "a long link of 3 GB": header(tarfile.GNUTYPE_LONGLINK, HUGE) + bytes(2**21),
    "pax fields of 3 GB": header(tarfile.XHDTYPE, HUGE) + bytes(2**21),
    "global pax fields of 3 GB": header(tarfile.XGLTYPE, HUGE) + bytes(2**21),
    "pax fields of less than nothing": header(tarfile.XHDTYPE, -1024) + bytes(2**21),
    "a map of holes without end": tarred(
        {"set/a": b"0\n" * 2**20},
        change=lambda info: info.pax_headers.update(
            {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        ),
    ).replace(b"0\n0\n", b"999999999\n", 1),
    "one header before another": header(tarfile.XHDTYPE, 0) * 500 + tarred(FILES),
}


@pytest.mark.slow
def test_what_a_header_asks_for_is_not_read(unpack):
    for what, content in LARGE_HEADERS.items():
        for pack in (bytes, gzip.compress):
            packed = pack(content)
            tracemalloc.start()
            with case(what, pack.__name__), pytest.raises(ValueError, match="archive"):
                unpack(packed)
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert most < 2**20, (what, pack.__name__)


def test_a_member_that_says_3_gb_is_refused_by_name(unpack):
    for pack in (bytes, gzip.compress):
        message = r"'set/a' unpacks to more than the 1,048,576 bytes"
        with case(pack.__name__), pytest.raises(ValueError, match=message):
            unpack(pack(header(tarfile.REGTYPE, HUGE, "set/a") + bytes(2**15)))
    with pytest.raises(ValueError, match=r"'set/a' unpacks to more than"):
        unpack(header(tarfile.REGTYPE, -512, "set/a") + bytes(2**15))


def test_pax_fields_for_all_members_do_not_add_up(unpack, tmp_path):
    fields = "".join(f"{len(f'   k{n}=v')} k{n}=v\n" for n in range(10, 99)).encode()
    each = header(tarfile.XGLTYPE, len(fields)) + fields + bytes(-len(fields) % 512)
    members = [each + tarred({f"set/{n}": b""})[:512] for n in range(20)]
    (tmp_path / "archive").write_bytes(b"".join(members) + bytes(2**10))
    with archives._opened(tmp_path / "archive") as listed_members:
        kept = [member.open.args[0] for member in listed_members]
    assert len(kept) == 20 and not any(info.pax_headers for info in kept)


def test_more_files_than_any_dataset_has_are_refused(unpack, monkeypatch):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    monkeypatch.setattr(archives, "LONGEST_LIST", 500)
    assert unpack(zipped(FILES)) == unpack(tarred(FILES)) == FILES
    for kind, make in ZIP_AND_TAR.items():
        with case(kind), pytest.raises(ValueError, match=r"'more/x/4.png' is one more than the 3"):
            unpack(make(FILES | SECOND))
    with pytest.raises(ValueError, match="its list of contents is larger"):
        unpack(zipped({f"set/{n}": b"" for n in range(100)}))


def test_a_compression_that_zipfile_cannot_stop_is_refused(unpack):
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        content = zipped(FILES, lambda info, method=method: setattr(info, "compress_type", method))
        message = "by hand: 'set/a/1.png' has an unusual compression"
        with case(method), pytest.raises(RuntimeError, match=message):
            unpack(content)


def test_a_zip_whose_members_share_their_bytes_is_refused(unpack):
    content = bytearray(zipped({f"set/{n}": bytes(2**19) for n in range(8)}))
    first, at = content.index(b"PK\1\2"), 0
    while (at := content.find(b"PK\1\2", max(at + 1, first))) > 0:
        content[at + 42 : at + 46] = bytes(4)  # all begin where the first does
    with pytest.raises(ValueError, match="unpacks to more"):
        unpack(bytes(content))


def test_a_zip_that_lies_about_a_size_is_refused(unpack):
    content = zipped({"set/a": bytes(1000)})
    size = content.index(b"PK\1\2") + 24
    for lie in (10, 5000):
        with case(lie), pytest.raises(ValueError, match="archive is damaged"):
            unpack(content[:size] + lie.to_bytes(4, "little") + content[size + 4 :])


DAMAGED = {
    "a zip with a wrong sum": zipped(FILES).replace(
        zlib.crc32(b"one").to_bytes(4, "little"), b"0123"
    ),
    "half a zip": zipped({"set/a": BODY})[: SIZE // 2],
    "half a tar": tarred({"set/a": BODY})[: SIZE // 2],
    "a tar that ends after its first member": tarred(FILES)[: 2 * tarfile.BLOCKSIZE],
    "half a tar.gz": MAKERS["tar.gz"]({"set/a": BODY})[: SIZE // 2],
    "half a tar.xz": MAKERS["tar.xz"]({"set/a": BODY})[: SIZE // 2],
    "half a tar.bz2": MAKERS["tar.bz2"]({"set/a": BODY})[: SIZE // 2],
    "a tar.gz with a wrong sum": gzip.compress(tarred(FILES))[:-8] + bytes(8),
    "a tar with something after its end": tarred(FILES) + tarred(SECOND),
    "a tar without end": tarred(FILES) + bytes(2**20),
    "no archive": b"hello",
    "nothing": b"",
}


def test_a_damaged_archive_is_refused_by_name(unpack):
    for damage, content in DAMAGED.items():
        with case(damage), pytest.raises(ValueError, match="archive is damaged"):
            unpack(content)


def test_a_damaged_header_is_not_taken_for_the_end(unpack):
    content = bytearray(tarred(FILES))
    content[2 * tarfile.BLOCKSIZE] ^= 1  # in the name of the second member
    with pytest.raises(ValueError, match=r"archive is damaged.*breaks off"):
        unpack(bytes(content))


def test_a_compression_that_is_not_known_is_said(unpack):
    content = zipped({"set/a": b"x" * 100})
    local, central = content.index(b"PK\3\4"), content.index(b"PK\1\2")
    changed = bytearray(content)
    changed[local + 8], changed[central + 10] = 9, 9  # Deflate64
    with pytest.raises(RuntimeError, match="archive has to be unpacked by hand"):
        unpack(bytes(changed))


def test_a_disk_without_room_is_seen_before_unpacking(unpack, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 152))
    for kind, make in ZIP_AND_TAR.items():
        message = r"unpacking .*archive needs 1.53e-07 GB.* 1.52e-07 GB free"
        with case(kind), pytest.raises(OSError, match=message):
            unpack(make(FILES))


def test_what_is_unpacked_is_plain_files_of_the_user(unpack, tmp_path):
    def change(info):
        info.mode, info.uid = 0o6777, 12345

    unpack(tarred(FILES, change=change))
    status = (tmp_path / "raw" / "toy" / "set/a/1.png").stat()
    assert not status.st_mode & 0o7111 and status.st_uid == os.getuid()
