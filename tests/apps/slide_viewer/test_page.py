"""What a pathologist opens: the table, a view of each slide, and that nothing else is needed."""

import re
import shutil
import subprocess
from functools import partial
from itertools import chain
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from html_page import Page
from PIL import Image
from qupath import features_for_qupath
from slides.made_up_slides import textured_slide

from apps.slide_viewer import page
from lib.alarm import Alarm
from lib.slides.cohort import Cohort
from lib.slides.study import CohortTiles, SlideStudy

NASTY = """<b>&"'</script>"""
NAMES = [NASTY, "normal"]
CORNERS = [(x, y) for y in (100, 300, 500) for x in (200, 400, 600)]
COUNTS = np.tile(np.arange(9) % 3 > 0, 2)  # the two right columns of each slide


@pytest.fixture(autouse=True, scope="module")
def small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_deep_zoom", partial(page.write_deep_zoom, max_pixels=600))
        yield


def made(folder):
    """Two slides of nine tiles each, the first of class NASTY, the second of unknown label."""
    folder.mkdir(exist_ok=True)
    slide, _ = textured_slide(folder)
    shutil.copy(slide.path, folder / "second.tif")
    table = pd.DataFrame({"slide": [0, 1], "name": [f"slide {NASTY}", "second"]})
    table = table.assign(path=[slide.path.name, "second.tif"], mpp=np.nan, label=[1, -1], tissue="")
    table = table.assign(group=table.path)
    tiles = pd.DataFrame(CORNERS * 2, columns=["x", "y"])
    tiles = tiles.assign(slide=np.repeat([0, 1], 9), side=200.0)
    probs = np.random.default_rng(0).dirichlet([1, 1], 18)
    prompted = np.column_stack([probs, np.ones(18)])
    cohort = Cohort(folder, table, folder, 16, 1.0)
    probs_of_slides = {("vlm-cpl", "mean"): np.array([[0.7, 0.3], [0.2, 0.8]])}
    attention = [np.full(6, 1 / 6)] * 2
    study = SlideStudy(probs_of_slides, np.flatnonzero(COUNTS), probs[COUNTS], attention, 0.3, [])
    return CohortTiles(cohort, tiles, NAMES, [NASTY], None, prompted), study


def write(folder, alarms=(), lines=slice(None), **changed):
    tiles, study = made(folder / "raw")
    study = SlideStudy(**{**vars(study), "alarms": alarms, **changed.pop("study", {})})
    shown = {"title": NASTY, "slides": tiles.cohort.table.iloc[lines]}
    page.write_study_page(folder, tiles, study, **shown, **changed)
    return folder / "page"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("page"))


def read(file):
    text = file.read_text(encoding="utf-8").replace(" />", ">")
    text = re.sub(r"<(link|input)\b([^>]*)>", r"<\1\2></\1>", text)
    return Page(text)


def test_the_table_has_a_line_per_slide_and_names_stay_text(written):
    table = read(written / "index.html")
    assert "b" not in table.tags and table.by_tag["h1"] == [NASTY]
    assert [text for text in table.by_tag["a"] if text] == [f"slide {NASTY}", "second"]
    assert f"2 of 2 slides labelled, by words alone: {NASTY}, normal." in table.by_tag["p"]
    assert "no attention is learnt" not in str(table.by_tag["p"])
    assert "≠ predicted" in table.by_tag["span"] and "unknown" in table.by_tag["span"]
    assert table.by_tag["strong"] == ["0 of 1"]


def test_each_slide_has_its_view_with_all_overlays_and_its_tiles_for_qupath(written):
    for folder in sorted(written.glob("0*")):
        shown = read(folder / "index.html")
        assert "b" not in shown.tags
        values = [v for v in shown.values("input", "value") if v and not v.isdigit()]
        assert values == ["none", "class", "prob-1", "prob-2", "attention"]
        files = {file.stem for file in (folder / "overlays").iterdir()}
        assert files == {"class", "prob-1", "prob-2", "attention", "irrelevant"}
        (geojson,) = folder.glob("*.geojson")
        features = features_for_qupath(geojson)
        classes = [f["properties"]["classification"]["name"] for f in features]
        assert [name != page.OTHER for name in classes] == COUNTS[:9].tolist()


def test_all_that_is_linked_is_there_and_nothing_is_fetched(written):
    for file in written.rglob("*.html"):
        shown = read(file)
        tags = (("a", "href"), ("img", "src"), ("link", "href"), ("script", "src"))
        for link in filter(None, chain(*(shown.values(*tag) for tag in tags))):
            assert "://" not in link
            assert (file.parent / unquote(link)).resolve().exists(), f"{file}: {link}"
        assert "http" not in file.read_text(encoding="utf-8")
    viewer = [file for file in (written / "viewer").iterdir() if "openseadragon" not in file.name]
    assert not [f for f in viewer if "http" in f.read_text() and f.name != "LICENSE.txt"]


def test_overlays_show_tiles_that_count_or_those_that_do_not(written):
    folder = sorted(written.glob("0*"))[0]
    for name, width in (("class", 16), ("irrelevant", 8)):
        shown = np.asarray(Image.open(folder / "overlays" / f"{name}.png"))
        assert (shown[..., 3] > 0).all() and shown.shape[1] == width, "two columns, or the first"


def test_an_interruption_keeps_the_page_of_before(tmp_path, monkeypatch):
    folder = write(tmp_path)
    before = (folder / "index.html").read_bytes()
    monkeypatch.setattr(page, "write_deep_zoom", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):
        write(tmp_path, lines=[0])
    assert (folder / "index.html").read_bytes() == before


