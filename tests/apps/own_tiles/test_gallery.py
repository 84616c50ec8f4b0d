"""The page for a pathologist: what is chosen, what is counted, what a browser makes of it."""

import base64
import re
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from html_page import Page
from made_up_results import made, scored
from matplotlib.figure import Figure
from PIL import Image

from apps.own_tiles import gallery, quality
from apps.own_tiles.gallery import MAX_LINES, ROWS, choose, overview, write_page
from apps.own_tiles.tile_folder import TileFolder
from lib.alarm import Alarm
from lib.figures import step_plots

NASTY = """<b>&"'"""  # and below what would load or run something
SCRIPTS = ["<script>alert(1)</script>", '" onerror="alert(1)', "</title><img src=x>", "{{ 7*7 }}"]
SCRIPTS += ["javascript:alert(1)", "data:text/html,<script>alert(1)</script>"]
NAMES = ["fat", NASTY, "Drüse 腺", "nobody"]


def random_tiles(seed, n=60):
    """Random tiles, none of which is of the class "nobody"."""
    rng = np.random.default_rng(seed)
    columns = {
        "tile": rng.permutation(n),
        "path": [f"{NASTY}/{number}.png" for number in range(n)],
        "class": rng.choice(NAMES[:3], n),
        "confidence": rng.permutation(n) / n,
        "prompt_class": rng.choice(NAMES[:3], n),
        "kept": rng.random(n) < 0.3,
        "vote_entropy": rng.choice([0, 0.5, 0.69], n),
        "view_entropy": rng.permutation(n) / n,
    }
    return pd.DataFrame(columns)


def pixels(n=60, size=24):
    """Tiles of one colour each, no two alike after JPEG."""
    number = np.arange(n)
    colours = np.stack([number * 4, 255 - number * 4, 40 * (number % 6)], 1).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (n, size, size, 3)).copy()


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
    """No tile is both surest and least sure; a class without tiles has empty rows."""
    for seed, n, n_tiles in product(range(2), (1, 4, 100), (0, 1, 60)):
        tiles = random_tiles(seed)[:n_tiles]
        chosen = choose(tiles, NAMES, n)
        assert list(chosen) == NAMES
        for name, subset in chosen.items():
            rows = {row: subset.tile[subset.row == row].tolist() for row in ROWS}
            assert rows == slow_choice(tiles, name, n), (seed, n, name)
            assert list(subset.row.unique()) == [row for row in ROWS if rows[row]], (seed, n, name)


def test_the_overview_counts_as_by_hand():
    columns = {
        "class": ["fat", "fat", "gland", "fat", "gland"],
        "confidence": np.array([0.9, 0.8, 0.7, 0.7, 0.6], np.float32),
        "prompt_class": ["fat", "gland", "gland", "bone", "gland"],
        "kept": [True, False, True, False, True],
    }
    prompts = {"bone": ["bone"], "fat": ["fat", "lipid"], "gland": ["gland"], "vessel": ["v"]}
    table = overview(pd.DataFrame(columns), prompts)
    assert table.values.tolist() == [
        ["bone", 1, 0, 0, "", "bone"],
        ["fat", 1, 1, 3, 0.8, "fat · lipid"],
        ["gland", 3, 2, 2, 0.65, "gland"],
        ["vessel", 0, 0, 0, "", "v"],
    ]
    heads = ["class", "labelled by prompts", "kept", "predicted", "mean confidence", "prompts"]
    assert list(table) == heads


def test_the_facts_count_files_copies_kept_labels_and_what_is_left_out():
    table = pd.DataFrame({"tile": [0, 1, 0, 2], "path": list("abcd"), "group": list("abcd")})
    left = pd.DataFrame({"path": ["x.bmp"], "why": ["not .png"]})
    kept = np.array([True, False, False])
    facts = gallery.facts(TileFolder(Path("x"), table, left), kept, "plip", 10)
    assert facts[0].startswith("4 image files, 1 of them") and "plip" in facts[0]
    assert facts[1] == "1 of 5 files were left out: see below and left_out.csv."
    assert facts[2].startswith("Of its labels 1 (33%) were kept") and "10 views" in facts[2]
    folder = TileFolder(Path("x"), table, left[:0])
    assert len(gallery.facts(folder, kept, "plip", 10)) == 3
    (more,) = set(gallery.facts(folder, kept, "plip", 10, ~kept)) - set(facts)
    assert more.startswith("2 tiles (67%) were predicted as other tissue")


