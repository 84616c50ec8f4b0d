"""Label Studio: its configuration and tasks with predictions; its exports, read back as answers."""

import json
import xml.etree.ElementTree as ET  # writes, reads nothing  # nosec B405
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from apps.labelling.answers import Answer, Problems, class_called
from lib.artefacts import atomic
from lib.json_files import read_json
from lib.labels import NONE_OF_THESE

CONTROL, IMAGE = "choice", "image"


def configuration(class_names: Sequence[str]) -> str:
    """Make the labelling interface: one image, one choice; keys 1 … 9, and 0 for none of these."""
    view = ET.Element("View")
    ET.SubElement(view, "Image", name=IMAGE, value="$image")
    options = {"choice": "single-radio", "showInline": "true", "required": "true"}
    choices = ET.SubElement(view, "Choices", {"name": CONTROL, "toName": IMAGE} | options)
    for k, name in enumerate(class_names, 1):
        ET.SubElement(choices, "Choice", {"value": name} | ({"hotkey": str(k)} if k < 10 else {}))
    ET.SubElement(choices, "Choice", value=NONE_OF_THESE, hotkey="0")
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")


def write_project(
    folder: Path,
    unique: pd.DataFrame,
    probs: np.ndarray,
    class_names: Sequence[str],
    *,
    version: str,
    root: str,
) -> None:
    """Write `configuration.xml` and, with a prediction for each tile, `tasks.json` of a project.

    Whatever else is in the folder, such as an export, stays there.

    Parameters
    ----------
    folder : where the two files go
    unique : path and digest of each tile
    probs : [N, C], or [N, C + 1] where other tissue is learnt
    class_names : C names
    version : what the predictions are called
    root : name of the tiles' folder, which must be a local storage of the project; the folder
        above it is Label Studio's document root, which cannot be a storage itself

    """
    tasks, choices = [], [*class_names, NONE_OF_THESE]
    for path, digest, row in zip(unique.path, unique.digest, probs, strict=True):
        result = {
            "id": digest[:10],
            "from_name": CONTROL,
            "to_name": IMAGE,
            "type": "choices",
            "value": {"choices": [choices[int(row.argmax())]]},
        }
        prediction = {"model_version": version, "score": float(row.max()), "result": [result]}
        image = f"/data/local-files/?d={quote(f'{root}/{path}')}"
        data = {"image": image, "tile": digest, "path": path}
        tasks.append({"data": data, "predictions": [prediction]})
    with atomic(folder / "configuration.xml") as temporary:
        temporary.write_text(configuration(class_names), encoding="utf-8")
    with atomic(folder / "tasks.json") as temporary:
        text = json.dumps(tasks, ensure_ascii=False, indent=1, allow_nan=False)
        temporary.write_text(text, encoding="utf-8")


def read_export(
    file: Path, class_names: Sequence[str], digests: Sequence[str]
) -> tuple[list[Answer], list[str]]:
    """Read answers from an export, full (JSON) or JSON_MIN, and in words what was left out.

    Each annotator is a person, `label studio <id or e-mail>`. Cancelled annotations are left out,
    which a full export alone tells. Left out and named by task are also those without a choice or
    with an unknown class, tasks of tiles that are not among digests, and what is no task. Raises
    ValueError for a file that is no such export.
    """
    exported = read_json(file, what := "export of Label Studio (JSON or JSON_MIN)")
    if not isinstance(exported, list) or not all(isinstance(t, dict) for t in exported):
        raise ValueError(f"{file} is no {what}")
    tiles, read, problems = set(digests), list[Answer](), Problems()
    for task in exported:
        where = f"{file}, task {task.get('id')}"
        annotations: list[dict[str, Any]] = []
        with problems.at(where):
            tile = task.get("data", task).get("tile")
            if tile not in tiles:
                raise ValueError(f"no tile here has the digest {tile!r}")
            annotations = _annotations(task)
        for annotation in annotations:
            with problems.at(where):
                read.append(_answer(tile, annotation, class_names))
    return sorted(read, key=lambda answer: answer.when), list(problems)


def _annotations(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the annotations of a task of either format, in the words of the full one."""
    if "annotations" not in task:
        choice = task.get(CONTROL, [])
        choices = choice.get("choices", []) if isinstance(choice, dict) else choice
        listed = choices if isinstance(choices, list) else [choices]
        return [{**task, "choices": listed, "completed_by": task.get("annotator")}]
    made = []
    for annotation in task["annotations"]:
        results = [r["value"] for r in annotation["result"] if r.get("from_name") == CONTROL]
        made.append(annotation | {"choices": [c for r in results for c in r.get("choices", [])]})
    return made


def _answer(tile: str, annotation: Mapping[str, Any], class_names: Sequence[str]) -> Answer:
    if annotation.get("was_cancelled"):
        raise ValueError("its annotation was cancelled")
    choices = annotation["choices"]
    if len(choices) != 1:
        raise ValueError(f"{len(choices)} choices, not one")
    by = annotation.get("completed_by")
    person = by.get("email", by.get("id")) if isinstance(by, dict) else by
    when = annotation.get("updated_at") or annotation.get("created_at") or ""
    label = class_called(choices[0], class_names)
    seconds = annotation.get("lead_time")
    return Answer(tile, label, f"label studio {person}", when=when, seconds=seconds)
