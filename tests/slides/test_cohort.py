"""A cohort: its tiles, and features of all slides but those that cannot be read."""

import errno
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from openslide import OpenSlideError
from slides.made_up_slides import GLASS, piece, tissue_slide
from small_models import write_model

from lib.slides import cohort as cohorts
from lib.slides.cohort import Cohort, embed_slides
from lib.slides.features_file import read_features
from lib.slides.reading import open_slide
from lib.slides.slide_table import read_slide_table, with_tissue
from lib.slides.tissue import tissue_of
from lib.vlm.loading import load_vlm

VIT = {"image_size": 32, "layers": 1, "width": 48, "head_width": 16, "patch_size": 16}
CLASSES = [SimpleNamespace(folder="T1"), SimpleNamespace(folder="T2")]
CARD = SimpleNamespace(name="c", slides={"table": "slides.csv"}, folder="c", classes=CLASSES)
MPP = 16.0  # µm per pixel of the tiles
SQUARE = [[100, 100], [400, 100], [400, 400], [100, 400]]


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return load_vlm(write_model(tmp_path_factory.mktemp("models") / "vit", VIT), seed=0)


@pytest.fixture
def folder(tmp_path):
    """Two slides with tissue, one that is blank and one that does not say its µm per pixel."""
    folder = tmp_path / "c"
    folder.mkdir()
    made_slide(folder / "a.tif", (60, 80, 520, 500))
    made_slide(folder / "b.tif", (20, 20, 560, 560), 8.0)
    made_slide(folder / "blank.tif", None)
    made_slide(folder / "silent.tif", (60, 60, 500, 500), None)
    lines = {"path": ["b.tif", "a.tif", "silent.tif", "blank.tif"], "label": ["T2", "T1"] * 2}
    pd.DataFrame(lines).to_csv(folder / "slides.csv", index=False)
    return folder


def made_slide(file, box, mpp=4.0):
    try:
        tissue_slide(file, lambda pen: piece(pen, box) if box else None, mpp=mpp)
    except ValueError:
        assert mpp is None


def made(folder, out, tissue="", pixels=32, mpp=MPP):
    table = with_tissue(read_slide_table(CARD, folder), tissue)
    return Cohort(folder, table, out, pixels, mpp)


def embed(vlm, folder, out, workers=0, batch_size=64, **kwargs):
    cohort = made(folder, out, **kwargs)
    return embed_slides(vlm, cohort, workers=workers, batch_size=batch_size).set_index("name")


def edited(folder, ring, name="a"):
    folder.mkdir(exist_ok=True)
    geometry = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {}}
    (folder / f"{name}.tissue.geojson").write_text(json.dumps([feature]))
    return folder


def test_slides_that_cannot_be_read_are_named_and_all_others_are_done(vlm, folder, tmp_path):
    report = embed(vlm, folder, tmp_path / "out")
    assert "no tissue detected in blank" in report.error["blank"]
    assert "column `mpp`" in report.error["silent"] and not report.tiles["silent"]
    assert (report.error[["a", "b"]] == "").all() and (report.tiles[["a", "b"]] > 0).all()
    assert {file.name for file in (tmp_path / "out").glob("*.h5")} == {"a.h5", "b.h5"}
    arrays, attributes = read_features(tmp_path / "out" / "a.h5")
    assert arrays["features"].shape == (report.tiles["a"], 48)
    assert arrays["image_embeds"].shape == (report.tiles["a"], 16)
    assert arrays["features"].dtype == np.float16
    assert attributes["patch_size"] == 32 and attributes["mpp"] == MPP


