"""Names of folders lead nowhere else, and belong to one thing each."""

from pathlib import Path

import pytest

from lib import paths

NAMES = [
    "hf-hub:org/model",
    "hf-hub:org-model",
    "plip",
    "PLIP",
    "a b",
    "a-b",
    "a",
    "..",
    "../x",
    ".",
    "",
    "-",
    "ä",
    "脂肪",
    "x" * 300,
    "x" * 301,
    "it's {my} $dir",
    "a\nb",
    "a.",
    "CON",
    "plip+conch",
]


def test_different_names_give_different_single_files():
    files = [paths.file_name(name) for name in NAMES]
    assert len(set(files)) == len(NAMES)
    for file in files:
        assert Path(file).name == file and file not in ("", ".", "..") and len(file) <= 80


@pytest.mark.parametrize("name", ["plip", "stand-in-demo_other_lab", "biomedclip", "a.b_c-1"])
def test_a_plain_name_is_kept(name):
    assert paths.file_name(name) == name


def test_folders_that_read_alike_are_told_apart(tmp_path):
    names = ["batch 1", "batch-1", "other/batch 1", "x" * 250]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    results = {paths.own_folder("own", "plip", 0, tmp_path / name) for name in names}
    answers = {paths.answers_file(tmp_path / name) for name in names}
    assert len(results) == len(answers) == len(names)
    assert all(len(file.name.encode()) < 100 for file in results | answers)
    again = paths.own_folder("own", "plip", 0, tmp_path / "other" / ".." / "batch 1")
    assert again in results


def test_answers_under_the_name_that_two_folders_shared_are_taken_over(tmp_path, output_root):
    tiles = tmp_path / "batch 1"
    tiles.mkdir()
    labels = output_root / "data" / "labels"
    labels.mkdir(parents=True)
    shared = labels / f"{str(tiles.resolve()).strip('/').replace('/', '-').replace(' ', '-')}.jsonl"
    shared.write_text("answers")
    assert paths.answers_file(tiles).read_text() == "answers" and shared.exists()
    paths.answers_file(tiles).write_text("more")
    assert paths.answers_file(tiles).read_text() == "more"


@pytest.mark.parametrize(
    "dataset", ["../../x", "..", "", ".", "a/b", "/etc/passwd", "a\\b", "-x", "a\n", "~", "{x}"]
)
def test_a_dataset_is_a_name_and_no_path(dataset):
    for path_of in (paths.card_file, paths.params_file, paths.pixels_folder):
        with pytest.raises(ValueError, match="no name of a dataset"):
            path_of(dataset)
    with pytest.raises(ValueError, match="no name of a dataset"):
        paths.run_folder(dataset, "plip", 0)
