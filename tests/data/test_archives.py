"""Archives of every kind are unpacked; those that lie, bomb or are broken are refused by name."""

import gzip
import io
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib

import pytest
from cases import case
from packed import BODY, FILES, MAKERS, SECOND, SIZE, listed, tarred, zipped

from lib.data import archives

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


OUTSIDE = ["/evil", "../evil", "set/../../evil", "set/..", "C:/evil", "c:evil", "..\\evil",
           "set\\evil"]  # fmt: skip


def test_a_member_that_would_land_outside_is_refused_by_name(unpack):
    for kind, make in MAKERS.items():
        for name in OUTSIDE:
            with case(kind, name):
                with pytest.raises(ValueError, match=re.escape(f"{name!r}")) as error:
                    unpack(make(FILES | {name: b"evil"}))
                assert "archive: " in str(error.value)
                assert "Nothing was unpacked" in str(error.value)


def test_links_and_devices_in_a_tar_are_refused(unpack):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
                 tarfile.FIFOTYPE, b"Q"):  # fmt: skip

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
    for twin in ("set/a/1.png", "set/./a//1.png", "./set/a/1.png"):
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
