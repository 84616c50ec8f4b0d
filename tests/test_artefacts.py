"""Artefacts appear whole or not at all."""

import errno

import pytest

from lib.artefacts import atomic, digest_of


def listed(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))


def test_an_artefact_appears_when_it_is_complete(tmp_path):
    file = tmp_path / "new" / "file.txt"
    with atomic(file) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == file.parent and not file.exists()
    assert file.read_text() == "whole" and listed(file.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("folder", [False, True])
def test_after_an_error_the_artefact_is_as_it_was(tmp_path, error, folder):
    place = tmp_path / "place"
    if folder:
        place.mkdir()
    file = place / "old.txt" if folder else place
    file.write_text("old")
    before = listed(tmp_path)
    with pytest.raises(error), atomic(place) as temporary:
        if folder:
            temporary.mkdir()
        (temporary / "new.txt" if folder else temporary).write_text("half")
        raise error
    assert file.read_text() == "old" and listed(tmp_path) == before


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    place = tmp_path / "place"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "old.txt").write_text("old")
    with atomic(place) as temporary:
        temporary.mkdir()
        (temporary / "new.txt").write_text("new")
        assert (place / "deep" / "old.txt").exists()
    assert listed(tmp_path) == ["place", "place/new.txt"]


def test_a_full_disk_names_the_artefact_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(OSError, match=r"disk is full.*votes\.npy") as error,
        atomic(tmp_path / "votes.npy") as temporary,
    ):
        temporary.write_bytes(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.errno == errno.ENOSPC and not listed(tmp_path)


def test_another_system_error_is_left_as_it_is(tmp_path):
    with pytest.raises(PermissionError), atomic(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "no")


def test_an_artefact_that_was_never_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "old"


def test_a_digest_is_that_of_the_bytes_and_the_settings_in_whatever_order(tmp_path):
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for file, text in ((one, "a"), (same, "a"), (other, "b")):
        file.write_text(text)
    settings = {"hue": 0.1, "n_views": 4}
    digest = digest_of(one, settings)
    assert digest == digest_of(same, {"n_views": 4, "hue": 0.1}) and len(digest) == 12
    assert len({digest, digest_of(other, settings), digest_of(one, settings | {"hue": 0.2})}) == 3
