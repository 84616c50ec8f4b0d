"""The page for a pathologist: what is chosen, what is counted, what a browser makes of it."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.report import gallery
from lib.report.gallery import MOST_GROUPS, ROWS, choose, overview, write_page

NASTY = """<b>&"'"""
NAMES = ["fat", NASTY, "Drüse 腺", "nobody"]


def case(seed, n=60):
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
    said = sorted((r for r in rows if r["class"] == name), key=lambda r: -r["confidence"])
    surest = said[: min(n, (len(said) + 1) // 2)]
    least = [r for r in reversed(said) if r not in surest][:n]
    dropped = [r for r in rows if r["prompt_class"] == name and not r["kept"]]
    dropped = sorted(dropped, key=lambda r: (-r["vote_entropy"], -r["view_entropy"]))[:n]
    parts = zip(ROWS, (surest, least, dropped), strict=True)
    return {row: [r["tile"] for r in part] for row, part in parts}


@pytest.mark.parametrize("n", [1, 4, 12, 100])
@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_that_of_sorted_lists(seed, n):
    tiles = case(seed)
    chosen = choose(tiles, NAMES, n)
    assert list(chosen) == NAMES
    for name, part in chosen.items():
        found = {row: part.tile[part.row == row].tolist() for row in ROWS}
        assert found == slow_choice(tiles, name, n)
        assert list(part.row.unique()) == [row for row in ROWS if found[row]]


@pytest.mark.parametrize("seed", range(5))
def test_no_tile_is_both_surest_and_least_sure(seed):
    for part in choose(case(seed, n=int(20 + 15 * seed)), NAMES).values():
        shown = part[part.row != "rejected"]
        assert shown.tile.is_unique
        least = shown.confidence[shown.row == "least sure"]
        assert (shown.confidence[shown.row == "surest"].min() > least).all()
        assert least.is_monotonic_increasing


def test_one_tile_of_a_class_is_its_surest():
    tiles = case(0)[:1].assign(**{"class": "fat", "prompt_class": "fat", "kept": True})
    assert choose(tiles, NAMES)["fat"].row.tolist() == ["surest"]


def test_rejected_are_those_of_the_prompts_that_were_not_kept():
    tiles = case(1)
    rejected = pd.concat(choose(tiles, NAMES, 1000).values()).query("row == 'rejected'")
    assert sorted(rejected.tile) == sorted(tiles.tile[~tiles.kept])
    assert (rejected["class"] != rejected.prompt_class).any()


def test_a_class_without_tiles_has_empty_rows():
    for tiles in (case(0), case(0)[:0]):
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


@pytest.mark.parametrize("seed", range(3))
def test_every_tile_is_counted_once(seed):
    tiles = case(seed)
    found = overview(tiles, {name: [name] for name in NAMES})
    assert found["labelled by prompts"].sum() == found.predicted.sum() == len(tiles)
    assert found.kept.sum() == tiles.kept.sum()


# --- the page ------------------------------------------------------------------------------------

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page as a browser reads it; fails where a tag is not closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.attributes = [], [], [], []
        self.by_tag = {}
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in VOID:
            self.open.append(tag)
            self.by_tag.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.by_tag[self.open[-1]][-1] += data

    def values(self, tag, attribute):
        return [v for t, a, v in self.attributes if (t, a) == (tag, attribute)]


def decoded(n=60, size=24):
    """Tiles of one colour each, no two alike after JPEG."""
    number = np.arange(n)
    colours = np.stack([number * 4, 255 - number * 4, 40 * (number % 6)], 1).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (n, size, size, 3)).copy()


def write(file, tiles=None, groups=None, title="my tiles", facts=("One.", "Two.")):
    tiles = case(0) if tiles is None else tiles
    write_page(
        file, title=title, facts=facts, groups=groups, chosen=choose(tiles, NAMES, 3),
        classes=overview(tiles, {name: [f"an image of {name}"] for name in NAMES}),
        decoded=decoded(),
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


def test_names_are_shown_as_they_are_and_never_become_tags(page, tmp_path):
    assert "b" not in page.tags
    assert NASTY in page.by_tag["p"]  # the fact
    assert NASTY in page.by_tag["td"] and f"an image of {NASTY}" in page.by_tag["td"]
    shown = pd.concat(choose(case(0), NAMES, 3).values())
    for attribute in ("alt", "title"):
        assert page.values("img", attribute) == shown.path.tolist()
    captions = page.by_tag["figcaption"]
    for caption, tile in zip(captions, shown.to_dict("records"), strict=True):
        said = f"{tile['class']}, " if tile["row"] == "rejected" else ""
        assert caption == f"{said}{tile['confidence']:.2f}{tile['path']}"
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<b>" not in text and "&amp;amp;" not in text


def test_the_pictures_are_those_of_the_tiles(page):
    sources, every = page.values("img", "src"), decoded()
    shown = pd.concat(choose(case(0), NAMES, 3).values())
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
    expected = overview(case(0), {name: [f"an image of {name}"] for name in NAMES})
    head, cells = rows_of(page, "Classes")
    assert head == list(expected) and cells == expected.astype(str).values.ravel().tolist()


def many_groups(n):
    groups = [f"{NASTY} {number}" for number in range(n)]
    return pd.DataFrame({"group": groups, "fat": np.linspace(0, 1, n).round(3), "tiles": 1})


@pytest.mark.parametrize("n", [1, MOST_GROUPS, MOST_GROUPS + 1, 3 * MOST_GROUPS])
def test_groups_are_cut_and_it_is_said_how_many_are_left_out(tmp_path, n):
    page = write(tmp_path / "index.html", groups=many_groups(n))
    _, cells = rows_of(page, "Groups")
    listed = [cell for cell in cells if cell.startswith(NASTY + " ")]
    assert listed == [f"{NASTY} {number}" for number in range(min(n, MOST_GROUPS))]
    said = [text for text in page.by_tag["p"] if "more groups" in text]
    assert said == ([f"and {n - MOST_GROUPS} more groups, see groups.csv"] * (n > MOST_GROUPS))


def test_without_groups_there_is_no_table_of_them(page):
    assert "Groups" not in page.by_tag["h2"]


def test_a_page_without_tiles_is_a_page(tmp_path):
    page = write(tmp_path / "index.html", tiles=case(0)[:0])
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
