"""What a pathologist opens: the table, a view of each slide, and that nothing else is needed."""

import re
import shutil
import subprocess
from itertools import chain
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from html_page import Page
from PIL import Image
from slides.made_up_slides import textured_slide

from apps.slide_viewer import page
from apps.slide_viewer.annotations import tiles_geojson, write_geojson
from lib.alarm import Alarm

NASTY = """<b>&"'</script>"""
NAMES, COLOURS = [NASTY, "normal"], ["#D55E00", "#0072B2"]


def view(folder, name):
    (folder / "raw").mkdir(exist_ok=True)
    slide, _ = textured_slide(folder / "raw")
    coords = np.array([[x, y] for y in (100, 300, 500) for x in (200, 400, 600)])
    probs = np.random.default_rng(0).dirichlet([1, 1], 9)
    relevant = np.arange(9) % 3 > 0
    attention = np.where(relevant, 1 / 6, np.nan)
    file = folder / "t.geojson"
    write_geojson(file, tiles_geojson("s", coords, 200, probs.argmax(1), probs, NAMES, COLOURS))
    other = np.where(relevant, "", NASTY).tolist()
    return page.SlideView(name, slide.path, slide.mpp, coords, 200.0, probs, attention,
                          relevant, other, file)  # fmt: skip


def write(folder, views=(), **changed):
    lines = [{"slide": f"slide {NASTY}", "class": NASTY, "tiles": 9, "irrelevant": 1 / 3,
              f"prob {NASTY}": 0.7, "prob normal": 0.3, "label": "normal"},
             {"slide": "second", "class": "normal", "tiles": 1, "irrelevant": 0.0,
              f"prob {NASTY}": 0.2, "prob normal": 0.8, "label": None}]  # fmt: skip
    given = {"title": NASTY, "facts": [f"A fact {NASTY}."], "slides": pd.DataFrame(lines),
             "views": views, "class_names": NAMES, "colours": COLOURS,
             "max_pixels": 600}  # fmt: skip
    page.write_slides_page(folder / "page", **given | changed)
    return folder / "page"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return write(folder, [view(folder, f"slide {NASTY}"), view(folder, "second")])


def read(file):
    text = file.read_text(encoding="utf-8").replace(" />", ">")
    text = re.sub(r"<(link|input)\b([^>]*)>", r"<\1\2></\1>", text)
    return Page(text)


def test_the_table_has_a_line_per_slide_and_names_stay_text(written):
    table = read(written / "index.html")
    assert "b" not in table.tags and table.by_tag["h1"] == [NASTY]
    assert [text for text in table.by_tag["a"] if text] == [f"slide {NASTY}", "second"]
    assert f"A fact {NASTY}." in table.by_tag["p"]
    assert "≠ predicted" in table.by_tag["span"] and "unknown" in table.by_tag["span"]
    assert table.by_tag["strong"] == ["0 of 1"]


def test_every_slide_has_its_view_with_all_overlays(written):
    for folder in sorted(written.glob("0*")):
        shown = read(folder / "index.html")
        assert "b" not in shown.tags
        values = [v for v in shown.values("input", "value") if v and not v.isdigit()]
        assert values == ["none", "class", "prob-1", "prob-2", "attention"]
        files = {file.stem for file in (folder / "overlays").iterdir()}
        assert files == {"class", "prob-1", "prob-2", "attention", "irrelevant"}
        assert list(folder.glob("*.geojson"))


def test_everything_that_is_linked_is_there_and_nothing_is_fetched(written):
    for file in written.rglob("*.html"):
        shown = read(file)
        links = [shown.values(tag, name) for tag, name in
                 (("a", "href"), ("img", "src"), ("link", "href"), ("script", "src"))]  # fmt: skip
        for link in filter(None, chain(*links)):
            assert "://" not in link
            assert (file.parent / unquote(link)).resolve().exists(), f"{file}: {link}"
        assert "http" not in file.read_text(encoding="utf-8")
    own = [file for file in (written / "viewer").iterdir() if "openseadragon" not in file.name]
    assert not [f for f in own if "http" in f.read_text() and f.name != "LICENSE.txt"]


