"""Datasets are fetched, made once and replaced only where they were made here; the command line."""

import bz2
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import yaml
from cases import case
from miniatures import CARD_FIELDS
from misbehaving_server import md5
from packed import BODY, FILES, MAKERS, SECOND, SIZE, listed, tarred, zipped

from data.prepare import __main__ as command
from data.prepare import datasets
from data.prepare.__main__ import main
from data.prepare.datasets import made, missing_tiles, prepare
from lib import artefacts, paths
from lib.data import cards, tiles

# --- datasets ------------------------------------------------------------------------------------


def card(*archives, **fields):
    values = {
        "name": "toy",
        "title": "Toy",
        "folder": "toy",
        "tiles": "*.png",
        "classes": (),
        "licence": "CC BY 4.0",
        "citation": "Doe 2020.",
        "source": "https://example.org/toy",
        "archives": archives,
    }
    return cards.Card(**(values | fields))


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "second"))
    return tmp_path / "data" / "raw"


TABLE = b"path,slide\na,1\n"


def test_a_dataset_is_downloaded_unpacked_and_left_alone_afterwards(server, raw):
    server.files = {"set.zip": zipped(FILES), "more.tar.gz": MAKERS["tar.gz"](SECOND)}
    server.files["groups.csv"] = TABLE
    toy = card(
        {"contains": "set", "url": server.url("set.zip?download=1"), "hash": md5(zipped(FILES))},
        {"contains": "more", "url": server.url("more.tar.gz")},
        {"contains": "groups.csv", "url": server.url("groups.csv"), "hash": md5(TABLE)},
    )
    for _ in range(2):
        assert datasets.fetch(toy) == raw / "toy"
        assert listed(raw) == sorted(f"toy/{name}" for name in [*FILES, *SECOND, "groups.csv"])
        assert len(server.asked) == 3
    assert (raw / "toy" / "groups.csv").read_bytes() == TABLE
    assert (raw / "toy" / "set/a/2.png").read_bytes() == b"two" * 50
    assert [f.name for f in raw.iterdir()] == ["toy"]


def test_only_what_is_missing_is_downloaded(server, raw):
    server.files["set.zip"] = zipped(FILES)
    (raw / "toy" / "more").mkdir(parents=True)
    datasets.fetch(
        card({"contains": "more", "url": "no"}, {"contains": "set", "url": server.url("set.zip")})
    )
    assert listed(raw / "toy") == sorted(FILES) and len(server.asked) == 1


def test_a_dataset_in_the_second_place_is_found(raw, tmp_path):
    (tmp_path / "second" / "toy" / "set").mkdir(parents=True)
    assert datasets.fetch(card({"contains": "set", "url": "no"})) == tmp_path / "second" / "toy"
    assert datasets.fetch(card()) == tmp_path / "second" / "toy"
    assert not raw.exists()


def test_half_a_dataset_in_the_second_place_is_not_enough(server, raw, tmp_path):
    server.files["both.zip"] = zipped(FILES | SECOND)
    (tmp_path / "second" / "toy" / "set").mkdir(parents=True)
    both = [{"contains": contains, "url": server.url("both.zip")} for contains in ("set", "more")]
    assert datasets.fetch(card(*both)) == raw / "toy"
    assert listed(raw) == sorted(f"toy/{name}" for name in FILES | SECOND)
    assert len(server.asked) == 1  # one archive for both


def test_a_dataset_without_archives_says_where_to_get_it(raw):
    with pytest.raises(FileNotFoundError, match=r"Get it from https://example.org/toy and put it"):
        datasets.fetch(card())