def test_other_tissue_comes_last_by_name_and_then_what_is_least_sure_of_it():
    for seed, n in product(range(2), (1, 4, 100)):
        tiles = random_tiles(seed)
        chosen = choose(tiles, NAMES[:1], n, others=NAMES[1:])
        assert list(chosen) == [NAMES[0], "other tissue"]
        assert chosen[NAMES[0]].equals(choose(tiles, NAMES[:1], n)[NAMES[0]])
        rows = chosen["other tissue"].groupby("row", observed=False).tile.apply(list).to_dict()
        rest = tiles[tiles["class"] != NAMES[0]].sort_values("confidence")
        expected = {o: rest[rest["class"] == o].tile[::-1][:n].tolist() for o in NAMES[1:]}
        shown = [tile for row in expected.values() for tile in row]
        expected["least sure"] = [tile for tile in rest.tile if tile not in shown][:n]
        assert rows == expected and list(rows) == list(expected)


def test_a_sheet_has_a_file_of_its_own_whatever_its_class_is_called(tmp_path, monkeypatch):
    """And none is left of an earlier run."""
    monkeypatch.setattr(step_plots, "tile_sheet", lambda rows, **_: Figure((0.2, 0.2)))
    names = ["..", "a/b", "a-b", "", ".", "x" * 300, "x" * 299, "NUL", "a\nb", "$x$", "<script>"]
    chosen = {name: random_tiles(0)[:0].assign(row=pd.Categorical([])) for name in names}
    gallery.write_sheets(tmp_path / "gallery", chosen | {"old": chosen[""]}, pixels())
    assert list(gallery.write_sheets(tmp_path / "gallery", chosen, pixels())) == names
    files = sorted(file.name for file in (tmp_path / "gallery").iterdir())
    assert [file[:3] for file in files] == [f"{n:02d}-" for n in range(1, len(names) + 1)]
    assert [file.name for file in tmp_path.iterdir()] == ["gallery"]


# --- the page ------------------------------------------------------------------------------------


def write(file, tiles=None, title="my tiles", alarms=(), names=NAMES, others=(), **tables):
    tiles = random_tiles(0) if tiles is None else tiles
    write_page(
        file,
        title=title,
        facts=[title, "Two."],
        alarms=alarms,
        tables={"Classes": overview(tiles, {n: [f"an image of {n}"] for n in names})} | tables,
        chosen=choose(tiles, names, 3, others),
        pixels=pixels(),
    )
    return Page(file.read_text(encoding="utf-8"))


@pytest.fixture
def page(tmp_path):
    return write(tmp_path / "index.html", title=NASTY)


def test_every_class_has_a_heading_a_link_and_its_three_rows(page):
    assert page.by_tag["h2"] == ["Classes", *NAMES]
    assert page.by_tag["a"] == NAMES
    targets = [link.removeprefix("#") for link in page.values("a", "href")]
    assert targets == page.values("h2", "id") and len(set(targets)) == len(NAMES)
    assert [row.strip() for row in page.by_tag["h3"]] == list(ROWS) * len(NAMES)
    assert page.by_tag["title"] == page.by_tag["h1"] == [NASTY]
    assert page.by_tag["p"].count("none") == 3  # of the class that nobody is
    expected = overview(random_tiles(0), {name: [f"an image of {name}"] for name in NAMES})
    assert page.by_tag["th"] == list(expected)
    assert page.by_tag["td"] == expected.astype(str).values.ravel().tolist()
    assert page.values("meta", "charset") == ["utf-8"] and page.values("html", "lang") == ["en"]


