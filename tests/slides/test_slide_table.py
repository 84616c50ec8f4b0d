"""The table of slides of a dataset, and the files of a slide."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lib.data import cards
from lib.slides.slide_table import read_slide_table, with_tissue

CLASSES = [SimpleNamespace(folder="T1"), SimpleNamespace(folder="T2")]
CARD = SimpleNamespace(name="c", slides={"table": "slides.csv"}, folder="c", classes=CLASSES)
LINES = [
    ("b.tif", "T2", "case 1"),
    ("a.tif", "T1", "case 1"),
    ("silent.tif", "T1", "case 2"),
    ("blank.tif", "T2", None),
]


@pytest.fixture
def folder(tmp_path):
    """A table is read without opening a slide."""
    folder = tmp_path / "c"
    folder.mkdir()
    table = pd.DataFrame(LINES, columns=["path", "label", "case"])
    for path in table.path:
        (folder / path).touch()
    table.to_csv(folder / "slides.csv", index=False)
    return folder


def test_the_table_is_in_the_order_of_the_paths_with_classes_and_cases(folder):
    table = read_slide_table(CARD, folder)
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
        (lambda t: t.assign(path="../c/a.tif"), "line 2: names the absent slide"),
        (lambda t: t.assign(fold="-1"), "line 2: '-1' is no fold"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "line 6: 'b.tif' is listed twice"),
        (None, r"slides\.csv is missing"),
    ],
)
def test_a_table_with_errors_is_refused_by_what_is_wrong(folder, change, message):
    file = folder / "slides.csv"
    change(pd.read_csv(file)).to_csv(file, index=False) if change else file.unlink()
    with pytest.raises(ValueError, match=message):
        read_slide_table(CARD, folder)


def test_a_table_finds_a_slide_however_its_accents_are_written(folder):
    for path in ("é.tif", "e\u0301.tif"):
        (folder / "a.tif").rename(folder / path)
        for spelled in ("é.tif", "e\u0301.tif"):
            (folder / "slides.csv").write_text(f"path,label\n{spelled},T1\n")
            assert read_slide_table(CARD, folder).path.tolist() == [path]
        (folder / path).rename(folder / "a.tif")


def test_a_folder_of_corrected_tissue_holds_that_of_the_slides_and_nothing_else(folder, tmp_path):
    table, edited = read_slide_table(CARD, folder), tmp_path / "edited"
    with pytest.raises(FileNotFoundError, match=r"no folder .* with corrected tissue"):
        with_tissue(table, str(edited))
    edited.mkdir()
    with pytest.raises(ValueError, match=r"holds no \*\.tissue\.geojson"):
        with_tissue(table, str(edited))
    for name in ("a", "typing-error"):
        (edited / f"{name}.tissue.geojson").write_text("[]")
    with pytest.raises(ValueError, match=r"edited, typing-error\.tissue\.geojson is of no slide"):
        with_tissue(table, str(edited))
    left_out = with_tissue(table, str(edited), ["typing-error.svs"])
    assert [Path(file).name for file in left_out.tissue] == ["a.tissue.geojson", "", "", ""]


def test_tcga_rcc_is_a_folder_of_slides_and_a_table_of_their_projects(tmp_path):
    rows = [(f"TCGA-B0-500{n}-01Z.svs", p) for n, p in enumerate(["KIRC", "KICH", "KIRP"])]
    table = pd.DataFrame(rows, columns=["path", "label"])
    for path in table.path:
        (tmp_path / path).touch()
    table.assign(case=table.path.str[:12]).to_csv(tmp_path / "slides.csv", index=False)
    card = cards.read_card("tcga_rcc")
    table = read_slide_table(card, tmp_path)
    labels = [card.class_names[label] for label in table.label]
    assert labels == ["clear_cell", "chromophobe", "papillary"]
    assert table.group.tolist() == ["TCGA-B0-5000", "TCGA-B0-5001", "TCGA-B0-5002"]
    assert len(card.other_tissue) == 10 and not card.drawn and card.needs == ["tcga_rcc"]
    assert cards.read_card("composed_slides").needs == ["lc25k", "crc5000_sample"]
