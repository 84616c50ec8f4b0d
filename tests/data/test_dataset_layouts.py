"""Every public dataset's layout, in miniature and in the samples beside the repository."""

import json
import os
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from cases import case
from matplotlib import pyplot
from miniatures import MAKERS, make

from data.prepare.datasets import missing_tiles, prepare, prepare_source
from lib import parameters, paths, runner
from lib.data import cards, splits, tiles
from lib.data.sources import read_source

SIZE = 32  # pixels, of the model
STAND_IN = "stand-in-smoke_other_lab"
# dataset: tiles, groups, tiles of the first class
HERE = {
    # nine and four tiles of an image, less the one that is glass
    "hph": (96, 12, None),
    "lc25000": (100, 50, 20),
    "nct_crc": (171, 171, 19),
    "digestpath": (72, 12, None),
    "crc5000": (160, 10, 20),
    "chaoyang": (104, 104, 26),
    "ebhi": (144, 12, 24),
}


@dataclass
class Miniature:
    """A dataset's miniature with its table, read once."""

    root: Path
    source: Path
    card: cards.Card
    folder: Path
    table: pd.DataFrame


@pytest.fixture(scope="module", params=MAKERS)
def made(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPUT_ROOT", str(root))
        patch.delenv("DATA_ROOT", raising=False)
        source = make(request.param, root / "data" / "raw")
        card = cards.read_card(request.param)
        folder = prepare(card)
        yield Miniature(root, source, card, folder, tiles.read_tile_table(card, folder))


@pytest.fixture
def miniature(made, monkeypatch):
    monkeypatch.setenv("OUTPUT_ROOT", str(made.root))
    monkeypatch.delenv("DATA_ROOT", raising=False)
    return made


# --- miniatures ----------------------------------------------------------------------------------


def test_every_tile_is_read_with_its_class_and_group(miniature):
    card, table = miniature.card, miniature.table
    n, groups, n_first = HERE[card.name]
    assert (len(table), table.group.nunique()) == (n, groups)
    assert sorted(table.label.unique()) == list(range(len(card.classes)))
    assert n_first is None or (table.label == 0).sum() == n_first
    assert not table.path.str.contains(r"/\._|/label/|GLANDS|_mask", regex=True).any()
    assert set(table.part) == ({"train", "test"} if card.splits else {""})


def test_no_group_is_divided_by_the_folds(miniature):
    card, table = miniature.card, miniature.table
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracked folds are those of other tiles
        folds = splits.assign_folds(card, table)
    assert (pd.Series(folds).groupby(table.group.to_numpy()).nunique() == 1).all()
    if card.splits:
        assert ((folds == 0) == (table.part == "test")).all()
    else:
        assert set(folds) == set(range(5))


def test_the_numbers_that_differ_from_the_published_ones_are_said(miniature):
    text = "\n".join(missing_tiles(miniature.card, miniature.table))
    expected = {
        "hph": "hph, TRAIN/IMAGES/*.png: 8 of 1,000 images\nhph, TEST/IMAGES/*.png: 4 of 500",
        "lc25000": "lc25000: 100 of 25,000 tiles; colon_n 20 of 5,000, colon_aca 20 of 5,000",
        "nct_crc": "nct_crc, train: 126 of 100,000 tiles\nnct_crc, test: 45 of 7,180 tiles;",
        "digestpath": "digestpath, tissue-train-neg/*.jpg: 12 of 410 images\n"
        "digestpath, tissue-train-pos-v1/*.jpg: 12 of 250 images",
        "crc5000": "crc5000: 160 of 5,000 tiles; tumour 20 of 625, stroma 20 of 625",
        "chaoyang": "chaoyang, train: 80 of 4,021 tiles; normal 20 of 1,111, serrated 20 of 842",
        "ebhi": "ebhi: 144 of 2,228 tiles; normal 24 of 76, polyp 24 of 474",
    }
    assert text.startswith(expected[miniature.card.name])


def test_nothing_is_said_of_a_complete_dataset(miniature):
    card, table = miniature.card, miniature.table
    if card.patching:
        counts = {"TRAIN": 8, "TEST": 4}
        images = [
            entry | {"count": counts.get(entry["images"].partition("/")[0], 12)}
            for entry in card.patching["images"]
        ]
        card = replace(card, patching=card.patching | {"images": images})
    else:
        names = pd.Series(card.class_names)[table.label].to_numpy()
        counts = {
            split: pd.Series(names[rows.index]).value_counts().to_dict()
            for split, rows in table.groupby("part")
        }
        card = replace(card, counts=counts if card.splits else counts[""])
    assert missing_tiles(card, table) == []


def execute(name, given):
    """Run the code cells of a notebook with those of the parameters that it declares."""
    notebook = paths.notebook_file(name)
    declared = parameters.declared_parameters(notebook)
    known = {k: v for k, v in given.items() if k in declared}
    namespace = {"__name__": "__main__"}
    for cell in runner.cells(notebook):
        if cell.cell_type == "code":
            exec(compile(cell.source, name, "exec"), namespace)
        if "parameters" in cell.metadata.get("tags", []):
            namespace |= parameters.resolve_parameters(notebook, known)
    pyplot.close("all")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The table of a stand-in's source, painted once for all miniatures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPUT_ROOT", str(tmp_path_factory.mktemp("elsewhere")))
        prepare_source(STAND_IN)
        return read_source(STAND_IN, SIZE)[1]


@pytest.mark.slow
def test_the_source_of_a_stand_in_shares_no_tile_with_it(miniature, elsewhere):
    assert len(elsewhere) and not set(elsewhere.digest) & set(miniature.table.digest)


@pytest.mark.slow
def test_the_notebook_of_tiles_and_splits_runs_on_it(miniature):
    matplotlib.use("Agg")
    dataset = miniature.card.name
    given = {"dataset": dataset, "vlm": STAND_IN, "seed": 0, "image_size": SIZE}
    execute("00_tiles_and_splits", given)
    table = pd.read_parquet(paths.run_folder(dataset, STAND_IN, 0) / "tiles.parquet")
    assert table.path.tolist() == miniature.table.path.tolist()


# --- lists and tables ----------------------------------------------------------------------------


def entry(**changes):
    """A change of the third entry of Chaoyang's list for training."""

    def change(folder):
        file = folder / "train.json"
        entries = json.loads(file.read_text())
        entries[2] |= {
            name: value(folder) if callable(value) else value for name, value in changes.items()
        }
        file.write_text(json.dumps(entries))

    return change


def text(file, content):
    return lambda folder: (folder / file).write_text(content)


def first(split, prefix=""):
    return lambda folder: prefix + json.loads((folder / f"{split}.json").read_text())[0]["name"]


def without_adenoma(folder):
    entries = json.loads((folder / "test.json").read_text())
    (folder / "test.json").write_text(json.dumps([e for e in entries if e["label"] != 3]))


def one_name_twice(folder):
    where = folder / "lung_colon_image_set" / "colon_image_sets"
    shutil.copy(where / "colon_aca" / "colonca7.jpeg", where / "colon_n" / "colonca7.jpeg")


def table(change):
    def write(folder):
        file = folder / "lc25000_image_groups.csv"
        file.write_text(change(file.read_text()))

    return write


FAULTS = [
    ("chaoyang", entry(name="train/gone.JPG"), r"train\.json.*train/gone\.JPG"),
    *(
        ("chaoyang", entry(label=label), r"train\.json.*train/.*unknown label")
        for label in (4, -1, "adenoma", None)
    ),
    *(
        ("chaoyang", entry(name=name), rf"train\.json: '{name}' leaves the folder")
        for name in ("../other/a.JPG", "train/../../a.JPG", "/etc/hosts")
    ),
    ("chaoyang", entry(name=first("train", "./")), r"train\.json names '\./.*' twice"),
    ("chaoyang", entry(name=first("test")), "both splits claim the tile"),
    *(
        ("chaoyang", text("train.json", content), r"train\.json is no list of names and labels")
        for content in ("", "{", '{"name": 1}', '["a"]', '[{"name": "train/a.JPG"}]')
    ),
    ("chaoyang", lambda folder: (folder / "test.json").unlink(), r"list .*test\.json is missing"),
    ("chaoyang", without_adenoma, r"'adenoma' has no tile in .*test\.json"),
    ("lc25000", one_name_twice, r"two tiles have 'colonca7\.jpeg'"),
    (
        "lc25000",
        table(lambda rows: rows + "lungn1,lungn1.jpeg,lung_n,lung,8,28\n"),
        r"two rows have 'lungn1\.jpeg'",
    ),
    (
        "lc25000",
        table(lambda rows: "".join(rows.splitlines(keepends=True)[:-3])),
        r"gives no group to 2 tiles.*lungscc",
    ),
]


@pytest.mark.parametrize("dataset, change, message", FAULTS)
def test_what_is_wrong_in_a_list_or_table_is_named(tmp_path, dataset, change, message):
    folder = make(dataset, tmp_path)
    change(folder)
    with pytest.raises(ValueError, match=message):
        tiles.read_tile_table(cards.read_card(dataset), folder)


# --- real samples --------------------------------------------------------------------------------

SHARED = Path(os.environ.get("DATA_ROOT") or "none")
needs_samples = pytest.mark.skipif(
    not (SHARED / "lc25000").is_dir(), reason="DATA_ROOT names no folder with the samples"
)


def sample(dataset, folder, monkeypatch):
    """Card, folder and table of a sample that lies in `folder/<its folder>`."""
    monkeypatch.setenv("DATA_ROOT", str(folder))
    card = cards.read_card(dataset)
    return card, prepare(card)


@needs_samples
def test_the_sample_of_crc5000_reads(tmp_path, monkeypatch):
    (tmp_path / "crc5000").symlink_to(SHARED / "crc5000_subset")
    card, folder = sample("crc5000", tmp_path, monkeypatch)
    table = tiles.read_tile_table(card, folder)
    assert np.bincount(table.label).tolist() == [30] * 8
    assert set(table.group) <= {f"CRC-Prim-HE-{n:02d}" for n in range(1, 11)}
    assert table[table.label == 7].group.nunique() == 2  # the class "empty"
    split = splits.divide(table.label.values, table.group.values)
    assert (pd.Series(split).groupby(table.group.to_numpy()).nunique() == 1).all()
    (line,) = missing_tiles(card, table)
    assert line.startswith("crc5000: 240 of 5,000 tiles; tumour 30 of 625,")


@needs_samples
def test_the_sample_of_nct_crc_lacks_its_train_folder(tmp_path, monkeypatch):
    (tmp_path / "nct_crc").symlink_to(SHARED / "crc_val_he_7k_subset")
    card, folder = sample("nct_crc", tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"nct_crc: the folder .*NCT-CRC-HE-100K is missing"):
        tiles.read_tile_table(card, folder)


@needs_samples
def test_the_sample_of_nct_crc_reads_in_both_splits(tmp_path, monkeypatch):
    (tmp_path / "nct_crc").mkdir()
    for name in ("NCT-CRC-HE-100K", "CRC-VAL-HE-7K"):
        (tmp_path / "nct_crc" / name).symlink_to(SHARED / "crc_val_he_7k_subset" / "CRC-VAL-HE-7K")
    card, folder = sample("nct_crc", tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"class 'background' has no tile.*BACK"):
        tiles.read_tile_table(card, folder)
    present = [c for c in card.classes if c.name not in ("background", "debris")]
    table = tiles.read_tile_table(replace(card, classes=present), folder)
    assert np.bincount(table.label).tolist() == [20] * 7
    assert table.part.value_counts().to_dict() == {"train": 70, "test": 70}


@needs_samples
def test_the_sample_of_ebhi_reads(monkeypatch):
    card, folder = sample("ebhi", SHARED, monkeypatch)
    table = tiles.read_tile_table(card, folder)
    assert np.bincount(table.label).tolist() == [68, 397, 493, 159, 48, 618]
    cases = pd.read_csv(folder / "cases.csv").set_index("path").case
    listed = cases[table.path.str.removeprefix("EBHI-SEG/")].to_numpy()
    assert pd.Series(listed).nunique() == 293 and table.group.nunique() == 277
    assert (table.groupby(listed).group.nunique() == 1).all()
    (line,) = missing_tiles(card, table)
    assert line.startswith("ebhi: 1,783 of 2,228 tiles; normal 68 of 76")


@needs_samples
def test_the_samples_of_settings_that_chose_nothing_are_whole_or_say_what_is_missing(monkeypatch):
    for dataset, counts, missing in (
        ("ebhi_polyp", [397, 618], "ebhi_polyp: 1,015 of 1,269 tiles; polyp 397 of 474"),
        ("lc25k_lung", [800] * 3, ""),
        ("crc_tissue", [30] * 5, ""),
    ):
        with case(dataset):
            card, folder = sample(dataset, SHARED, monkeypatch)
            table = tiles.read_tile_table(card, folder)
            assert np.bincount(table.label).tolist() == counts
            assert "".join(missing_tiles(card, table)).startswith(missing)
            assert bool(missing_tiles(card, table)) == bool(missing)
