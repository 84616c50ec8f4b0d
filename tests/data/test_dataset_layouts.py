"""Every public dataset's layout, in miniature and in the samples beside the repository."""

import json
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
from matplotlib import pyplot
from miniatures import MAKERS, make

from data.prepare.datasets import missing_tiles, prepare
from lib import parameters, paths, runner
from lib.data import cards, splits, tiles

SIZE = 32  # pixels, of the model
# dataset: tiles, groups, tiles of the first class
HERE = {
    # nine and four tiles of an image, less the one that is glass and what is smaller than a tile
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


def test_every_tile_is_read_with_its_class_and_group_and_no_group_is_divided(miniature):
    card, table = miniature.card, miniature.table
    n, groups, n_first = HERE[card.name]
    assert (len(table), table.group.nunique()) == (n, groups)
    assert sorted(table.label.unique()) == list(range(len(card.classes)))
    assert n_first is None or (table.label == 0).sum() == n_first
    assert not table.path.str.contains(r"/\._|/label/|GLANDS|_mask", regex=True).any()
    assert set(table.part) == ({"train", "test"} if card.splits else {""})
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


@pytest.mark.slow
def test_the_notebook_of_tiles_and_splits_runs_on_it(miniature):
    matplotlib.use("Agg")
    dataset = miniature.card.name
    given = {"dataset": dataset, "vlm": "v", "seed": 0, "image_size": SIZE}
    execute("00_tiles_and_splits", given)
    table = pd.read_parquet(paths.run_folder(dataset, "v", 0) / "tiles.parquet")
    assert table.path.tolist() == miniature.table.path.tolist()


# --- lists and tables ----------------------------------------------------------------------------


def entry(**changes):
    """A change of the third entry of Chaoyang's list for training."""

    def change(folder):
        file = folder / "train.json"
        entries = json.loads(file.read_text())
        entries[2] |= {
            n: value(folder) if callable(value) else value for n, value in changes.items()
        }
        file.write_text(json.dumps(entries))

    return change


def first(split, prefix=""):
    return lambda folder: prefix + json.loads((folder / f"{split}.json").read_text())[0]["name"]


def without_adenoma(folder):
    entries = json.loads((folder / "test.json").read_text())
    (folder / "test.json").write_text(json.dumps([e for e in entries if e["label"] != 3]))


def one_name_twice(folder):
    where = folder / "lung_colon_image_set" / "colon_image_sets"
    shutil.copy(where / "colon_aca" / "colonca7.jpeg", where / "colon_n" / "colonca7.jpeg")


def rewritten(name, change):
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


GROUPS, NO_LIST = "lc25000_image_groups.csv", r"train\.json is no list of names and labels"
TWICE = "lungn1,lungn1.jpeg,lung_n,lung,8,28\n"
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
        ("chaoyang", rewritten("train.json", lambda _, content=content: content), NO_LIST)
        for content in ("", "{", '{"name": 1}', '["a"]', '[{"name": "train/a.JPG"}]')
    ),
    ("chaoyang", lambda folder: (folder / "test.json").unlink(), r"list .*test\.json is missing"),
    ("chaoyang", without_adenoma, r"'adenoma' has no tile in .*test\.json"),
    ("lc25000", one_name_twice, r"two tiles have 'colonca7\.jpeg'"),
    ("lc25000", rewritten(GROUPS, lambda rows: rows + TWICE), r"two rows have 'lungn1\.jpeg'"),
    (
        "lc25000",
        rewritten(GROUPS, lambda rows: "".join(rows.splitlines(keepends=True)[:-3])),
        r"gives no group to 2 tiles.*lungscc",
    ),
]


@pytest.mark.parametrize("dataset, change, message", FAULTS)
def test_what_is_wrong_in_a_list_or_table_is_named(tmp_path, dataset, change, message):
    folder = make(dataset, tmp_path)
    change(folder)
    with pytest.raises(ValueError, match=message):
        tiles.read_tile_table(cards.read_card(dataset), folder)