def test_alarms_and_what_is_left_out_stand_on_the_page_where_there_are_any(tmp_path):
    alarms = [Alarm("flat clusters", f"{NASTY}: a guess."), Alarm("class never predicted", "fat.")]
    left = pd.DataFrame({"path": [f"{NASTY}.bmp"], "why": ["not .png"]})
    page = write(tmp_path / "a.html", alarms=alarms, **{"Left out": left, "Groups": None})
    assert page.by_tag["strong"][1:] == ["flat clusters", "class never predicted"]
    assert page.by_tag["li"] == [f": {NASTY}: a guess.", ": fat."]
    assert page.by_tag["h2"] == ["Classes", "Left out", *NAMES]
    assert page.by_tag["td"][-2:] == [f"{NASTY}.bmp", "not .png"]
    without = write(tmp_path / "b.html", **{"Left out": left[:0]})
    assert "li" not in without.tags and without.by_tag["h2"] == ["Classes", *NAMES]
    empty = write(tmp_path / "c.html", tiles=random_tiles(0)[:0])
    assert empty.by_tag["p"].count("none") == 3 * len(NAMES) and "img" not in empty.tags


def test_names_are_shown_as_they_are_and_never_become_tags(page, tmp_path):
    assert "b" not in page.tags and NASTY in page.by_tag["p"]
    shown = pd.concat(choose(random_tiles(0), NAMES, 3).values())
    for attribute in ("alt", "title"):
        assert page.values("img", attribute) == shown.path.tolist()
    captions = page.by_tag["figcaption"]
    for caption, tile in zip(captions, shown.to_dict("records"), strict=True):
        predicted = f"{tile['class']}, " if tile["row"] == "rejected" else ""
        assert caption == f"{predicted}{tile['confidence']:.2f}{tile['path']}"
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<b>" not in text and "&amp;amp;" not in text


def test_pictures_of_other_tissue_are_called_by_its_name_where_their_row_is_not(tmp_path):
    page = write(tmp_path / "index.html", names=NAMES[:1], others=NAMES[1:])
    assert page.by_tag["h2"] == ["Classes", NAMES[0], "other tissue"]
    assert [row.strip() for row in page.by_tag["h3"]][3:] == [*NAMES[1:], "least sure"]
    captions = page.by_tag["figcaption"]
    named = [any(caption.startswith(f"{name}, ") for name in NAMES) for caption in captions]
    assert named == [False] * 6 + [True] * 3 + [False] * 6 + [True] * 3


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_name_runs_anything(tmp_path, name):
    tiles = random_tiles(0).assign(**{"class": name, "prompt_class": name, "path": name})
    groups = pd.DataFrame({name: [name], "group": [name]})
    alarms = [Alarm(name, name)]
    page = write(tmp_path / "i.html", tiles, name, alarms, [name], **{name: groups})
    assert not {"script", "b"} & set(page.tags) and page.tags.count("img") == 9
    known = "lang charset name content class href id src alt title".split()
    assert {attribute for _, attribute, _ in page.attributes} <= set(known)
    assert page.by_tag["title"] == page.by_tag["h1"] == [name]
    assert page.by_tag["a"] == [name] and name in page.by_tag["td"]
    assert page.values("a", "href") == ["#class1"]


def test_the_page_holds_the_pictures_of_its_tiles_and_loads_nothing(page, tmp_path):
    sources, colours = page.values("img", "src"), pixels()[:, 0, 0].astype(int)
    shown = pd.concat(choose(random_tiles(0), NAMES, 3).values())
    for source, number in zip(sources, shown.tile, strict=True):
        data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"), validate=True)
        picture = np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)
        assert picture.shape == pixels()[number].shape
        assert np.abs(picture.mean((0, 1)) - colours).sum(1).argmin() == number
    assert not {"script", "link", "iframe"} & set(page.tags)
    for tag, attribute, value in page.attributes:
        assert attribute not in ("srcset", "data", "action", "style"), (tag, attribute, value)
        assert attribute != "href" or value.startswith("#")
    text = re.sub(r"base64,[^\"]*", "", (tmp_path / "index.html").read_text(encoding="utf-8"))
    assert not re.search(r"https?:|//|@import|url\(", text)
    write(tmp_path / "again.html", title=NASTY)
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "index.html").read_bytes()


def test_cells_are_short_and_long_tables_are_folded_up(tmp_path):
    p = pd.Series([0.982, np.nan] * 11, dtype=np.float32)
    page = write(tmp_path / "index.html", Cases=pd.DataFrame({"p": p, "tiles": 1.0}))
    assert page.by_tag["td"][-44:] == ["0.982", "1.0", "", "1.0"] * 11
    assert page.by_tag["summary"] == ["22 lines"]
    short = write(tmp_path / "index.html", Cases=pd.DataFrame({"p": p[:20]}))
    assert "summary" not in short.by_tag