def test_features_are_those_of_the_tiles_however_many_processes_read_them(vlm, folder, tmp_path):
    embed(vlm, folder, tmp_path / "out", workers=2, batch_size=4)
    arrays, _ = read_features(tmp_path / "out" / "b.h5")
    assert len(arrays["coords"]) > 12
    with open_slide(folder / "b.tif") as slide:
        tiles = np.stack([slide.read(*corner, 32, MPP) for corner in arrays["coords"].tolist()])
    pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
    expected, projected = cohorts.encode_images(vlm, pixels)
    assert np.allclose(arrays["features"], expected.numpy(), atol=0.02, rtol=0.02)
    assert np.allclose(arrays["image_embeds"], projected.numpy(), atol=0.02)
    shifted = np.roll(arrays["features"], 4, axis=0)
    assert not np.allclose(shifted, expected.numpy(), atol=0.02, rtol=0.02), "their order shows"


def test_a_slide_that_is_done_is_passed_over_and_a_mended_one_taken_up(vlm, folder, tmp_path):
    out = tmp_path / "out"
    embed(vlm, folder, out)
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("*.h5")}
    table = pd.read_csv(folder / "slides.csv")
    table["mpp"] = table.path.map({"silent.tif": "4,0"})
    table.to_csv(folder / "slides.csv", index=False)
    report = embed(vlm, folder, out)
    assert report.error["silent"] == "" and report.tiles["silent"] > 0 and not report.tiles["a"]
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items())


@pytest.mark.slow
def test_features_are_made_anew_from_what_has_changed_and_the_report_says_what(
    vlm, folder, tmp_path
):
    out, table = tmp_path / "out", pd.read_csv(folder / "slides.csv")

    def anew(model=vlm, **kwargs):
        report = embed(model, folder, out, **kwargs)
        assert (report.error[["a", "b"]] == "").all()
        cohort = made(folder, out, tissue=str(out), mpp=kwargs.get("mpp", MPP))
        line = cohort.table.iloc[0]
        with cohort.open(line) as slide:
            _, tiles, source = cohort.tissue(slide, line)
        assert (
            source == "edited"
            and read_features(out / "a.h5")[0]["coords"].tolist() == tiles.tolist()
        )
        return report.anew[["a", "b"]].tolist()

    assert anew() == ["", ""] and anew() == ["", ""]
    assert anew(mpp=12.0) == ["tile", "tile"] and anew() == ["tile", "tile"]
    corrected = str(edited(tmp_path / "edited", SQUARE))
    assert anew(tissue=corrected) == ["tissue", ""]
    edited(tmp_path / "edited", [*SQUARE[:2], [200, 400]])
    assert anew(tissue=corrected) == ["tissue", ""] and anew() == ["tissue", ""]
    made_slide(folder / "b.tif", (40, 40, 300, 300), 8.0)
    assert anew() == ["", "slide"]
    table.assign(mpp=table.path.map({"a.tif": 6})).to_csv(folder / "slides.csv", index=False)
    assert anew() == ["µm/px", ""]
    retrained = load_vlm(write_model(tmp_path / "other", VIT), seed=0)
    next(retrained.model.visual.parameters()).data += 1
    assert anew(replace(retrained, name=vlm.name)) == ["vlm", "vlm"]
    assert anew(replace(retrained, name=vlm.name, mean=(0.1, 0.1, 0.1))) == ["vlm", "vlm"]


@pytest.mark.slow
def test_tissue_that_was_corrected_beside_the_results_is_neither_lost_nor_ignored(
    vlm, folder, tmp_path
):
    out = tmp_path / "out"
    embed(vlm, folder, out)
    text = (edited(out, SQUARE) / "a.tissue.geojson").read_text()
    report = embed(vlm, folder, out, mpp=12.0)
    assert "a.tissue.geojson was changed: put it into another folder" in report.error["a"]
    assert (out / "a.tissue.geojson").read_text() == text and report.error["b"] == ""
    other = str(edited(tmp_path / "edited", SQUARE))
    assert embed(vlm, folder, out, tissue=other).anew["a"] == "tissue"
    coords = read_features(out / "a.h5")[0]["coords"]
    assert len(coords) and (coords >= 100 - 64).all() and (coords <= 400).all()
    with open_slide(folder / "a.tif") as slide:
        masks = [tissue_of(slide, f / "a.tissue.geojson")[0] for f in (out, tmp_path / "edited")]
    assert np.array_equal(*masks)


