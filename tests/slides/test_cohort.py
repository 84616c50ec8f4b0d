"""A cohort: its table, and features of every slide but those that cannot be read."""

import errno
import json
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from openslide import OpenSlideError
from slides.made_up_slides import piece, tissue_slide, write_dicom
from small_models import write_model

from data.prepare import synthetic_slides
from data.prepare.datasets import prepare
from lib.data import cards
from lib.slides import cohort
from lib.slides.features_file import read_features
from lib.vlm.loading import load_vlm

VIT = {"image_size": 32, "layers": 1, "width": 48, "head_width": 16, "patch_size": 16}
CARD = SimpleNamespace(
    name="c", slides={"table": "slides.csv"}, folder="c",
    classes=[SimpleNamespace(folder="T1"), SimpleNamespace(folder="T2")],
)  # fmt: skip
MPP = 16.0  # µm per pixel of the tiles


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return load_vlm(write_model(tmp_path_factory.mktemp("models") / "vit", VIT), seed=0)


@pytest.fixture
def folder(tmp_path):
    """Two slides with tissue, one that is blank and one that does not say its µm per pixel."""
    folder = tmp_path / "c"
    folder.mkdir()
    for name, mpp in (("a", 4.0), ("b", 8.0), ("silent", None)):
        draw = {"a": (60, 80, 520, 500), "b": (20, 20, 560, 560)}.get(name, (60, 60, 500, 500))
        made_slide(folder / f"{name}.tif", lambda pen, box=draw: piece(pen, box), mpp)
    made_slide(folder / "blank.tif", lambda pen: None, 4.0)
    lines = [("b.tif", "T2", "case 1"), ("a.tif", "T1", "case 1"), ("silent.tif", "T1", "case 2"),
             ("blank.tif", "T2", None)]  # fmt: skip
    pd.DataFrame(lines, columns=["path", "label", "case"]).to_csv(
        folder / "slides.csv", index=False
    )
    return folder


def made_slide(file, draw, mpp):
    if mpp:
        tissue_slide(file, draw, mpp=mpp)
    else:
        with pytest.raises(ValueError, match="does not say"):
            tissue_slide(file, draw, mpp=None)


def test_slides_of_a_folder_are_listed_without_a_table(folder, tmp_path):
    (folder / "more").mkdir()
    (folder / "a.tif").rename(folder / "more" / "a.tif")
    (folder / "notes.txt").write_text("no slide")
    table, left_out = cohort.list_slides(folder)
    assert table.path.tolist() == ["b.tif", "blank.tif", "more/a.tif", "silent.tif"]
    assert table.name.tolist()[2] == "a" and table.label.unique().tolist() == [-1]
    assert left_out.keys() == {"notes.txt", "slides.csv"}
    listed = tmp_path / "mpp.csv"
    listed.write_text("path,mpp\nsilent.tif,4.5\n")
    assert cohort.list_slides(folder, listed)[0].mpp.dropna().tolist() == [4.5]
    listed.write_text("path,mpp\nother.tif,4.5\n")
    with pytest.raises(ValueError, match=r"names 'other.tif', which is no slide"):
        cohort.list_slides(folder, listed)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        cohort.list_slides(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no slide")
    with pytest.raises(ValueError, match="holds 1 files, and none is a slide"):
        cohort.list_slides(empty)


def test_the_table_is_in_the_order_of_the_paths_with_classes_and_cases(folder):
    table = cohort.read_slide_table(CARD, folder)
    assert table.name.tolist() == ["a", "b", "blank", "silent"]
    assert table.label.tolist() == [0, 1, 1, 0] and table.slide.tolist() == [0, 1, 2, 3]
    assert table.group.tolist() == ["case 1", "case 1", "blank", "case 2"]
    assert table.mpp.isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="label"), "no column 'label'"),
        (lambda t: t.assign(label="T9"), "unknown label 'T9'. Known: T1, T2"),
        (lambda t: t.assign(path="x.tif"), "absent slide 'x.tif'"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "line 6: 'b.tif' is listed twice"),
    ],
)
def test_a_wrong_table_is_refused_by_what_is_wrong(folder, change, message):
    file = folder / "slides.csv"
    change(pd.read_csv(file)).to_csv(file, index=False)
    with pytest.raises(ValueError, match=message):
        cohort.read_slide_table(CARD, folder)
    file.unlink()
    with pytest.raises(ValueError, match=r"slides\.csv is missing"):
        cohort.read_slide_table(CARD, folder)