def test_alarms_and_what_is_left_out_stand_before_the_table(tmp_path, written):
    alarms = [Alarm("flat clusters", NASTY), Alarm("class without labels", "normal: 0 of 9")]
    more = {"left_out": {"cut.svs": "damaged", NASTY: NASTY}, "quality": [f"Audit: {NASTY}"]}
    folder = write(tmp_path, alarms, [1], **more)
    text = (folder / "index.html").read_text()
    head = text[: text.index("<table>")]
    for said in ("flat clusters", "normal: 0 of 9", "Left out: 2", "cut.svs", "damaged"):
        assert said in head, said
    assert "b" not in read(folder / "index.html").tags
    assert f"Audit: {NASTY}" in read(folder / "index.html").by_tag["p"]
    (shown,) = folder.glob("0*/index.html")
    assert "2 alarms" in read(shown).by_tag["a"]
    assert 'class="alarms"' not in (written / "index.html").read_text()


def test_a_slide_without_a_class_is_not_labelled_on_the_page_and_in_the_table(tmp_path):
    nothing = {"attention": [np.full(12, 1 / 12), np.empty(0)]}
    folder = write(tmp_path, lines=[1], study=nothing)
    table = read(folder / "index.html")
    assert "not labelled" in table.by_tag["span"] and "nan" not in "".join(table.by_tag["td"])
    (shown,) = folder.glob("0*/index.html")
    assert read(shown).by_tag["strong"][0] == "not labelled"
    tiles, study = made(tmp_path / "raw")
    study = SlideStudy(**{**vars(study), **nothing})
    slides = tiles.cohort.table
    written = page.write_slides_csv(tmp_path / "slides.csv", slides, study, tiles.targets)
    again = pd.read_csv(tmp_path / "slides.csv", keep_default_na=False)
    assert list(again) == ["path", "class", f"prob {NASTY}", "prob normal"]
    assert again["class"].tolist() == [NASTY, ""] and again["prob normal"].tolist() == ["0.3", ""]
    assert written["prob normal"].isna().tolist() == [False, True]


def cases(folder, of_slides, **changed):
    """The table of cases and the texts of the page where the two slides are of these cases."""
    tiles, study = made(folder / "raw")
    study = SlideStudy(**{**vars(study), **changed})
    tiles.cohort.table["group"] = of_slides
    slides = tiles.cohort.table
    index = page.write_study_page(folder, tiles, study, title="cases", slides=slides)
    return page.case_table(tiles, study, slides), read(index).by_tag


def test_a_case_has_the_mean_of_all_tiles_of_its_slides_that_count(tmp_path):
    """Six tiles of the first slide and two of the second: not the mean of two slides."""
    rows = np.r_[np.flatnonzero(COUNTS)[:6], np.flatnonzero(COUNTS)[6:8]]
    probs = np.random.default_rng(1).dirichlet([1, 1], 8)
    counted = {"rows": rows, "tile_probs": probs, "attention": [np.ones(6), np.ones(2)]}
    table, texts = cases(tmp_path, [NASTY, NASTY], **counted)
    name = NAMES[probs.mean(0).argmax()]
    [row] = table.to_dict("records")
    assert [row[key] for key in ("case", "class", "slides", "tiles")] == [NASTY, name, 2, 8]
    assert [row[f"prob {name}"] for name in NAMES] == pytest.approx(probs.mean(0).tolist())
    assert texts["h2"] == ["Cases", "Slides"] and texts["td"].count(NASTY) == 3
    assert any(text.startswith("A case has the mean") for text in texts["p"])


def test_a_case_without_a_tile_that_counts_has_no_class_and_slides_alone_are_no_cases(tmp_path):
    nothing = {"attention": [np.full(12, 1 / 12), np.empty(0)]}
    table, texts = cases(tmp_path, ["one", "two"], **nothing)
    assert table[["case", "class", "tiles"]].values.tolist()[1] == ["two", "", 0]
    assert table["prob normal"].isna().tolist() == [False, True]
    assert texts["span"].count("not labelled") == 2, "of the case and of its slide"
    tiles, study = made(tmp_path / "raw")
    for same in ("path", "name"):
        slides = tiles.cohort.table.assign(group=tiles.cohort.table[same])
        assert page.case_table(tiles, study, slides) is None


def test_a_slide_that_can_no_longer_be_read_has_no_view_and_stops_no_other(tmp_path, monkeypatch):
    whole = page.write_deep_zoom

    def damaged(slide, folder):
        if slide.name == "second":
            raise ValueError("damaged")
        return whole(slide, folder)

    monkeypatch.setattr(page, "write_deep_zoom", damaged)
    folder = write(tmp_path)
    assert len([*folder.glob("0*")]) == 1
    assert "the view of second" in (folder / "index.html").read_text()
    linked = [text for text in read(folder / "index.html").by_tag["a"] if text]
    assert linked == [f"slide {NASTY}"]


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
        options = "--headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1000,700"
        profile = f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"
        command = ["chromium", *options.split(), *profile, f"--screenshot={file}", frame.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        pictures.append(np.asarray(Image.open(file).convert("RGB")).astype(int))
    middle = [picture[250:550, 150:600] for picture in pictures]
    assert middle[0].std() > 20, "the slide's colours, not an empty canvas"
    assert abs(middle[0] - middle[1]).mean() > 3, "the overlay changes them"