def test_whatever_is_wrong_with_a_slide_stops_no_other_but_a_full_disk_does(
    vlm, folder, tmp_path, monkeypatch
):
    def fails(error):
        def raises(*_):
            raise error

        monkeypatch.setattr(cohorts, "encode_images", raises)
        return embed(vlm, folder, tmp_path / "out").error[["a", "b"]].tolist()

    for error in (OpenSlideError("cut"), PermissionError("no"), ChildProcessError("killed")):
        assert fails(error) == [str(error)] * 2
    assert fails(KeyError("x")) == ["KeyError: 'x'"] * 2
    for error in (OSError(errno.ENOSPC, "full"), MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            fails(error)
    assert not list((tmp_path / "out").rglob("*")), "features of an interrupted slide"


def test_tiles_of_bare_glass_within_tissue_are_left_out_where_asked_for(tmp_path):
    def hole(pen):
        piece(pen, (60, 80, 520, 500))
        pen.rectangle((150, 330, 205, 385), fill=GLASS)  # 220 µm a side: it belongs to the tissue

    slide = tissue_slide(tmp_path / "a.tif", hole)
    cohort = Cohort(tmp_path, pd.DataFrame(), tmp_path, 8, 16.0)
    line = {"tissue": ""}
    _, with_glass, _ = cohort.tissue(slide, line)
    _, without, _ = replace(cohort, min_stained=0.1).tissue(slide, line)
    left_out = {*map(tuple, with_glass.tolist())} - {*map(tuple, without.tolist())}
    assert left_out and all(150 <= x <= 174 and 330 <= y <= 354 for x, y in left_out)


def test_tiles_are_read_in_their_order_whatever_slide_they_are_of(folder, tmp_path):
    cohort = made(folder, tmp_path, pixels=16, mpp=8.0)
    cohort = replace(cohort, table=cohort.table[::-1])
    tiles = pd.DataFrame({"slide": [1, 0, 1], "x": [40, 80, 200], "y": [60, 100, 240]}, [7, 3, 9])
    finer = cohort.read(tiles, 32)
    for picture, fine, tile in zip(cohort.read(tiles), finer, tiles.itertuples(), strict=True):
        with cohort.open(cohort.table.loc[tile.slide]) as slide:
            assert np.array_equal(picture, slide.read(tile.x, tile.y, 16, 8.0))
            assert np.array_equal(fine, slide.read(tile.x, tile.y, 32, 4.0))


def test_slides_without_features_and_files_of_other_programs_are_refused_by_name(
    vlm, folder, tmp_path
):
    cohort = made(folder, tmp_path / "out")
    embed(vlm, folder, cohort.out)
    with pytest.raises(ValueError, match="2 of 4 slides have no features, the first: blank"):
        cohort.gather_tiles()
    cohort = replace(cohort, table=cohort.table[:2])
    tiles = cohort.gather_tiles()
    stored = np.load(cohort.out / "backbone_features.npy")
    assert len(stored) == len(tiles) and tiles.slide.unique().tolist() == [0, 1]
    arrays, _ = read_features(cohort.out / "b.h5")
    assert np.array_equal(stored[tiles.slide == 1], arrays["features"])
    both = [read_features(cohort.out / f"{name}.h5")[0] for name in cohort.table.name]
    joined = np.concatenate([own["image_embeds"] for own in both])
    assert np.array_equal(np.load(cohort.out / "image_embeds.npy"), joined)
    (cohort.out / "b.h5").unlink()
    with cohorts.open_slide(folder / "b.tif") as slide:
        del arrays["image_embeds"]
        cohorts.write_features(cohort.out / "b.h5", arrays, slide, pixels=16, mpp=1.0)
    with pytest.raises(ValueError, match=r"b\.h5 is of another program"):
        cohort.gather_tiles()