def embed(vlm, folder, out, tissue="", **kwargs):
    table = cohort.with_tissue(cohort.read_slide_table(CARD, folder), tissue)
    return cohort.embed_slides(vlm, folder, table, out, **{"workers": 0, "mpp": MPP} | kwargs)


def test_slides_that_cannot_be_read_are_named_and_all_others_are_done(vlm, folder, tmp_path):
    report = embed(vlm, folder, tmp_path / "out").set_index("name")
    assert "no tissue found in blank" in report.error["blank"]
    assert "column `mpp`" in report.error["silent"] and not report.tiles["silent"]
    assert (report.error[["a", "b"]] == "").all() and (report.tiles[["a", "b"]] > 0).all()
    assert {file.name for file in (tmp_path / "out").glob("*.h5")} == {"a.h5", "b.h5"}
    found = read_features(tmp_path / "out" / "a.h5")
    assert found.features.shape == (report.tiles["a"], 48) and found.features.dtype == np.float16
    assert found.extra["image_embeds"].shape == (report.tiles["a"], 16)
    assert found.attributes["patch_size"] == 32 and found.attributes["mpp"] == MPP


def test_features_are_those_of_the_tiles_however_many_processes_read_them(vlm, folder, tmp_path):
    embed(vlm, folder, tmp_path / "out", workers=2, batch_size=4)
    found = read_features(tmp_path / "out" / "b.h5")
    assert len(found.coords) > 12
    with cohort.open_slide(folder / "b.tif") as slide:
        tiles = np.stack([slide.read(*place, 32, MPP) for place in found.coords.tolist()])
    pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
    expected, image_embeds = cohort.encode_images(vlm, pixels)
    assert np.allclose(found.features, expected.numpy(), atol=0.02, rtol=0.02)
    assert np.allclose(found.extra["image_embeds"], image_embeds.numpy(), atol=0.02)
    shifted = np.roll(found.features, 4, axis=0)
    assert not np.allclose(shifted, expected.numpy(), atol=0.02, rtol=0.02), "their order shows"


def test_a_slide_that_is_done_is_passed_over_and_a_mended_one_taken_up(vlm, folder, tmp_path):
    out = tmp_path / "out"
    embed(vlm, folder, out)
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("*.h5")}
    table = pd.read_csv(folder / "slides.csv")
    table.assign(mpp=table.path.map({"silent.tif": "4,0"})).to_csv(
        folder / "slides.csv", index=False
    )
    report = embed(vlm, folder, out).set_index("name")
    assert report.error["silent"] == "" and report.tiles["silent"] > 0 and not report.tiles["a"]
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items())


def rewritten(file, box, mpp=4.0):
    made_slide(file, lambda pen: piece(pen, box), mpp)


def drawn(folder, ring, name="a"):
    folder.mkdir(exist_ok=True)
    area = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": area, "properties": {}}
    (folder / f"{name}.tissue.geojson").write_text(json.dumps([feature]))
    return folder


SQUARE = [[100, 100], [400, 100], [400, 400], [100, 400]]