@pytest.mark.parametrize("checked", [True, False], ids=["with hash", "without hash"])
def test_a_hostile_archive_leaves_no_dataset(server, raw, checked):
    content = zipped(FILES | {"../../evil": b"evil"})
    server.files["set.zip"] = content
    known = {"hash": md5(content)} if checked else {}
    with pytest.raises(ValueError, match=r"'../../evil' would land outside"):
        datasets.fetch(card({"contains": "set", "url": server.url("set.zip")} | known))
    assert not (raw / "toy").exists() and not list(raw.parent.rglob("evil"))
    if not checked:  # the server may give a better one the next time
        server.files["set.zip"] = zipped(FILES)
        datasets.fetch(card({"contains": "set", "url": server.url("set.zip")}))
        assert listed(raw) == sorted(f"toy/{name}" for name in FILES)


def test_a_web_page_is_not_taken_for_the_data(server, raw):
    page = b"\n<!DOCTYPE html><html>Please log in</html>"
    for contains, content in (("groups.csv", page), ("set", b"Please log in")):
        server.files["data"] = content
        message = r"/data gives no archive; perhaps it asks for a login"
        with case(contains), pytest.raises(ValueError, match=message):
            datasets.fetch(card({"contains": contains, "url": server.url("data")}))
        assert listed(raw) == [], contains


def test_an_address_that_is_gone_names_the_page_of_the_dataset(server, raw):
    with pytest.raises(ConnectionError, match=r"answers 404.*https://example.org/toy"):
        datasets.fetch(card({"contains": "set", "url": server.url("set.zip")}))
    assert not (raw / "toy").exists() and not list(raw.iterdir())