@pytest.mark.parametrize("n", [1, MAX_LINES, 3 * MAX_LINES])
def test_groups_are_cut_and_it_is_said_how_many_are_left_out(tmp_path, n):
    groups = [f"{NASTY} {number}" for number in range(n)]
    table = pd.DataFrame({"group": groups, "fat": np.linspace(0, 1, n), "tiles": 1})
    page = write(tmp_path / "index.html", Groups=table)
    assert [cell for cell in page.by_tag["td"] if cell.startswith(f"{NASTY} ")] == groups[
        :MAX_LINES
    ]
    notes = [text for text in page.by_tag["p"] if " more, " in text]
    assert notes == [f"and {n - MAX_LINES} more, see groups.csv"] * (n > MAX_LINES)


def test_how_good_it_is_takes_the_place_of_what_was_said_and_nothing_else_changes(tmp_path):
    file = tmp_path / "index.html"
    write(file, title=NASTY)
    plain = file.read_text(encoding="utf-8")
    for said in (NASTY, gallery.QUALITY[1], "<script>", "50 of 50"):
        table = pd.DataFrame({NASTY: [said], "precision": [np.nan]})
        gallery.write_quality(file, gallery.Quality([said], table))
        page = Page(file.read_text(encoding="utf-8"))
        assert page.by_tag["h2"] == ["How good is it?", "Classes", *NAMES]
        assert said in page.by_tag["p"] and page.by_tag["td"][:2] == [said, ""]
        assert not {"script", "b"} & set(page.tags)
    text = file.read_text(encoding="utf-8")
    (before, rest), after = text.split(gallery.QUALITY[0]), gallery.QUALITY[1]
    assert before + gallery.QUALITY[0] + after + rest.split(after)[1] == plain
    file.write_text("<html></html>")
    with pytest.raises(ValueError, match=r"index\.html has no place for what an audit says"):
        gallery.write_quality(file, gallery.Quality(["x"]))


FACTS = {"network": "frozen", "variant": "ours"}


def recorded(alarms, off, dataset):
    """A run with alarms in the record, and by how much an estimate of it was off."""
    known = {"truth": 0.9, "estimates": {"confidence": 0.9 + off, "networks": 0.9 - 2 * off}}
    return [
        scored("vlm-cpl", 0.9, dataset=dataset, labels={"alarms": alarms}, **FACTS),
        scored("label-free", 0.9, dataset=dataset, budget=0, labels=known, **FACTS),
    ]


def test_estimates_without_labels_stand_beside_their_errors_where_no_alarm_rings():
    facts = made(
        recorded([], 0.02, "a"), recorded([], 0.04, "b"), recorded(["flat clusters"], 0.3, "c")
    ).facts
    estimated = {"confidence": 0.954, "networks": 0.99}
    quiet = quality.without_audit(estimated, [], facts)
    assert "2 runs of the record in which no alarm rang: a, b, " in quiet.sentences[0]
    assert quiet.table.values.tolist() == [
        ["mean confidence", "95.4%", "3.0", "4.0"],
        ["agreement of the networks", "99.0%", "6.0", "8.0"],
    ]
    rung = quality.without_audit(estimated, [Alarm("flat clusters", "x")], facts)
    assert rung.table is None and "by up to 60.0 points" in rung.sentences[0]
    low = quality.without_audit({"confidence": 0.9, "networks": 0.6}, [], facts)
    assert low.table is None and "agreement of the networks" in low.sentences[0]
    nothing = quality.without_audit(estimated, [], made(recorded(["x"], 0.1, "a")).facts)
    assert nothing.table is None and "no record" in nothing.sentences[0]
    assert quality.without_audit(estimated, [], made().facts) == nothing
    for told in (quiet, rung, low, nothing):
        assert "ASK=audit" in told.sentences[-1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_keeps_the_page_of_the_last_run(tmp_path, monkeypatch, error):
    write(tmp_path / "index.html")
    before = (tmp_path / "index.html").read_bytes()

    def half(file, text, **_):
        file.write_bytes(text.encode()[:500])
        raise error

    monkeypatch.setattr("pathlib.Path.write_text", half)
    with pytest.raises(error):
        write(tmp_path / "index.html", title="another")
    assert (tmp_path / "index.html").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]