@pytest.mark.slow
def test_features_are_made_anew_from_what_has_changed_and_the_report_says_what(
    vlm, folder, tmp_path
):
    out, table = tmp_path / "out", pd.read_csv(folder / "slides.csv")

    def anew(model=vlm, **kwargs):
        report = embed(model, folder, out, **kwargs).set_index("name")
        assert (report.error[["a", "b"]] == "").all()
        outlines = json.loads((out / "a.tissue.geojson").read_text())["features"]
        with cohort.open_listed(folder, cohort.read_slide_table(CARD, folder).iloc[0]) as slide:
            mask = cohort.tissue_of(slide, out / "a.tissue.geojson")[0]
            tiles = cohort.tile_grid(slide, mask, 8.0, 32, kwargs.get("mpp", MPP))
        assert outlines and read_features(out / "a.h5").coords.tolist() == tiles.tolist()
        return report.anew[["a", "b"]].tolist()

    assert anew() == ["", ""] and anew() == ["", ""]
    assert anew(mpp=12.0) == ["tile", "tile"] and anew() == ["tile", "tile"]
    edited = drawn(tmp_path / "edited", SQUARE)
    assert anew(tissue=str(edited)) == ["tissue", ""]
    assert anew(tissue=str(drawn(edited, [*SQUARE[:2], [200, 400]]))) == ["tissue", ""]
    assert anew() == ["tissue", ""]
    rewritten(folder / "b.tif", (40, 40, 300, 300), 8.0)
    assert anew() == ["", "slide"]
    table.assign(mpp=table.path.map({"a.tif": 6})).to_csv(folder / "slides.csv", index=False)
    assert anew() == ["µm/px", ""]
    other = write_model(tmp_path / "other", VIT)
    retrained = load_vlm(other, seed=0)
    next(retrained.model.visual.parameters()).data += 1
    assert anew(replace(retrained, name=vlm.name)) == ["vlm", "vlm"]
    assert anew(replace(retrained, name=vlm.name, mean=(0.1, 0.1, 0.1))) == ["vlm", "vlm"]


@pytest.mark.slow
def test_tissue_that_was_corrected_among_the_results_is_neither_lost_nor_ignored(
    vlm, folder, tmp_path
):
    out = tmp_path / "out"
    embed(vlm, folder, out)
    text = (drawn(out, SQUARE) / "a.tissue.geojson").read_text()
    report = embed(vlm, folder, out, mpp=12.0).set_index("name")
    assert "a.tissue.geojson was changed: put it into another folder" in report.error["a"]
    assert (out / "a.tissue.geojson").read_text() == text and report.error["b"] == ""
    edited = drawn(tmp_path / "edited", SQUARE)
    assert embed(vlm, folder, out, tissue=str(edited)).anew.tolist()[0] == "tissue"


def test_a_folder_of_corrected_tissue_holds_that_of_the_slides_and_nothing_else(folder, tmp_path):
    table = cohort.read_slide_table(CARD, folder)
    with pytest.raises(FileNotFoundError, match=r"no folder .* with corrected tissue"):
        cohort.with_tissue(table, str(tmp_path / "nowhere"))
    edited = tmp_path / "edited"
    edited.mkdir()
    with pytest.raises(ValueError, match=r"holds no \*\.tissue\.geojson"):
        cohort.with_tissue(table, str(edited))
    drawn(edited, SQUARE)
    drawn(edited, SQUARE, "typing-error")
    with pytest.raises(ValueError, match=r"edited, typing-error\.tissue\.geojson is of no slide"):
        cohort.with_tissue(table, str(edited))
    left_out = cohort.with_tissue(table, str(edited), ["typing-error.svs"])
    assert [Path(file).name for file in left_out.tissue] == ["a.tissue.geojson", "", "", ""]


def test_a_slide_has_files_of_its_own_whatever_others_are_called(vlm, folder, tmp_path):
    for path in (
        "b.tissue.tif",
        "x/a.tif",
        "x-a.tif",
        "A.tif",
        "b.svs",
        "é.tif",
        "e\u0301.tif",
        f"{'l' * 120}.tif",
    ):
        (folder / path).parent.mkdir(exist_ok=True)
        rewritten(folder / path, (60, 80, 520, 500))
    table, _ = cohort.list_slides(folder)
    assert len(table) == 12
    files = [name + end for name in table.name for end in (".h5", ".geojson", cohort.TISSUE)]
    assert len({file.casefold() for file in files}) == 3 * 12
    assert table.name[table.path == "blank.tif"].tolist() == ["blank"]
    assert table.name.map(len).max() < 100 and table.name.map(str.isascii).all()
    alike = table[table.path.isin(["b.svs", "b.tif"])]
    cohort.embed_slides(vlm, folder, alike, tmp_path / "out", mpp=MPP, workers=0)
    coords = [read_features(tmp_path / "out" / f"{name}.h5").coords for name in alike.name]
    assert len(coords[0]) and coords[0].tolist() != coords[1].tolist()