def test_the_next_call_takes_a_broken_dataset_up_again(server, one_try, raw):
    content = zipped({"set/tiles": BODY})
    server.files["set.zip"], server.breaks = content, [SIZE // 2]
    toy = card({"contains": "set", "url": server.url("set.zip"), "hash": md5(content)})
    with pytest.raises(ConnectionError):
        datasets.fetch(toy)
    assert not (raw / "toy").exists()
    datasets.fetch(toy)
    assert (raw / "toy" / "set" / "tiles").read_bytes() == BODY
    assert server.asked_ranges[1].startswith("bytes=") and [f.name for f in raw.iterdir()] == [
        "toy"
    ]


KILLED = """
import os, shutil, signal, sys
from data.prepare import archives, datasets
from lib.data.cards import Card

copy, n = shutil.copyfileobj, 0
def copy_two(*arguments):
    global n
    n += 1
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    copy(*arguments)

archives.shutil.copyfileobj = copy_two
wanted = {"contains": "set", "url": sys.argv[1]}
datasets.fetch(Card("toy", "Toy", "toy", "*.png", (), "", "", "", archives=[wanted]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("part_is_here", [False, True], ids=["new folder", "folder with more"])
def test_a_process_killed_while_unpacking_leaves_no_half_dataset(server, raw, part_is_here):
    server.files["set.zip"] = zipped(FILES)
    if part_is_here:
        (raw / "toy" / "more").mkdir(parents=True)
    url = server.url("set.zip")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, url], cwd=paths.ROOT, capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (raw / "toy" / "set").exists() and (raw / "toy").exists() == part_is_here
    assert [f.name for f in raw.rglob("2.png")] == ["2.png"]  # it had begun
    datasets.fetch(card({"contains": "set", "url": url}))
    assert listed(raw) == sorted(f"toy/{name}" for name in FILES)
    assert len(server.asked) == 1 and [f.name for f in raw.iterdir()] == ["toy"]


def test_what_a_process_left_that_was_killed_after_its_work_goes_with_the_next_call(server, raw):
    server.files["set.zip"] = zipped(FILES)
    toy = card({"contains": "set", "url": server.url("set.zip")})
    downloads = raw / ".downloads" / "toy"
    for bring in (
        partial(datasets.fetch, toy),
        partial(made, raw / "toy", {"n": 1}, lambda folder, n: folder.mkdir()),
    ):
        bring()
        (raw / ".toy.lock").touch()
        (raw / f".part-{artefacts.HOST}-999999999-0123abcd").mkdir()
        if bring.func == datasets.fetch:
            downloads.mkdir(parents=True)
            (downloads / "set.zip").touch()
        bring()
        assert [f.name for f in raw.iterdir()] == ["toy"]
        shutil.rmtree(raw / "toy")


def test_of_two_that_fetch_at_once_one_downloads_and_the_other_waits(server, raw):
    server.files["set.zip"] = zipped(FILES)
    toy = card({"contains": "set", "url": server.url("set.zip")})
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(datasets.fetch, [toy, toy])) == [raw / "toy"] * 2
    assert len(server.asked) == 1 and [f.name for f in raw.iterdir()] == ["toy"]


# --- archives that a user brings -----------------------------------------------------------------


@pytest.fixture
def bring(raw):
    def put(name, content):
        (raw / "toy").mkdir(parents=True, exist_ok=True)
        (raw / "toy" / name).write_bytes(content)

    return put


def test_a_brought_archive_is_found_by_its_hash(bring, raw):
    bring("a.zip", zipped({"set/wrong": b"wrong"}))
    bring("my download.bin", zipped(FILES))
    datasets.fetch(card({"contains": "set", "hash": md5(zipped(FILES))}, access="a form"))
    assert listed(raw / "toy") == sorted(["a.zip", "my download.bin", *FILES])


def test_a_brought_archive_without_hash_is_found_by_what_it_contains(bring, raw):
    bring("a.zip", zipped({"other/x": b"x"}))
    bring("b.tar.xz", MAKERS["tar.xz"](FILES | SECOND))
    bring("notes.txt", b"set")
    datasets.fetch(card({"contains": "set"}, {"contains": "more"}))
    assert listed(raw / "toy") == sorted(["a.zip", "b.tar.xz", "notes.txt", *FILES, *SECOND])


def test_a_missing_archive_says_where_to_get_it_and_where_to_put_it(raw):
    with pytest.raises(FileNotFoundError) as error:
        datasets.fetch(card({"contains": "set", "hash": "md5:123"}, access="after signing a form"))
    assert str(error.value) == (
        "'set' of dataset 'toy' is not here and has to be fetched by hand. Get it from "
        "https://example.org/toy (after signing a form), put the archive with md5:123 into "
        f"{raw / 'toy'} and give the same command again, or put 'set' itself there."
    )
    assert not (raw / "toy").exists()


def test_a_brought_archive_that_is_not_it_is_named_with_the_reason(bring, raw):
    bring("a.zip", zipped({"other/x": b"x"}))
    bring("b.tar", tarred({"set/../../evil": b"x"}))
    bring("c.tar.bz2", bz2.compress(tarred(FILES) * 20)[:-20])
    with pytest.raises(FileNotFoundError) as error:
        datasets.fetch(card({"contains": "set"}))
    for named in (r"a.zip is not it: .*does not contain 'set'", r"b.tar is not it: .*evil' would"):
        assert re.search(named, str(error.value))
    with pytest.raises(FileNotFoundError, match=r"a.zip is not it: its md5 is .*should be 123"):
        datasets.fetch(card({"contains": "set", "hash": "md5:123"}))
    assert listed(raw / "toy") == ["a.zip", "b.tar", "c.tar.bz2"]


# --- the command line ----------------------------------------------------------------------------

KINDS = [{"name": "fat", "folder": "adipose"}, {"name": "muscle", "folder": "smooth_muscle"}]


@pytest.fixture
def write_archives(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "card_file", lambda dataset: tmp_path / f"{dataset}.yaml")

    def write(*archives, **fields):
        shown = card(**fields)
        names = ("title", "folder", "tiles", "licence", "citation", "source")
        values = {name: getattr(shown, name) for name in names} | {"classes": KINDS} | fields
        values["archives"] = list(archives)
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump(values))

    return write


def test_the_command_shows_licence_and_citation_and_where_the_dataset_lies(
    server, raw, write_archives, capsys
):
    server.files["set.zip"] = zipped(FILES)
    write_archives({"contains": "set", "url": server.url("set.zip")})
    assert main(["toy"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Toy" and "CC BY 4.0" in shown[1] and "Doe 2020." in shown[2]
    assert "https://example.org/toy" in shown[2] and shown[3] == f"toy is at {raw / 'toy'}"
    assert (raw / "toy" / "set/a/1.png").read_bytes() == b"one"


def test_the_command_fails_in_one_line(server, raw, write_archives, capsys):
    write_archives({"contains": "set", "url": server.url("set.zip")})
    assert main(["toy"]) == 1
    waiting, shown = capsys.readouterr().err.splitlines()
    assert waiting.startswith("waiting for ") and shown.startswith("error: ") and "404" in shown
    assert main(["nothing"]) == 1
    assert "error: there is no dataset" in capsys.readouterr().err


def test_an_interrupted_command_says_so(raw, write_archives, capsys, monkeypatch):
    def interrupted(card):
        raise KeyboardInterrupt

    write_archives()
    monkeypatch.setattr(datasets, "fetch", interrupted)
    assert main(["toy"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_the_command_draws_the_tiles_of_a_synthetic_dataset(raw, write_archives):
    write_archives(synthetic={"slides": 2, "tiles": 4, "size": 32, "shift": 0.0, "seed": 0})
    assert main(["toy"]) == 0
    assert len(list((raw / "toy").rglob("*.png"))) == 4


def test_the_command_cuts_the_tiles_of_a_dataset_with_masks(server, raw, capsys, monkeypatch):
    server.files["set.zip"] = zipped(FILES)
    toy = card({"contains": "set", "url": server.url("set.zip")}, patching={"size": 32})

    def prepare(card):
        assert card is toy and (raw / "toy" / "set").is_dir()
        return raw / "toy-tiles"

    monkeypatch.setattr(command, "read_card", lambda _: toy)
    monkeypatch.setattr(datasets, "prepare", prepare)
    assert main(["toy"]) == 0
    assert capsys.readouterr().out.endswith(f"toy is at {raw / 'toy-tiles'}\n")


# --- making --------------------------------------------------------------------------------------

RECIPE = {"slides": 2, "tiles": 8, "size": 32, "shift": 0.0, "seed": 0}
SYNTHETIC = CARD_FIELDS | {
    "classes": [{"name": "fat", "folder": "adipose"}, {"name": "muscle", "folder": "smooth_muscle"}]
}


def test_a_synthetic_dataset_is_made_once_and_again_for_another_recipe(write_card, raw):
    card = write_card(SYNTHETIC | {"synthetic": RECIPE})
    folder = prepare(card)
    assert folder == raw / "toy"
    table = tiles.read_tile_table(card, folder)
    assert np.bincount(table.label).tolist() == [4, 4]
    written = {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}
    assert prepare(card) == folder
    assert written == {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}
    prepare(write_card(SYNTHETIC | {"synthetic": RECIPE | {"tiles": 6}}))
    assert len(list(folder.rglob("*.png"))) == 6
    assert not list(folder.parent.glob(".part-*"))


def test_of_two_that_ask_at_once_one_writes_and_the_other_waits(tmp_path):
    calls, asked = [], threading.Barrier(2)

    def write(folder, *, parts):
        calls.append(folder)
        folder.mkdir()
        for part in range(parts):
            (folder / f"{part}.txt").write_text("whole")
            time.sleep(0.02)

    def ask(_):
        asked.wait()
        folder = made(tmp_path / "toy", {"parts": 10}, write)
        return sorted(file.name for file in folder.glob("*.txt"))

    with ThreadPoolExecutor(2) as pool:
        seen = list(pool.map(ask, range(2)))
    assert seen == [[f"{part}.txt" for part in range(10)]] * 2
    assert len(calls) == 1


def test_a_recipe_that_cannot_be_followed_leaves_nothing(write_card, raw):
    card = write_card(SYNTHETIC | {"synthetic": RECIPE | {"tiles": 1}})
    with pytest.raises(ValueError, match="tiles"):
        prepare(card)
    assert not list(raw.iterdir())


NOT_OURS = {
    "no recipe": None,
    "an empty one": "{}",
    "another program's": '{"flour": 500}',
    "of another kind": '{"images": [], "kinds": [], "size": 8}',
    "a list": "[1]",
    "half a recipe": '{"slides": 2',
    "no text": "\udcff",
    "one that is too deep": "[" * 10**5,
}


def test_what_was_not_made_here_is_never_replaced(write_card, raw, capsys):
    folder, written = raw / "toy", {**SYNTHETIC, "synthetic": RECIPE}
    for what, recipe in NOT_OURS.items():
        (folder / "adipose").mkdir(parents=True)
        (folder / "adipose" / "real.png").write_bytes(b"of a year's work")
        if recipe is not None:
            (folder / "recipe.json").write_text(recipe, errors="surrogateescape")
        with case(what):
            with pytest.raises(FileExistsError, match=r"raw/toy was not made by this card"):
                prepare(write_card(written))
            assert main(["toy"]) == 1
            assert "error: " in capsys.readouterr().err
            assert (folder / "adipose" / "real.png").read_bytes() == b"of a year's work"
        shutil.rmtree(folder)
    folder.write_text("a file")
    with pytest.raises(FileExistsError, match=r"raw/toy was not made by this card"):
        prepare(write_card(written))
    assert folder.read_text() == "a file" and list(folder.parent.iterdir()) == [folder]


def test_nothing_is_drawn_through_a_link_to_what_was_not_made_here(write_card, raw):
    thesis = raw.parent.parent / "thesis"
    thesis.mkdir()
    (thesis / "thesis.tex").write_text("all of it")
    raw.mkdir(parents=True)
    (raw / "toy").symlink_to(thesis)
    with pytest.raises(FileExistsError):
        prepare(write_card(SYNTHETIC | {"synthetic": RECIPE}))
    assert (thesis / "thesis.tex").read_text() == "all of it"


def test_the_folder_for_cut_tiles_is_left_alone_where_it_holds_others(write_card, raw):
    rule = {"size": 8, "overlap": 0, "tissue": 0, "above": 0, "share": 0}
    card = write_card(CARD_FIELDS | {"patching": rule | {"images": [{"images": "*.png"}]}})
    (raw.parents[1] / "second" / "toy").mkdir(parents=True)
    (raw / "toy-tiles").mkdir(parents=True)
    (raw / "toy-tiles" / "mine.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"toy-tiles was not made by this card"):
        prepare(card)
    assert (raw / "toy-tiles" / "mine.png").read_bytes() == b"mine"


# --- published numbers ---------------------------------------------------------------------------

LABELS = pd.DataFrame({"label": [0, 0, 0, 1, 1], "part": ""})


def test_missing_tiles_are_said_by_class_and_so_are_surplus_ones(write_card):
    for counts, lines in (
        ({"a": 3, "b": 2}, []),
        ({"all": 5}, []),
        (None, []),
        ({"all": 1000}, ["toy: 5 of 1,000 tiles"]),
        ({"a": 3, "b": 20}, ["toy: 5 of 23 tiles; b 2 of 20"]),
        ({"a": 2, "b": 3}, ["toy: 5 of 5 tiles; a 3 of 2, b 2 of 3"]),
        ({"a": 1, "b": 1}, ["toy: 5 of 2 tiles; a 3 of 1, b 2 of 1"]),
    ):
        card = write_card(CARD_FIELDS | {"counts": counts})
        assert missing_tiles(card, LABELS) == lines, counts


def test_missing_tiles_are_said_by_split(write_card):
    table = LABELS.assign(part=["train"] * 3 + ["test"] * 2)
    counts = {"train": 4, "test": {"a": 0, "b": 2}}
    splits = {"train": "there", "test": "here"}
    card = write_card(CARD_FIELDS | {"splits": splits, "counts": counts})
    assert missing_tiles(card, table) == ["toy, train: 3 of 4 tiles"]
