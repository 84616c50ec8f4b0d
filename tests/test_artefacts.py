"""Artefacts appear whole or not at all, whoever else writes, and whenever the process is killed."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lib import artefacts, paths
from lib.artefacts import atomic, digest_of, locked, new_array, remove_leftovers, scratch_folder

DEAD = f".part-{artefacts.HOST}-999999999-0123abcd"  # no process has this number


def listed(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))


def write_folder(path, text, n=5):
    with atomic(path) as temporary:
        temporary.mkdir()
        for k in range(n):
            (temporary / f"{k}.txt").write_text(text)


def start(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=paths.ROOT, stdout=subprocess.PIPE, text=True)


def test_an_artefact_appears_when_it_is_complete(tmp_path):
    file = tmp_path / "new" / "file.txt"
    with atomic(file) as temporary:
        temporary.write_text("whole")
        assert temporary.suffix == ".txt" and not file.exists()
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


@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "renamed"])
def test_a_folder_is_replaced_as_a_whole(tmp_path, exchange, monkeypatch):
    if not exchange:
        monkeypatch.setattr(artefacts, "_exchange", lambda *_: False)
    place = tmp_path / "place"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "old.txt").write_text("old")
    with atomic(place) as temporary:
        temporary.mkdir()
        (temporary / "new.txt").write_text("new")
        assert (place / "deep" / "old.txt").exists()
    assert listed(tmp_path) == ["place", "place/new.txt"]


def test_a_link_to_a_folder_is_replaced_and_what_it_points_to_is_not_touched(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "thesis.txt").write_text("mine")
    (tmp_path / "place").symlink_to(tmp_path / "real")
    write_folder(tmp_path / "place", "new", n=1)
    assert listed(tmp_path) == ["place", "place/0.txt", "real", "real/thesis.txt"]


def test_a_folder_within_one_that_is_being_written_has_no_temporary_of_its_own(tmp_path):
    with atomic(tmp_path / "page") as page:
        with atomic(page / "tiles") as tiles:
            assert tiles == page / "tiles"
            tiles.mkdir()
            (tiles / "0.jpeg").write_text("a")
        with pytest.raises(ValueError), atomic(page / "half"):
            (page / "half").write_text("half")
            raise ValueError
    assert listed(tmp_path / "page") == ["tiles", "tiles/0.jpeg"]


def test_names_of_the_greatest_length_can_be_written(tmp_path):
    write_folder(tmp_path / ("x" * 255), "whole", n=1)
    assert listed(tmp_path) == ["x" * 255, "x" * 255 + "/0.txt"]


KILLED_BETWEEN_RENAMES = """
import os, signal, sys
from pathlib import Path
from lib import artefacts
artefacts._exchange = lambda *_: False
rename = Path.rename
def killed(self, target):
    rename(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
Path.rename = killed
with artefacts.atomic(Path(sys.argv[1])) as temporary:
    temporary.mkdir()
    (temporary / "new.txt").write_text("new")
"""


def test_killed_between_two_renames_the_complete_new_folder_is_taken(tmp_path):
    write_folder(tmp_path / "place", "old")
    assert start(KILLED_BETWEEN_RENAMES, tmp_path / "place").wait() == -signal.SIGKILL
    assert not (tmp_path / "place").exists()
    remove_leftovers(tmp_path)
    assert listed(tmp_path) == ["place", "place/new.txt"]


REPLACE_FOR_EVER = """
import sys
from pathlib import Path
from lib.artefacts import atomic
k = 0
while True:
    k += 1
    with atomic(Path(sys.argv[1])) as temporary:
        temporary.mkdir()
        for n in range(5):
            (temporary / f"{n}.txt").write_text(f"{sys.argv[2]} {k}")
    print(k, flush=True)
"""


def whole(folder):
    texts = {file.read_text() for file in folder.iterdir()}
    return len(listed(folder)) == 5 and len(texts) == 1


@pytest.mark.slow
def test_two_writers_that_are_killed_leave_one_whole_folder(tmp_path):
    place = tmp_path / "place"
    for n_lines in range(1, 9):
        writers = [start(REPLACE_FOR_EVER, place, name) for name in "ab"]
        for writer in writers:
            for _ in range(n_lines):
                assert writer.stdout.readline()
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.stdout.close()
        assert whole(place)
        remove_leftovers(tmp_path)
        assert [name for name in os.listdir(tmp_path)] == ["place"]


def test_writers_side_by_side_do_not_fail(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: write_folder(tmp_path / "place", str(k)), range(40)))
    assert whole(tmp_path / "place") and os.listdir(tmp_path) == ["place"]


def test_leftovers_go_and_what_is_not_ours_or_not_dead_stays(tmp_path):
    alive = DEAD.replace("999999999", str(os.getpid()))
    for name in (DEAD, f"deep/{DEAD}", alive, ".part-host-backup-x", ".part-h-1-2", "x"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(
        [".part-h-1-2", ".part-host-backup-x", alive, "deep", "x"]
    )
    assert listed(tmp_path / "deep") == []


def test_what_a_process_left_goes_though_nobody_has_waited_for_its_end(tmp_path):
    ended = start("")
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    (tmp_path / DEAD.replace("999999999", str(ended.pid))).mkdir()
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []
    ended.communicate()


def test_cleaning_at_once_does_not_fail(tmp_path):
    for n in range(30):
        for k in range(20):
            (tmp_path / DEAD.replace("abcd", f"{n:04x}") / str(k)).mkdir(parents=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: remove_leftovers(tmp_path), range(8)))
    assert os.listdir(tmp_path) == []
    remove_leftovers(tmp_path / "none")


def test_writing_removes_the_leftovers_beside_it(tmp_path):
    (tmp_path / DEAD / "half").mkdir(parents=True)
    write_folder(tmp_path / "place", "new", n=1)
    assert os.listdir(tmp_path) == ["place"]


def test_scratch_of_a_killed_process_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / DEAD / "kernel").mkdir(parents=True)
    with scratch_folder() as folder:
        (folder / "x").write_text("x")
        assert os.listdir(tmp_path) == [folder.name]
    assert os.listdir(tmp_path) == []


def test_a_lock_lets_one_in_at_a_time_and_leaves_no_file(tmp_path):
    inside = []

    def enter(k):
        with locked(tmp_path / "a.lock"):
            inside.append(k)
            assert len(inside) == 1
            time.sleep(0.002)
            inside.remove(k)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(40)))
    assert os.listdir(tmp_path) == []


def test_a_lock_says_who_has_it_and_goes_with_a_killed_process(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom lib.artefacts import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(60)"
    )
    other = start(code, tmp_path / "a.lock")
    assert other.stdout.readline() == "in\n"
    with (
        pytest.raises(BlockingIOError, match=f"process {other.pid} on "),
        locked(tmp_path / "a.lock", wait=False),
    ):
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    with locked(tmp_path / "a.lock", wait=False):
        pass
    assert os.listdir(tmp_path) == []


def test_room_for_an_array_is_taken_before_it_is_filled(tmp_path):
    array = new_array(tmp_path / "a.npy", (1000, 100), np.float32)
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 400_000
    array[:] = 1
    array.flush()
    assert np.load(tmp_path / "a.npy").sum() == 100_000


def test_an_array_without_room_is_a_full_disk(tmp_path):
    free = os.statvfs(tmp_path)
    too_many = free.f_blocks * free.f_frsize
    with (
        pytest.raises(OSError, match=r"is full.*votes\.npy") as error,
        atomic(tmp_path / "votes.npy") as temporary,
    ):
        new_array(temporary, (too_many,), np.uint8)
    assert error.value.errno == errno.ENOSPC and not listed(tmp_path)


def test_a_full_disk_names_the_artefact_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(OSError, match=r"is full.*votes\.npy") as error,
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
    digest = digest_of(settings, one)
    assert digest == digest_of({"n_views": 4, "hue": 0.1}, same) and len(digest) == 12
    digests = {digest, digest_of(settings, other), digest_of(settings | {"hue": 0.2}, one)}
    assert len(digests | {digest_of(settings)}) == 4