def test_every_file_that_is_no_slide_is_left_out_by_name_and_reason(folder, tmp_path):
    (folder / "cut.svs").write_bytes((folder / "a.tif").read_bytes()[:100])
    for name in ("empty.tif", "picture.bmp", ".hidden", "two\nlines"):
        (folder / name).write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "lost").symlink_to(tmp_path / "nowhere")
    _, left_out = cohort.list_slides(folder)
    names = {"cut.svs", "empty.tif", "picture.bmp", "two�lines", "link", "lost", "slides.csv"}
    assert left_out.keys() == names and left_out["link"] == "a link to a folder is not followed"
    lines = cohort.left_out_lines(left_out, 3).splitlines()
    assert len(lines) == 4 and all(line.startswith("left out: ") for line in lines)
    assert lines[-1] == "left out: 4 files more"


def test_a_slide_of_several_files_is_one(tmp_path):
    for series in "12":
        for level in (4, 2):
            write_dicom(tmp_path / f"{series}-{level}.dcm", f"1.2.{series}", level)
    (tmp_path / "thumbnail.jpg").write_bytes(b"")
    table, left_out = cohort.list_slides(tmp_path)
    assert table.path.tolist() == ["1-2.dcm", "2-2.dcm"] and [*left_out] == ["thumbnail.jpg"]
    with cohort.open_listed(tmp_path, table.iloc[0]) as slide:
        assert slide.size == (1024, 1024) and len(slide.levels) == 2


def test_parts_of_a_mirax_or_hamamatsu_slide_are_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    for name in ("m/Slidedat.ini", "m/Data0000.dat", "h-0.jpg", "other.jpg", "m.mrxs"):
        (tmp_path / name).write_text("x")
    (tmp_path / "h.vms").write_text("[Virtual Microscope Specimen]\nImageFile=h-0.jpg\n")
    # What it takes to be a whole slide of these formats is hundreds of megabytes.
    monkeypatch.setattr(
        cohort.OpenSlide, "detect_format", lambda file: file.suffix in (".mrxs", ".vms")
    )
    table, left_out = cohort.list_slides(tmp_path)
    assert table.path.tolist() == ["h.vms", "m.mrxs"] and [*left_out] == ["other.jpg"]


def test_all_wrong_lines_of_a_table_of_micrometres_are_named_at_once(folder, tmp_path):
    listed = tmp_path / "mpp.csv"
    lines = ["path;mpp", "silent.tif;0,25", "./silent.tif;0,5", "gone.tif;1", "a.tif;word",
             "b.tif;nan", "../c/blank.tif;1e9", f"{folder}/a.tif;-1"]  # fmt: skip
    listed.write_text("\n".join(lines))
    with pytest.raises(ValueError) as refused:
        cohort.list_slides(folder, listed)
    for said in ("line 3: './silent.tif' is listed twice", "line 4: names 'gone.tif'",
                 "line 5: mpp: 'word' is no number", "line 6: mpp: 'nan' is no number",
                 "line 7: names", "line 7: mpp is 1e9", "line 8: names",
                 "line 8: mpp is -1"):  # fmt: skip
        assert said in str(refused.value), said
    listed.write_text("\n".join(lines[:2]))
    assert cohort.list_slides(folder, listed)[0].mpp.dropna().tolist() == [0.25]


def test_a_table_finds_a_slide_however_its_accents_are_written(folder):
    for path in ("é.tif", "e\u0301.tif"):
        (folder / "a.tif").rename(folder / path)
        for spelled in ("é.tif", "e\u0301.tif"):
            (folder / "slides.csv").write_text(f"path,label\n{spelled},T1\n")
            assert cohort.read_slide_table(CARD, folder).path.tolist() == [path]
        (folder / path).rename(folder / "a.tif")
    for path in ("../c/a.tif", str(folder / "a.tif")):
        (folder / "slides.csv").write_text(f"path,label\n{path},T1\n")
        with pytest.raises(ValueError, match="line 2: names the absent slide"):
            cohort.read_slide_table(CARD, folder)


def test_whatever_is_wrong_with_a_slide_stops_no_other_but_a_full_disk_does(
    vlm, folder, tmp_path, monkeypatch
):
    def fails(error):
        open_, table = cohort.open_listed, cohort.read_slide_table(CARD, folder)

        def opened(where, line):
            if line["name"] == "a":
                raise error
            return open_(where, line)

        with monkeypatch.context() as patched:
            patched.setattr(cohort, "open_listed", opened)
            return cohort.embed_slides(vlm, folder, table, tmp_path / "o", mpp=MPP, workers=0)

    for error in (OpenSlideError("cut"), PermissionError("no"), BrokenProcessPool("killed")):
        report = fails(error).set_index("name")
        assert report.error["a"] == str(error) and report.error["b"] == ""
    for error in (OSError(errno.ENOSPC, "full"), MemoryError()):
        with pytest.raises(type(error)):
            fails(error)


