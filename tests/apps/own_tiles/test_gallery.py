"""The page for a pathologist: what is chosen, what is counted, what a browser makes of it."""

import base64
import re
from io import BytesIO
from itertools import product

import numpy as np
import pandas as pd
import pytest
from html_page import Page
from PIL import Image

from apps.own_tiles import gallery
from apps.own_tiles.gallery import MOST_LINES, ROWS, choose, overview, write_page
from lib.alarm import Alarm

NASTY = """<b>&"'"""  # and below what would load or run something
SCRIPTS = ["<script>alert(1)</script>", '" onerror="alert(1)', "</title><img src=x>", "{{ 7*7 }}"]
NAMES = ["fat", NASTY, "Drüse 腺", "nobody"]


def random_tiles(seed, n=60):
    """Random tiles; no tile is of the class "nobody" by whoever."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "tile": rng.permutation(n),
            "path": [f"{NASTY}/{number}.png" for number in range(n)],
            "class": rng.choice(NAMES[:3], n),
            "confidence": rng.permutation(n) / n,
            "prompt_class": rng.choice(NAMES[:3], n),
            "kept": rng.random(n) < 0.3,
            "vote_entropy": rng.choice([0, 0.5, 0.69], n),
            "view_entropy": rng.permutation(n) / n,
        }
    )


# --- choice --------------------------------------------------------------------------------------


def slow_choice(tiles, name, n):
    """Tile numbers of each row, by sorting plain lists."""
    rows = tiles.to_dict("records")
    predicted = sorted((r for r in rows if r["class"] == name), key=lambda r: -r["confidence"])
    surest = predicted[: min(n, (len(predicted) + 1) // 2)]
    least = [r for r in reversed(predicted) if r not in surest][:n]
    dropped = [r for r in rows if r["prompt_class"] == name and not r["kept"]]
    dropped = sorted(dropped, key=lambda r: (-r["vote_entropy"], -r["view_entropy"]))[:n]
    parts = zip(ROWS, (surest, least, dropped), strict=True)
    return {row: [r["tile"] for r in part] for row, part in parts}


def test_the_choice_is_that_of_sorted_lists():
    for seed, n in product(range(5), (1, 4, 12, 100)):
        tiles = random_tiles(seed)
        chosen = choose(tiles, NAMES, n)
        assert list(chosen) == NAMES
        for name, subset in chosen.items():
            rows = {row: subset.tile[subset.row == row].tolist() for row in ROWS}
            assert rows == slow_choice(tiles, name, n), (seed, n, name)
            assert list(subset.row.unique()) == [row for row in ROWS if rows[row]], (seed, n, name)


def test_no_tile_is_both_surest_and_least_sure():
    for seed in range(5):
        for subset in choose(random_tiles(seed, n=20 + 15 * seed), NAMES).values():
            shown = subset[subset.row != "rejected"]
            assert shown.tile.is_unique, seed
            least = shown.confidence[shown.row == "least sure"]
            assert (shown.confidence[shown.row == "surest"].min() > least).all(), seed
            assert least.is_monotonic_increasing, seed


def test_one_tile_of_a_class_is_its_surest():
    tiles = random_tiles(0)[:1].assign(**{"class": "fat", "prompt_class": "fat", "kept": True})
    assert choose(tiles, NAMES)["fat"].row.tolist() == ["surest"]


def test_rejected_are_those_of_the_prompts_that_were_not_kept():
    tiles = random_tiles(1)
    rejected = pd.concat(choose(tiles, NAMES, 1000).values()).query("row == 'rejected'")
    assert sorted(rejected.tile) == sorted(tiles.tile[~tiles.kept])
    assert (rejected["class"] != rejected.prompt_class).any()


def test_a_class_without_tiles_has_empty_rows():
    for tiles in (random_tiles(0), random_tiles(0)[:0]):
        assert len(choose(tiles, NAMES)["nobody"]) == 0


# --- counts --------------------------------------------------------------------------------------


def test_the_overview_counts_as_by_hand():
    tiles = pd.DataFrame(
        {
            "class": ["fat", "fat", "gland", "fat", "gland"],
            "confidence": [0.9, 0.8, 0.7, 0.7, 0.6],
            "prompt_class": ["fat", "gland", "gland", "bone", "gland"],
            "kept": [True, False, True, False, True],
        }
    )
    found = overview(
        tiles, {"bone": ["bone"], "fat": ["fat", "lipid"], "gland": ["gland"], "vessel": ["v"]}
    )
    assert found.values.tolist() == [
        ["bone", 1, 0, 0, "", "bone"],
        ["fat", 1, 1, 3, 0.8, "fat · lipid"],
        ["gland", 3, 2, 2, 0.65, "gland"],
        ["vessel", 0, 0, 0, "", "v"],
    ]
    assert list(found) == [
        "class", "labelled by prompts", "kept", "predicted", "mean confidence", "prompts",
    ]  # fmt: skip


def test_every_tile_is_counted_once():
    for seed in range(3):
        tiles = random_tiles(seed)
        counts = overview(tiles, {name: [name] for name in NAMES})
        assert counts["labelled by prompts"].sum() == counts.predicted.sum() == len(tiles), seed
        assert counts.kept.sum() == tiles.kept.sum(), seed


# --- tables and sheets ---------------------------------------------------------------------------


def test_a_row_per_file_has_what_the_views_say_of_its_tile():
    table = pd.DataFrame(
        {"tile": [0, 1, 0], "path": ["a", "b", "copy"], "group": ["g", "g", "h"], "digest": "x"}
    )
    unique = table[:2]
    votes, view_probs = np.array([[1, 0], [1, 1]]), np.array([[0.2, 0.8], [0.5, 0.5]])
    labels, kept = np.array([1, 0]), np.array([True, False])
    shown = gallery.consensus_columns(unique, ["fat", "bone"], labels, kept, votes, view_probs)
    files = gallery.per_file(table, shown)
    assert files.path.tolist() == ["a", "b", "copy"] and files.group.tolist() == ["g", "g", "h"]
    assert files.prompt_class.tolist() == ["bone", "fat", "bone"]
    assert files.kept.tolist() == [True, False, True]
    assert files.vote_entropy.tolist() == pytest.approx([0, np.log(2), 0])
    assert files.view_entropy[1] == pytest.approx(np.log(2))
    assert list(files) == [
        "path", "group", "prompt_class", "kept", "vote_entropy", "view_entropy",
    ]  # fmt: skip


def test_the_facts_count_files_copies_and_kept_labels():
    table = pd.DataFrame({"tile": [0, 1, 0, 2]})
    unique, kept = table[[True, True, False, True]], np.array([True, False, False])
    first, second, _ = gallery.facts(table, unique, kept, "plip", 10, table[:0])
    assert first.startswith("4 image files, 1 of them") and "plip" in first
    assert second.startswith("Of its labels 1 (33%) were kept") and "10 views" in second


def test_there_is_a_sheet_for_every_class_and_none_of_an_earlier_run(tmp_path):
    tiles = random_tiles(0)
    gallery.write_sheets(tmp_path / "gallery", choose(tiles, [*NAMES, "old"], 3), decoded())
    sheets = gallery.write_sheets(tmp_path / "gallery", choose(tiles, NAMES, 3), decoded())
    assert list(sheets) == NAMES
    names = sorted(file.name for file in (tmp_path / "gallery").iterdir())
    assert len(names) == 4 and names[0] == "01-fat.png" and names[3] == "04-nobody.png"


def test_a_sheet_has_a_file_of_its_own_whatever_its_class_is_called(tmp_path):
    names = ["..", "a/b", "a-b", "", ".", "x" * 300, "x" * 299, "NUL", "a\nb", "$x$", "<script>"]
    tiles = random_tiles(0)
    gallery.write_sheets(tmp_path / "gallery", {name: tiles[:0].assign(row="") for name in names},
                         decoded())  # fmt: skip
    files = sorted(file.name for file in (tmp_path / "gallery").iterdir())
    assert [file[:3] for file in files] == [f"{n:02d}-" for n in range(1, len(names) + 1)]
    assert [file.name for file in tmp_path.iterdir()] == ["gallery"]


# --- the page ------------------------------------------------------------------------------------


def decoded(n=60, size=24):
    """Tiles of one colour each, no two alike after JPEG."""
    number = np.arange(n)
    colours = np.stack([number * 4, 255 - number * 4, 40 * (number % 6)], 1).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (n, size, size, 3)).copy()


def write(file, tiles=None, title="my tiles", facts=("One.", "Two."), alarms=(), **tables):
    tiles = random_tiles(0) if tiles is None else tiles
    classes = overview(tiles, {name: [f"an image of {name}"] for name in NAMES})
    write_page(
        file, title=title, facts=facts, alarms=alarms, tables={"Classes": classes} | tables,
        chosen=choose(tiles, NAMES, 3), decoded=decoded(),
    )  # fmt: skip
    return Page(file.read_text(encoding="utf-8"))


@pytest.fixture
def page(tmp_path):
    return write(tmp_path / "index.html", title=NASTY, facts=[NASTY, "Two."])


def test_every_class_has_a_heading_a_link_and_its_three_rows(page):
    assert page.by_tag["h2"] == ["Classes", *NAMES]
    assert page.by_tag["a"] == NAMES
    targets = [link.removeprefix("#") for link in page.values("a", "href")]
    assert targets == page.values("h2", "id") and len(set(targets)) == len(NAMES)
    assert [row.strip() for row in page.by_tag["h3"]] == list(ROWS) * len(NAMES)
    assert page.by_tag["title"] == page.by_tag["h1"] == [NASTY]


def test_rows_without_tiles_say_so(page):
    assert page.by_tag["p"].count("none") == 3  # of the class that nobody is


def test_what_is_suspicious_stands_on_the_page_and_nothing_stands_there_without_it(tmp_path):
    found = [Alarm("flat clusters", f"{NASTY}: a guess."), Alarm("class never predicted", "fat.")]
    page = write(tmp_path / "index.html", alarms=found)
    assert page.by_tag["strong"][1:] == ["flat clusters", "class never predicted"]
    assert page.by_tag["li"] == [f": {NASTY}: a guess.", ": fat."]
    assert "li" not in write(tmp_path / "index.html").tags


def test_names_are_shown_as_they_are_and_never_become_tags(page, tmp_path):
    assert "b" not in page.tags
    assert NASTY in page.by_tag["p"]  # the fact
    assert NASTY in page.by_tag["td"] and f"an image of {NASTY}" in page.by_tag["td"]
    shown = pd.concat(choose(random_tiles(0), NAMES, 3).values())
    for attribute in ("alt", "title"):
        assert page.values("img", attribute) == shown.path.tolist()
    captions = page.by_tag["figcaption"]
    for caption, tile in zip(captions, shown.to_dict("records"), strict=True):
        predicted = f"{tile['class']}, " if tile["row"] == "rejected" else ""
        assert caption == f"{predicted}{tile['confidence']:.2f}{tile['path']}"
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<b>" not in text and "&amp;amp;" not in text


def test_no_name_runs_anything(tmp_path):
    for name in (*SCRIPTS, "javascript:alert(1)", "data:text/html,<script>alert(1)</script>"):
        tiles = random_tiles(0).assign(**{"class": name, "prompt_class": name, "path": name})
        groups = pd.DataFrame({name: [name], "group": [name]})
        write_page(
            tmp_path / "i.html", title=name, facts=[name], alarms=[Alarm(name, name)],
            tables={name: groups}, chosen=choose(tiles, [name], 1), decoded=decoded(),
        )  # fmt: skip
        page = Page((tmp_path / "i.html").read_text(encoding="utf-8"))
        assert not {"script", "b"} & set(page.tags) and page.tags.count("img") == 3, name
        assert {attribute for _, attribute, _ in page.attributes} <= {
            "lang", "charset", "name", "content", "class", "href", "id", "src", "alt", "title"
        }, name  # fmt: skip
        assert page.by_tag["title"] == page.by_tag["h1"] == [name]
        assert page.by_tag["a"] == [name] and name in page.by_tag["td"]
        assert page.values("a", "href") == ["#class1"]


def test_the_pictures_are_those_of_the_tiles(page):
    sources, every = page.values("img", "src"), decoded()
    shown = pd.concat(choose(random_tiles(0), NAMES, 3).values())
    for source, number in zip(sources, shown.tile, strict=True):
        data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"), validate=True)
        picture = np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)
        assert picture.shape == every[number].shape
        distance = np.abs(picture.mean((0, 1)) - every[:, 0, 0].astype(int)).sum(1)
        assert distance.argmin() == number


def test_the_page_holds_all_that_it_shows(page, tmp_path):
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.values("img", "src"))
    assert not {"script", "link", "iframe"} & set(page.tags)
    for tag, attribute, value in page.attributes:
        assert attribute not in ("srcset", "data", "action", "style"), (tag, attribute, value)
        assert attribute != "href" or value.startswith("#")
    text = re.sub(r"base64,[^\"]*", "", (tmp_path / "index.html").read_text(encoding="utf-8"))
    assert not re.search(r"https?:|//|@import|url\(", text)


def test_the_page_says_its_encoding_and_its_language(page, tmp_path):
    assert page.values("meta", "charset") == ["utf-8"] and page.values("html", "lang") == ["en"]
    assert "Drüse 腺".encode() in (tmp_path / "index.html").read_bytes()


def rows_of(page, head):
    """Cells of the table below a heading."""
    assert head in page.by_tag["h2"]
    return page.by_tag["th"], page.by_tag["td"]


def test_the_table_of_classes_is_the_overview(page):
    expected = overview(random_tiles(0), {name: [f"an image of {name}"] for name in NAMES})
    head, cells = rows_of(page, "Classes")
    assert head == list(expected) and cells == expected.astype(str).values.ravel().tolist()


def many_groups(n):
    groups = [f"{NASTY} {number}" for number in range(n)]
    return pd.DataFrame({"group": groups, "fat": np.linspace(0, 1, n).round(3), "tiles": 1})


@pytest.mark.parametrize("n", [1, MOST_LINES, MOST_LINES + 1, 3 * MOST_LINES])
def test_groups_are_cut_and_it_is_said_how_many_are_left_out(tmp_path, n):
    page = write(tmp_path / "index.html", Groups=many_groups(n))
    _, cells = rows_of(page, "Groups")
    listed = [cell for cell in cells if cell.startswith(NASTY + " ")]
    assert listed == [f"{NASTY} {number}" for number in range(min(n, MOST_LINES))]
    notes = [text for text in page.by_tag["p"] if " more, " in text]
    assert notes == ([f"and {n - MOST_LINES} more, see groups.csv"] * (n > MOST_LINES))


def test_what_is_left_out_is_counted_and_listed_and_nothing_is_said_of_nothing(tmp_path):
    table, kept = pd.DataFrame({"tile": [0, 1]}), np.array([True, False])
    left = pd.DataFrame({"path": [f"{NASTY}.bmp"], "why": ["not .png"]})
    said = gallery.facts(table, table, kept, "plip", 10, left)
    assert said[1] == "1 of 3 files were left out: see below and left_out.csv."
    assert len(gallery.facts(table, table, kept, "plip", 10, left[:0])) == len(said) - 1
    page = write(tmp_path / "index.html", **{"Left out": left, "Groups": None})
    assert page.by_tag["h2"] == ["Classes", "Left out", *NAMES]
    assert page.by_tag["td"][-2:] == [f"{NASTY}.bmp", "not .png"]
    assert write(tmp_path / "index.html", **{"Left out": left[:0]}).by_tag["h2"][1] == NAMES[0]


def test_a_page_without_tiles_is_a_page(tmp_path):
    page = write(tmp_path / "index.html", tiles=random_tiles(0)[:0])
    assert page.by_tag["p"].count("none") == 3 * len(NAMES) and "img" not in page.tags


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_keeps_the_page_of_the_last_run(tmp_path, monkeypatch, error):
    write(tmp_path / "index.html")
    before = (tmp_path / "index.html").read_bytes()

    def interrupt(*_):
        raise error

    def half(file, text, **_):
        file.write_bytes(text.encode()[:500])
        raise error

    monkeypatch.setattr(gallery, "_picture", interrupt)
    with pytest.raises(error):
        write(tmp_path / "index.html", title="another")
    monkeypatch.undo()
    monkeypatch.setattr("pathlib.Path.write_text", half)
    with pytest.raises(error):
        write(tmp_path / "index.html", title="another")
    assert (tmp_path / "index.html").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]


def test_the_same_tiles_give_the_same_bytes(tmp_path):
    for name in ("one.html", "two.html"):
        write(tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