def test_overlays_show_tiles_that_count_or_those_that_do_not(written):
    folder = sorted(written.glob("0*"))[0]
    shown = {name: np.asarray(Image.open(folder / "overlays" / f"{name}.png"))[..., 3] > 0
             for name in ("class", "irrelevant")}  # fmt: skip
    assert shown["class"].mean() == 1.0, "columns two and three of three"
    assert shown["irrelevant"].mean() == 1.0, "the first column"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"colours": ["red"]}, "2 classes, but 1 colours"),
        ({"slides": pd.DataFrame({"slide": ["a"]})}, "has no column class"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_written(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **changed)
    assert not (tmp_path / "page").exists()


def test_a_view_of_no_slide_and_arrays_of_other_lengths_are_refused(tmp_path):
    one = view(tmp_path, "nobody")
    with pytest.raises(ValueError, match="nobody is no slide"):
        write(tmp_path, [one])
    one.name, one.relevant = "second", one.relevant[:3]
    with pytest.raises(ValueError, match="second: what was predicted"):
        write(tmp_path, [one])


def test_an_interruption_keeps_the_page_of_before(tmp_path, monkeypatch):
    folder = write(tmp_path, [view(tmp_path, "second")])
    before = (folder / "index.html").read_bytes()
    monkeypatch.setattr(page, "write_deep_zoom", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        write(tmp_path, [view(tmp_path, "second")], title="new")
    assert (folder / "index.html").read_bytes() == before


def test_alarms_and_what_is_left_out_stand_before_the_table(tmp_path):
    alarms = [Alarm("flat clusters", NASTY), Alarm("class without labels", "normal: 0 of 9")]
    left_out = {"cut.svs": "damaged", NASTY: NASTY}
    folder = write(tmp_path, [view(tmp_path, "second")], alarms=alarms, left_out=left_out)
    text = (folder / "index.html").read_text()
    head = text[: text.index("<table>")]
    for said in ("flat clusters", "normal: 0 of 9", "Left out: 2", "cut.svs", "damaged"):
        assert said in head, said
    assert "b" not in read(folder / "index.html").tags
    (shown,) = folder.glob("0*/index.html")
    assert "2 alarms" in read(shown).by_tag["a"]
    assert 'class="alarms"' not in (write(tmp_path) / "index.html").read_text()


def test_a_slide_without_a_class_is_not_labelled(tmp_path):
    line = {"slide": "second", "class": "", "tiles": 1, "irrelevant": 1.0, "label": "normal",
            f"prob {NASTY}": np.nan, "prob normal": np.nan}  # fmt: skip
    one = view(tmp_path, "second")
    folder = write(tmp_path, [one], slides=pd.DataFrame([line]))
    table = read(folder / "index.html")
    assert "not labelled" in table.by_tag["span"] and "nan" not in "".join(table.by_tag["td"])
    (shown,) = folder.glob("0*/index.html")
    assert read(shown).by_tag["strong"][0] == "not labelled"


def test_a_slide_that_can_no_longer_be_read_has_no_view_and_stops_no_other(tmp_path):
    whole, cut = view(tmp_path, f"slide {NASTY}"), view(tmp_path, "second")
    cut.path = tmp_path / "cut.tif"
    cut.path.write_bytes(whole.path.read_bytes()[:1000])
    folder = write(tmp_path, [whole, cut])
    assert len([*folder.glob("0*")]) == 1
    assert "the view of second" in (folder / "index.html").read_text()
    assert [text for text in read(folder / "index.html").by_tag["a"] if text] == [whole.name]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no browser")
def test_a_browser_shows_the_slide_and_its_overlay_from_the_file(written, tmp_path):
    address = (sorted(written.glob("0*"))[0] / "index.html").as_uri()
    frame = tmp_path / "frame.html"  # of fixed size: the window is resized when it is captured
    pictures = []
    for n, overlay in enumerate(("none", "prob-1")):
        file = tmp_path / f"{n}.png"
        source = f'<iframe src="{address}#overlay={overlay}" width="1000" height="700"></iframe>'
        frame.write_text(f"<!doctype html><body style='margin: 0'>{source}", encoding="utf-8")
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
            "--window-size=1000,700", f"--screenshot={file}", frame.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        pictures.append(np.asarray(Image.open(file).convert("RGB")).astype(int))
    middle = [picture[250:550, 150:600] for picture in pictures]
    assert middle[0].std() > 20, "the slide's colours, not an empty canvas"
    assert abs(middle[0] - middle[1]).mean() > 3, "the overlay changes them"