def test_an_interrupted_slide_leaves_no_features(vlm, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        cohort, "encode_images", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        embed(vlm, folder, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))


def test_tissue_that_was_corrected_by_hand_is_taken(vlm, folder, tmp_path):
    embed(vlm, folder, tmp_path / "found")
    drawn = json.loads((tmp_path / "found" / "a.tissue.geojson").read_text())
    ring = [[[100, 100], [400, 100], [400, 400], [100, 400], [100, 100]]]
    drawn["features"] = [drawn["features"][0]]
    drawn["features"][0]["geometry"] = {"type": "Polygon", "coordinates": ring}
    (tmp_path / "edited").mkdir()
    (tmp_path / "edited" / "a.tissue.geojson").write_text(json.dumps(drawn))
    embed(vlm, folder, tmp_path / "out", tissue=str(tmp_path / "edited"))
    coords = read_features(tmp_path / "out" / "a.h5").coords
    assert len(coords) and (coords >= 100 - 64).all() and (coords <= 400).all()
    same = [read_features(tmp_path / place / "b.h5").coords.tolist() for place in ("found", "out")]
    assert same[0] == same[1]


def test_which_tiles_are_relevant_is_known_of_synthetic_slides_alone(folder, tmp_path):
    table = pd.DataFrame({"name": ["slide00"], "label": [0]})
    tiles = pd.DataFrame({"slide": 0, "x": [100, 0], "y": [100, 0], "side": 64.0})
    assert cohort.relevant_tissue(CARD, folder, table, tiles) is None
    made = tmp_path / "made"
    synthetic_slides.write_drawn_slides(
        made, targets=["stroma"], others=["lymphocytes"], slides=1, islands=1, columns=1, side=160,
        irrelevant=0.0, mpp=[1.0], shift=0.5, seed=0,
    )  # fmt: skip
    card = SimpleNamespace(classes=[SimpleNamespace(folder="stroma")])
    assert cohort.relevant_tissue(card, made, table, tiles).tolist() == [True, False]


def test_tiles_are_read_in_their_order_whatever_slide_they_are_of(folder):
    table = cohort.read_slide_table(CARD, folder)
    tiles = pd.DataFrame({"slide": [1, 0, 1], "x": [40, 80, 200], "y": [60, 100, 240]}, [7, 3, 9])
    read = cohort.read_listed(folder, table, tiles, 16, 8.0, np.empty((3, 16, 16, 3), np.uint8))
    for picture, tile in zip(read, tiles.itertuples(index=False), strict=True):
        with cohort.open_listed(folder, table.iloc[tile.slide]) as slide:
            assert np.array_equal(picture, slide.read(tile.x, tile.y, 16, 8.0))


def test_tcga_rcc_is_a_folder_of_slides_and_a_table_of_their_projects(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "tcga_rcc"
    folder.mkdir(parents=True)
    lines = []
    for n, project in enumerate(["KIRC", "KICH", "KIRP"]):
        name = f"TCGA-B0-{5000 + n}-01Z-00-DX1.svs"
        (folder / name).write_bytes(b"")  # a table is read without opening a slide
        lines.append({"path": name, "label": project, "case": name[:12]})
    pd.DataFrame(lines).to_csv(folder / "slides.csv", index=False)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("OUTPUT_ROOT", str(tmp_path / "out"))
    card = cards.read_card("tcga_rcc")
    table = cohort.read_slide_table(card, prepare(card))
    assert [card.class_names[label] for label in table.label] == [
        "clear_cell", "chromophobe", "papillary",
    ]  # fmt: skip
    assert table.group.tolist() == ["TCGA-B0-5000", "TCGA-B0-5001", "TCGA-B0-5002"]
    assert len(card.other_tissue) == 10 and not card.drawn and card.needs == ["tcga_rcc"]
    assert cards.read_card("composed_slides").needs == ["lc25k", "crc5000_sample"]
