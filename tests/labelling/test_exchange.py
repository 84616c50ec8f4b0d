"""Answers to and from CSV, QuPath and Label Studio; the labelled set as an image folder."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from lib.labelling import answers, exchange, label_studio
from lib.labelling.answers import NONE_OF_THESE, Answer
from lib.labels import REFUSED, UNANSWERED, UNLABELLED
from lib.slides.annotations import tiles_geojson, write_geojson

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
    again = exchange.read_csv(file, TABLE, CLASSES)
    expected = [a for a in GIVEN if a.action == "label" and a.tile != "gone"]
    assert said(again) == said(expected)
    assert [(a.when, a.seconds) for a in again] == [(a.when, a.seconds) for a in expected]
    assert answers.add_new(tmp_path / "answers.jsonl", again) == 0


def test_a_plain_csv_needs_path_and_label(tmp_path):
    file = tmp_path / "plain.csv"
    file.write_text(f'path,label\na.png,gland\ndeep/b.png,\n"c,\'.png",{NONE_OF_THESE}\n')
    assert said(exchange.read_csv(file, TABLE, CLASSES)) == {
        ("da", "csv"): "gland",
        ("dc", "csv"): None,
    }


BAD = {
    "path,class\na.png,gland\n": "has no column 'label'",
    "path,label\na.png,gland\nz.png,gland\n": r"line 3: there is no tile 'z\.png'",
    "path,label\na.png,Gland\n": "line 2: the class 'Gland' is none of",
    "path,label\na.png,gland\na.png,stroma\n": r"line 3: csv gives 'a\.png' two labels",
}


def test_a_bad_csv_is_refused_by_file_and_line(tmp_path):
    for text, problem in BAD.items():
        file = tmp_path / "bad.csv"
        file.write_text(text)
        with pytest.raises(ValueError, match=problem) as refused:
            exchange.read_csv(file, TABLE, CLASSES)
        assert str(file) in str(refused.value)


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


def qupath_file(file, classes, change=lambda features: None):
    coords = np.array([[0, 0], [100, 0], [200, 0]])
    probs = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    names = [*CLASSES, NONE_OF_THESE, "bubble"]
    colours = ["red", "green", "blue", "grey", "black"]
    made = tiles_geojson("slide", coords, 100, np.array(classes), probs, names, colours)
    change(made["features"])
    write_geojson(file, made)
    return pd.DataFrame({"x": coords[:, 0], "y": coords[:, 1], "digest": TABLE.digest})


def test_tiles_whose_class_was_changed_in_qupath_come_back(tmp_path):
    file = tmp_path / "slide.geojson"
    table = qupath_file(file, [0, 2, 3])
    changed = exchange.read_qupath(file, table, CLASSES, "anna")
    assert said(changed) == {("db", "anna"): "gland", ("dc", "anna"): None}
    assert len(exchange.read_qupath(file, table, CLASSES, every=True)) == 3
    table = qupath_file(file, [0, 1, 0], lambda f: f[2]["properties"].pop("classification"))
    assert exchange.read_qupath(file, table, CLASSES) == []


def test_a_class_or_a_tile_that_qupath_made_up_is_named(tmp_path):
    file = tmp_path / "slide.geojson"
    table = qupath_file(file, [0, 1, 4])
    with pytest.raises(ValueError, match=r"tile at \(200, 0\): the class 'bubble' is none of"):
        exchange.read_qupath(file, table, CLASSES)
    with pytest.raises(ValueError, match=r"tile at \(200, 0\): there is no such tile"):
        exchange.read_qupath(file, table[:2], CLASSES)


# --- image folder --------------------------------------------------------------------------------


def test_labelled_tiles_become_an_image_folder(tmp_path):
    for path in TABLE.path:
        (tmp_path / "tiles" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tiles" / path).write_bytes(path.encode())
    labels = {"da": 1, "db": 1, "dc": REFUSED}
    for link in (False, True):
        target = tmp_path / f"set {link}"
        target.mkdir()
        (target / "old").write_text("of an earlier call")
        n = exchange.write_image_folder(
            target, tmp_path / "tiles", TABLE, labels, CLASSES, link=link
        )
        files = {f.relative_to(target).as_posix(): f for f in target.rglob("*") if f.is_file()}
        assert n == 2 and set(files) == {"fat-b-adipose/a.png", "fat-b-adipose/deep/b.png"}
        for name, file in files.items():
            assert file.read_bytes() == name.partition("/")[2].encode()
            assert file.is_symlink() == link
    with pytest.raises(ValueError, match="the same folder name"):
        exchange.write_image_folder(tmp_path / "x", tmp_path, TABLE, labels, ["a b", "a-b"])
    assert not (tmp_path / "x").exists()


# --- Label Studio --------------------------------------------------------------------------------

# Of the fields that a server of version 1.23 exports, those that are read and some that are not.
ANNOTATION = {
    "id": 1, "completed_by": 1, "was_cancelled": False, "ground_truth": False,
    "created_at": "2026-11-26T11:20:31.904712Z", "updated_at": "2026-11-26T11:20:31.904738Z",
    "lead_time": 2.5, "draft_created_at": None,
}  # fmt: skip


def full_task(number, tile, *annotations):
    listed = []
    for label, other in annotations:
        choices = [] if label is None else [label]
        result = {"from_name": "choice", "to_name": "image", "type": "choices",
                  "value": {"choices": choices}}  # fmt: skip
        listed.append(ANNOTATION | {"result": [result]} | other)
    data = {"image": f"/data/local-files/?d={tile}", "tile": tile, "path": tile}
    return {"id": number, "annotations": listed, "drafts": [], "data": data, "predictions": [1]}


def write(file, content):
    file.write_text(json.dumps(content))
    return file


def test_the_configuration_offers_every_class_and_none_of_these():
    root = ET.fromstring(label_studio.configuration(CLASSES))
    choices = [(c.get("value"), c.get("hotkey")) for c in root.iter("Choice")]
    assert choices == [*zip(CLASSES, "123", strict=True), (NONE_OF_THESE, "0")]
    assert root.find("Image").get("value") == "$image"
    many = ET.fromstring(label_studio.configuration([f"c{k}" for k in range(11)]))
    keys = [c.get("hotkey") for c in many.iter("Choice")]
    assert keys == [*"123456789", None, None, "0"]


def test_a_task_holds_the_prediction_as_the_configuration_names_it(tmp_path):
    probs = np.array([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    label_studio.write_project(tmp_path / "ls", TABLE, probs, CLASSES, "vlm-cpl", root="my tiles")
    task = json.loads((tmp_path / "ls" / "tasks.json").read_text())[1]
    assert task["data"] == {
        "image": "/data/local-files/?d=my%20tiles/deep/b.png", "tile": "db", "path": "deep/b.png",
    }  # fmt: skip
    (prediction,) = task["predictions"]
    (result,) = prediction["result"]
    root = ET.fromstring((tmp_path / "ls" / "configuration.xml").read_text())
    assert (result["from_name"], result["to_name"]) == (
        root.find("Choices").get("name"), root.find("Image").get("name"),
    )  # fmt: skip
    assert result["value"] == {"choices": ["stroma"]} and prediction["score"] == 0.6


def test_a_full_export_comes_back_with_every_annotator_but_nothing_cancelled(tmp_path):
    by_two = {"completed_by": {"id": 7, "email": "bob@example.org"}}
    file = write(tmp_path / "full.json", [
        full_task(1, "da", (CLASSES[1], {}), (CLASSES[0], by_two)),
        full_task(2, "db", (NONE_OF_THESE, {})),
        full_task(3, "dc", (CLASSES[0], {"was_cancelled": True}), (None, {}), ("Gland", {})),
        full_task(4, "gone", (CLASSES[0], {})),
        full_task(5, "dc"),
    ])  # fmt: skip
    given, problems = label_studio.read_export(file, CLASSES, TABLE.digest.tolist())
    assert said(given) == {
        ("da", "label studio 1"): CLASSES[1], ("da", "label studio bob@example.org"): CLASSES[0],
        ("db", "label studio 1"): None,
    }  # fmt: skip
    assert {(a.when, a.seconds) for a in given} == {("2026-11-26T11:20:31.904738Z", 2.5)}
    for task, problem in ((3, "was cancelled"), (3, "0 choices"), (3, "the class 'Gland' is none"),
                          (4, "no tile here has the digest 'gone'")):  # fmt: skip
        assert any(f"task {task}: " in text and problem in text for text in problems), problem
    assert len(problems) == 4
    assert answers.add_new(tmp_path / "a.jsonl", given) == 3
    assert answers.resolve(answers.read(tmp_path / "a.jsonl").lines, CLASSES)["da"] == UNANSWERED


def test_a_small_export_comes_back_the_same(tmp_path):
    tasks = [
        {"image": "/data/local-files/?d=a", "tile": tile, "path": "a", "id": n, "choice": label,
         "annotator": n, "annotation_id": n, "created_at": "2026-11-26T11:20:31.904712Z",
         "updated_at": f"2026-11-26T11:20:3{9 - n}.904738Z", "lead_time": 2.5}
        for n, (tile, label) in enumerate([("da", "gland"), ("db", NONE_OF_THESE), ("dc", "what")])
    ]  # fmt: skip
    file = write(tmp_path / "min.json", tasks)
    given, problems = label_studio.read_export(file, CLASSES, TABLE.digest.tolist())
    assert said(given) == {("da", "label studio 0"): "gland", ("db", "label studio 1"): None}
    assert [a.tile for a in given] == ["db", "da"]  # by time, as the last line counts
    assert len(problems) == 1 and "task 2: the class 'what'" in problems[0]


def test_what_is_no_export_is_refused(tmp_path):
    for text in ("{}", "nonsense", "[1]"):
        file = tmp_path / "export.json"
        file.write_text(text)
        with pytest.raises(ValueError, match="is no export of Label Studio"):
            label_studio.read_export(file, CLASSES, [])
