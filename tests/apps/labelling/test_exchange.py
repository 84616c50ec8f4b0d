"""Answers to and from CSV and QuPath; the labelled set as an image folder."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from apps.labelling import answers, exchange
from apps.labelling.answers import Answer
from apps.slide_viewer.annotations import write_tiles_geojson
from lib import paths
from lib.labels import NONE_OF_THESE, REFUSED, UNANSWERED, UNLABELLED

CLASSES = ["stroma", 'fat & <b>"adipose"', "gland"]
TABLE = pd.DataFrame({"path": ["a.png", "deep/b.png", "c,'.png"], "digest": ["da", "db", "dc"]})
GIVEN = [
    Answer("da", CLASSES[1], "anna", "2026-01-01T10:00:00+00:00", 2.0, True),
    Answer("db", None, "anna", "2026-01-01T10:01:00+00:00", 3.0),
    Answer("da", CLASSES[0], "bob", "2026-01-02T10:01:00+00:00", 3.5),
    Answer("dc", None, "bob", "2026-01-02T10:02:00+00:00", 3.5, action="skip"),
    Answer("gone", CLASSES[2], "bob", "2026-01-02T10:02:00+00:00", 3.5),
]


@pytest.fixture
def lines(tmp_path):
    answers.append(tmp_path / "answers.jsonl", GIVEN)
    return answers.read(tmp_path / "answers.jsonl").lines


def said(given):
    return {(a.tile, a.who): a.label for a in given}


# --- CSV -----------------------------------------------------------------------------------------


def test_a_csv_comes_back_as_it_went(tmp_path, lines):
    file = tmp_path / "labels.csv"
    exchange.write_csv(file, lines[lines.tile != "gone"], TABLE)
    again, problems = exchange.read_csv(file, TABLE, CLASSES)
    assert not problems
    expected = [a for a in GIVEN if a.action == "label" and a.tile != "gone"]
    assert said(again) == said(expected)
    assert [(a.when, a.seconds) for a in again] == [(a.when, a.seconds) for a in expected]
    assert answers.add_new(tmp_path / "answers.jsonl", again) == 0


def test_a_plain_csv_needs_path_and_label(tmp_path):
    file = tmp_path / "plain.csv"
    file.write_text(f'path,label\na.png,gland\ndeep/b.png,\n"c,\'.png",{NONE_OF_THESE}\n')
    expected = {("da", "csv"): "gland", ("dc", "csv"): None}
    assert said(exchange.read_csv(file, TABLE, CLASSES)[0]) == expected


BAD = {
    "path,label\na.png,gland\nz.png,gland\n": r"line 3: there is no tile called 'z\.png'",
    "path,label\n~/a.png,gland\n": r"line 2: there is no tile called '~/a\.png'",
    "path,label\na.png,Gland\n": "line 2: the class 'Gland' is none of",
    "path,label\na.png,gland\na.png,stroma\n": "line 3: csv gives this tile two classes.*line 2",
    "path,label,seconds\na.png,gland,soon\n": "line 2: seconds: 'soon' is no number",
    "path,label,seconds\na.png,gland,inf\n": "line 2: seconds: 'inf' is no number",
    "path,label,seconds\na.png,gland,-2\n": r"line 2: seconds -2\.0: Input",
    "path,label,when\na.png,gland,1.2.2026\n": r"line 2: when '1\.2\.2026': .*isoformat",
    "path,label\nx,y\na.png,y\nz,gland\n": "line 2: there.*\n.*line 3: the class 'y'.*\n.*line 4",
    "path,label\na.png,gland,\n\na.png\n": "line 4: 1 cells, where the header has 2",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_line_of_a_csv_is_left_out_by_file_and_line_and_stops_no_other(tmp_path, text):
    file, columns = tmp_path / "bad.csv", text.partition("\n")[0].count(",")
    file.write_text(f"{text}deep/b.png,gland{',' * (columns - 1)}\n")
    read, problems = exchange.read_csv(file, TABLE, CLASSES)
    assert said(read)["db", "csv"] == "gland"
    assert re.search(BAD[text], "\n".join(problems))
    assert problems and all(problem.startswith(f"{file}, line ") for problem in problems)


def test_two_labels_of_one_person_for_a_tile_are_none(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("path,label\na.png,gland\na.png,stroma\na.png,gland\n")
    assert exchange.read_csv(file, TABLE, CLASSES)[0] == []


def test_classes_are_words_whatever_they_look_like(tmp_path):
    classes, file = ["0;1", "None", "True", "NA", "3/4/5", "Drüse"], tmp_path / "labels.CSV"
    table = pd.DataFrame({"path": [f"{n}.png" for n in range(6)], "digest": list("abcdef")})
    rows = zip(table.path, [*classes[:5], "Dru\u0308se"], strict=True)
    file.write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    labels, problems = exchange.read_labels(file, table, classes)
    assert labels == dict(zip("abcdef", range(6), strict=True)) and not problems


def test_tiles_are_found_by_any_spelling_of_their_path_and_copies_are_one_tile(tmp_path):
    file = tmp_path / "labels.csv"
    table = pd.DataFrame({"path": ["d/u\u0308.png", "copy.png"], "digest": ["d", "d"]})
    file.write_text("path;label;seconds\n.\\d\\ü.png;gland;1,5\n")
    ((answer,), _) = exchange.read_csv(file, table, CLASSES)
    assert (answer.tile, answer.label, answer.seconds) == ("d", "gland", 1.5)
    file.write_text("path,label\nd/ü.png,gland\ncopy.png,stroma\n")
    (problem,) = exchange.read_csv(file, table, CLASSES)[1]
    assert "line 3: csv gives this tile two classes, the first in line 2" in problem
    twins = table.assign(path=["ü.png", "u\u0308.png"], digest=["d", "e"])
    file.write_text("path,label\nü.png,gland\n")
    (problem,) = exchange.read_csv(file, twins, CLASSES)[1]
    assert "line 2: several tiles are called 'ü.png'" in problem


# --- labels in place of pseudo labels ------------------------------------------------------------


def test_labels_of_a_file_overrule_pseudo_labels(tmp_path):
    file = tmp_path / "answers.jsonl"
    answers.append(file, [*GIVEN, Answer("dc", CLASSES[2], "anna")])
    given, problems = exchange.read_labels(file, TABLE, CLASSES)
    assert given == {"da": UNANSWERED, "db": REFUSED, "dc": 2}
    assert len(problems) == 1 and "line 5: no tile here has the digest 'gone'" in problems[0]
    before = np.array([1, 0, UNLABELLED, 1])
    after = exchange.overrule(before, ["da", "db", "dc", "other"], given)
    assert after.tolist() == [UNLABELLED, UNLABELLED, 2, 1] and after.dtype == np.int64
    assert before.tolist() == [1, 0, UNLABELLED, 1]
    assert exchange.overrule(before, ["da", "db", "dc", "other"], {}).tolist() == before.tolist()


def test_a_file_of_labels_that_is_none_is_refused(tmp_path):
    (tmp_path / "labels.txt").write_text("a.png gland")
    answers.append(tmp_path / "answers.jsonl", GIVEN[:1])
    for name, classes, problem in (
        ("gone.csv", CLASSES, "there is no file"),
        ("labels.txt", CLASSES, r"read from \.csv and \.jsonl"),
        ("answers.jsonl", ["x", "y"], "holds no answer for these tiles and classes; the first"),
    ):
        with pytest.raises(ValueError, match=problem):
            exchange.read_labels(tmp_path / name, TABLE, classes)


# --- QuPath --------------------------------------------------------------------------------------


NAMES = [*CLASSES, NONE_OF_THESE, "bubble", "other tissue"]


def qupath_file(file, classes, change=lambda features: None, names=NAMES):
    tiles = pd.DataFrame({"x": [0, 100, 200], "y": 0, "side": 100, "prob": [0.8, 0.7, 0.9]})
    tiles["class"] = [names[k] for k in classes]
    write_tiles_geojson(file, tiles, "slide", dict.fromkeys(names, "red"))
    made = json.loads(file.read_text())
    change(made["features"])
    file.write_text(json.dumps(made))
    return tiles[["x", "y"]].assign(digest=TABLE.digest)


def test_tiles_whose_class_was_changed_in_qupath_come_back(tmp_path):
    file = tmp_path / "slide.geojson"
    table = qupath_file(file, [0, 1, 2], reclassify([0, 2, 3]))
    changed, _ = exchange.read_qupath(file, table, CLASSES, "anna")
    assert said(changed) == {("db", "anna"): "gland", ("dc", "anna"): None}
    assert len(exchange.read_qupath(file, table, CLASSES, unchanged=True)[0]) == 3
    table = qupath_file(file, [0, 1, 0], lambda f: f[2]["properties"].pop("classification"))
    assert exchange.read_qupath(file, table, CLASSES) == ([], [])


def reclassify(classes):
    def change(features):
        for feature, k in zip(features, classes, strict=True):
            feature["properties"]["classification"]["name"] = NAMES[k]

    return change


def without(name):
    return lambda features: [feature["properties"].pop(name) for feature in features]


def test_what_nobody_touched_in_qupath_is_no_label(tmp_path):
    file = tmp_path / "slide.geojson"
    for classes in ([0, 1, 2], [2, 1, 0], [0, 1, 5]):  # not the most probable, and other tissue
        for change in (lambda features: None, without("measurements")):
            table = qupath_file(file, classes, change)
            assert exchange.read_qupath(file, table, CLASSES) == ([], [])
    table = qupath_file(file, [0, 1, 5], without("name"))
    none, (problem,) = exchange.read_qupath(file, table, CLASSES)
    assert none == [] and "does not say which class 3 tiles had" in problem
    taken, _ = exchange.read_qupath(file, table, CLASSES, unchanged=True)
    assert [answer.label for answer in taken] == [*CLASSES[:2], None]


def test_a_class_with_a_colon_comes_back_as_qupath_spells_it(tmp_path):
    file, names = tmp_path / "slide.geojson", ["gland:benign", "gland: malignant", "x"]
    table = qupath_file(file, [0, 1, 2], names=names)
    content = json.loads(file.read_text())
    for n, classification in enumerate(
        ({"names": ["gland", "benign"]}, {"name": "gland: benign"}, "gland: malignant")
    ):
        content["features"][n]["properties"]["classification"] = classification
    file.write_text(json.dumps(content["features"]))  # a list, as QuPath writes it too
    changed, _ = exchange.read_qupath(file, table, names)
    assert said(changed) == {("db", "qupath"): names[0], ("dc", "qupath"): names[1]}


def test_a_class_or_a_tile_that_qupath_made_up_is_left_out_by_name(tmp_path):
    file = tmp_path / "slide.geojson"
    table = qupath_file(file, [0, 1, 2], reclassify([1, 0, 4]))
    read, (problem,) = exchange.read_qupath(file, table, CLASSES)
    assert len(read) == 2
    assert problem.startswith(f"{file}: tile at (200, 0): the class 'bubble' is none of")
    read, problems = exchange.read_qupath(file, table[:1], CLASSES)
    assert len(read) == 1 and [p.rpartition("tile at ")[2] for p in problems] == [
        f"({x}, 0): there is no such tile" for x in (100, 200)
    ]
    table = qupath_file(file, [0, 1, 1], reclassify([1, 0, 0]))
    file.write_text(file.read_text().replace("200", "100"))
    assert len(exchange.read_qupath(file, table, CLASSES)[0]) == 2
    qupath_file(file, [0, 1, 1], reclassify([1, 0, 2]))
    file.write_text(file.read_text().replace("200", "100"))
    read, (problem,) = exchange.read_qupath(file, table, CLASSES)
    assert len(read) == 1 and "tile at (100, 0): qupath gives this tile two classes" in problem


# --- image folder --------------------------------------------------------------------------------


def test_labelled_tiles_become_an_image_folder_and_replace_none(tmp_path):
    for path in TABLE.path:
        (tmp_path / "tiles" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tiles" / path).write_bytes(path.encode())
    labels = dict(zip(TABLE.path, [CLASSES[1], CLASSES[1], NONE_OF_THESE], strict=True))
    for link in (False, True):
        target = tmp_path / f"set {link}"
        target.mkdir()
        assert exchange.write_image_folder(target, tmp_path / "tiles", labels, link=link) == 2
        files = {f.relative_to(target).as_posix(): f for f in target.rglob("*") if f.is_file()}
        fat = paths.file_name(CLASSES[1])
        assert set(files) == {f"{fat}/a.png", f"{fat}/deep/b.png"}
        for name, file in files.items():
            assert file.read_bytes() == name.partition("/")[2].encode()
            assert file.is_symlink() == link
        with pytest.raises(ValueError, match="is there already"):
            exchange.write_image_folder(target, tmp_path / "tiles", labels)
    with pytest.raises(ValueError, match="the same folder name"):
        exchange.write_image_folder(tmp_path / "x", tmp_path, {"a.png": "Fat", "c,'.png": "fat"})
    assert not (tmp_path / "x").exists()
