"""Label Studio: what it is given, what its exports bring back, and the way through a server."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from apps.labelling import answers, label_studio
from apps.own_tiles.tile_folder import list_tiles
from lib.labels import NONE_OF_THESE, UNANSWERED

CLASSES = ["stroma", 'fat & <b>"adipose"', "gland"]
TABLE = pd.DataFrame({"path": ["a.png", "deep/b.png", "c,'.png"], "digest": ["da", "db", "dc"]})


def said(given):
    return {(a.tile, a.who): a.label for a in given}


# Of the fields that a server of version 1.23 exports, those that are read and some that are not.
TIMES = {"created_at": "2026-11-26T11:20:31.904712Z", "updated_at": "2026-11-26T11:20:31.904738Z"}
ANNOTATION = {"id": 1, "completed_by": 1, "was_cancelled": False, "lead_time": 2.5} | TIMES


NAMED = {"from_name": "choice", "to_name": "image", "type": "choices"}


def full_task(number, tile, *annotations):
    listed = []
    for label, other in annotations:
        choices = [] if label is None else [label]
        result = NAMED | {"value": {"choices": choices}}
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
    (tmp_path / "ls").mkdir()
    (tmp_path / "ls" / "export.json").write_text("stays")
    label_studio.write_project(
        tmp_path / "ls", TABLE, probs, CLASSES, version="vlm-cpl", root="my tiles"
    )
    assert (tmp_path / "ls" / "export.json").read_text() == "stays"
    task = json.loads((tmp_path / "ls" / "tasks.json").read_text())[1]
    image = "/data/local-files/?d=my%20tiles/deep/b.png"
    assert task["data"] == {"image": image, "tile": "db", "path": "deep/b.png"}
    (prediction,) = task["predictions"]
    (result,) = prediction["result"]
    root = ET.fromstring((tmp_path / "ls" / "configuration.xml").read_text())
    assert result["from_name"] == root.find("Choices").get("name")
    assert result["to_name"] == root.find("Image").get("name")
    assert result["value"] == {"choices": ["stroma"]} and prediction["score"] == 0.6


def test_a_full_export_comes_back_with_every_annotator_but_nothing_cancelled(tmp_path):
    by_two = {"completed_by": {"id": 7, "email": "bob@example.org"}}
    tasks = [
        full_task(1, "da", (CLASSES[1], {}), (CLASSES[0], by_two)),
        full_task(2, "db", (NONE_OF_THESE, {})),
        full_task(3, "dc", (CLASSES[0], {"was_cancelled": True}), (None, {}), ("Gland", {})),
        full_task(4, "gone", (CLASSES[0], {})),
        full_task(5, "dc"),
    ]
    file = write(tmp_path / "full.json", tasks)
    given, problems = label_studio.read_export(file, CLASSES, TABLE.digest.tolist())
    by_one = {("da", "label studio 1"): CLASSES[1], ("db", "label studio 1"): None}
    assert said(given) == by_one | {("da", "label studio bob@example.org"): CLASSES[0]}
    assert {(a.when, a.seconds) for a in given} == {("2026-11-26T11:20:31.904738Z", 2.5)}
    expected = ["was cancelled", "0 choices", "the class 'Gland' is none", "the digest 'gone'"]
    for task, problem, text in zip([3, 3, 3, 4], expected, problems, strict=True):
        assert f"task {task}: " in text and problem in text
    assert answers.add_new(tmp_path / "a.jsonl", given) == 3
    assert answers.resolve(answers.read(tmp_path / "a.jsonl").lines, CLASSES)["da"] == UNANSWERED


def test_a_small_export_comes_back_the_same(tmp_path):
    tasks = []
    for n, (tile, label) in enumerate([("da", "gland"), ("db", NONE_OF_THESE), ("dc", "what")]):
        task = {"image": "a", "tile": tile, "path": "a", "id": n, "choice": label, "annotator": n}
        updated = {"updated_at": f"2026-11-26T11:20:3{9 - n}.904738Z"}
        tasks.append(task | TIMES | updated | {"annotation_id": n, "lead_time": 2.5})
    file = write(tmp_path / "min.json", tasks)
    given, problems = label_studio.read_export(file, CLASSES, TABLE.digest.tolist())
    assert said(given) == {("da", "label studio 0"): "gland", ("db", "label studio 1"): None}
    assert [a.tile for a in given] == ["db", "da"]  # by time, as the last line counts
    assert len(problems) == 1 and "task 2: the class 'what'" in problems[0]


def test_what_is_no_export_is_refused(tmp_path):
    for text in ("{}", "nonsense", "[1]", "[" * 100_000):
        file = tmp_path / "export.json"
        file.write_text(text)
        with pytest.raises(ValueError, match="is no export of Label Studio"):
            label_studio.read_export(file, CLASSES, [])


def test_a_broken_task_is_named_and_takes_no_other_with_it(tmp_path):
    whole = full_task(9, "dc", (CLASSES[2], {}))
    relation = {"type": "relation", "from_id": "a", "to_id": "b"}
    whole["annotations"][0]["result"].append(relation)
    tasks = [
        {"id": 1, "data": "da", "annotations": []},
        full_task(2, ["da"]),
        full_task(3, "da") | {"annotations": [{}]},
        full_task(4, "da") | {"annotations": 5},
        full_task(5, "da", (7, {}), (CLASSES[0], {"lead_time": 10**400})),
        full_task(6, "da", (CLASSES[0], {"updated_at": "today"})),
        {"id": 7, "tile": "db", "choice": None},
        whole,
    ]
    read, problems = label_studio.read_export(
        write(tmp_path / "e.json", tasks), CLASSES, TABLE.digest.tolist()
    )
    assert said(read) == {("dc", "label studio 1"): CLASSES[2]}
    named = [int(text.partition(", task ")[2].partition(":")[0]) for text in problems]
    assert named == [1, 2, 3, 4, 5, 5, 6, 7]


# --- a real server -------------------------------------------------------------------------------

EXECUTABLE = os.environ.get("LABEL_STUDIO", "")
TOKEN = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def server(tmp_path):
    """The function that calls a server, whose document root is tmp_path, as data/README.md says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(tmp_path),
        "LABEL_STUDIO_BASE_DATA_DIR": str(tmp_path / "server"),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
    }
    options = f"--no-browser --internal-host 127.0.0.1 --port {address.rpartition(':')[2]} "
    options += "--username a@example.org --password password --enable-legacy-api-token"
    line = [EXECUTABLE, "start", *options.split(), "--user-token", TOKEN]
    process = subprocess.Popen(line, env=os.environ | settings, start_new_session=True)

    def call(path, content=None):
        head = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"http://{address}{path}", data, head)
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read()

    try:
        deadline = time.monotonic() + 400
        while True:
            assert process.poll() is None and time.monotonic() < deadline
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                call("/health")
                break
            time.sleep(1)
        yield call
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not EXECUTABLE, reason="LABEL_STUDIO does not name a label-studio to start")
def test_a_server_shows_every_picture_and_gives_the_answers_back(tmp_path, server):
    tiles = tmp_path / "my tiles"
    (tiles / "deep").mkdir(parents=True)
    names = ["a b.png", "#1.png", "50%.png", "ü.png", "a&b.png", "a+b.png", "deep/c?d=e.png"]
    for n, name in enumerate(names):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tiles / name)
    unique = list_tiles(tiles).unique
    probs = np.eye(len(CLASSES))[np.arange(len(names)) % len(CLASSES)]
    label_studio.write_project(
        tmp_path / "ls", unique, probs, CLASSES, version="v", root=tiles.name
    )

    configuration = (tmp_path / "ls" / "configuration.xml").read_text()
    made = server("/api/projects/", {"title": "tiles", "label_config": configuration})
    project = json.loads(made)["id"]
    server("/api/storages/localfiles", {"project": project, "path": str(tiles)})
    server(f"/api/projects/{project}/import", json.loads((tmp_path / "ls/tasks.json").read_text()))
    listed = json.loads(server(f"/api/tasks?project={project}&page_size=100"))["tasks"]
    expected = {}
    for task, label in zip(listed, [*CLASSES, NONE_OF_THESE], strict=False):
        result = [NAMED | {"value": {"choices": [label]}}]
        server(f"/api/tasks/{task['id']}/annotations/", {"result": result, "lead_time": 1.5})
        expected[task["data"]["tile"], "label studio 1"] = None if label == NONE_OF_THESE else label
    assert len(listed) == len(names)
    for task in listed:
        picture = server(task["data"]["image"])
        assert picture == (tiles / task["data"]["path"]).read_bytes(), task["data"]["path"]
    for form in ("JSON", "JSON_MIN"):
        file = tmp_path / f"{form}.json"
        file.write_bytes(server(f"/api/projects/{project}/export?exportType={form}"))
        read, problems = label_studio.read_export(file, CLASSES, unique.digest.tolist())
        assert said(read) == expected and not problems, form
