"""Label Studio: its configuration and tasks with predictions; its exports, read back as answers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import pandas as pd

from lib.artefacts import atomic
from lib.labelling.answers import NONE_OF_THESE, Answer
from lib.labelling.exchange import checked_class

CONTROL, IMAGE = "choice", "image"


def configuration(class_names: Sequence[str]) -> str:
    """The labelling interface: one image and one choice; keys 1 … 9, and 0 for none of these."""
    keys = [*map(str, range(1, 10))][: len(class_names)]
    keys += [""] * (len(class_names) - len(keys)) + ["0"]
    choices = [
        f"    <Choice value={quoteattr(name)}" + (f' hotkey="{key}"/>' if key else "/>")
        for name, key in zip([*class_names, NONE_OF_THESE], keys, strict=True)
    ]
    head = f'<View>\n  <Image name="{IMAGE}" value="$image"/>\n  <Choices name="{CONTROL}"'
    head += f' toName="{IMAGE}" choice="single-radio" showInline="true" required="true">'
    return "\n".join([head, *choices, "  </Choices>\n</View>\n"])


def tasks(
    unique: pd.DataFrame,
    probs: np.ndarray,
    class_names: Sequence[str],
    version: str,
    root: str = "",
) -> list[dict[str, Any]]:
    """A task with its prediction for each tile.

    unique: path and digest; probs: [N, C]; version: what the predictions are called; root: of the
    tiles below Label Studio's document root, whose local files must be served.
    """
    made = []
    for path, digest, row in zip(unique.path, unique.digest, probs, strict=True):
        below = f"{root}/{path}".lstrip("/")
        result = {
            "id": digest[:10],
            "from_name": CONTROL,
            "to_name": IMAGE,
            "type": "choices",
            "value": {"choices": [class_names[int(row.argmax())]]},
        }
        prediction = {"model_version": version, "score": float(row.max()), "result": [result]}
        data = {"image": f"/data/local-files/?d={quote(below)}", "tile": digest, "path": path}
        made.append({"data": data, "predictions": [prediction]})
    return made


def write_project(
    folder: Path,
    unique: pd.DataFrame,
    probs: np.ndarray,
    class_names: Sequence[str],
    version: str,
    root: str = "",
) -> None:
    """`configuration.xml` and `tasks.json`, for a new project; see `tasks`."""
    with atomic(folder) as temporary:
        temporary.mkdir()
        made = tasks(unique, probs, class_names, version, root)
        (temporary / "configuration.xml").write_text(configuration(class_names), encoding="utf-8")
        text = json.dumps(made, ensure_ascii=False, indent=1, allow_nan=False)
        (temporary / "tasks.json").write_text(text, encoding="utf-8")


def read_export(
    file: Path, class_names: Sequence[str], digests: Sequence[str]
) -> tuple[list[Answer], list[str]]:
    """Answers of an export, full (JSON) or JSON_MIN, and in words what was left out.

    Each annotator is a person, `label studio <id or e-mail>`. Cancelled annotations are left out,
    which a full export alone tells. Left out and named by task are also those without a choice or
    with an unknown class, and tasks of tiles that are not among digests. Raises ValueError for a
    file that is no such export.
    """
    try:
        exported = json.loads(file.read_text(encoding="utf-8"))
        assert isinstance(exported, list) and all(isinstance(task, dict) for task in exported)
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{file} is no export of Label Studio (JSON or JSON_MIN)") from error
    known, found, problems = set(digests), [], []
    for task in exported:
        where = f"{file}, task {task.get('id')}"
        tile = task.get("data", task).get("tile")
        if tile not in known:
            problems.append(f"{where}: no tile here has the digest {tile!r}")
            continue
        for annotation in _annotations(task):
            try:
                found.append(_answer(tile, annotation, class_names, where))
            except ValueError as error:
                problems.append(str(error))
    return sorted(found, key=lambda answer: answer.when), problems


def _annotations(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The annotations of a task of either format, in the words of the full one."""
    if "annotations" in task:
        for annotation in task["annotations"]:
            values = [r["value"] for r in annotation["result"] if r["from_name"] == CONTROL]
            choices = [choice for value in values for choice in value.get("choices", [])]
            yield annotation | {"choices": choices}
    else:
        choice = task.get(CONTROL, [])
        listed = choice.get("choices", []) if isinstance(choice, dict) else choice
        choices = listed if isinstance(listed, list) else [listed]
        yield {**task, "choices": choices, "completed_by": task.get("annotator")}


def _answer(
    tile: str, annotation: Mapping[str, Any], class_names: Sequence[str], where: str
) -> Answer:
    if annotation.get("was_cancelled"):
        raise ValueError(f"{where}: its annotation was cancelled")
    choices = annotation["choices"]
    if len(choices) != 1:
        raise ValueError(f"{where}: {len(choices)} choices, not one")
    label = checked_class(choices[0], class_names, where)
    by = annotation.get("completed_by")
    person = by.get("email", by.get("id")) if isinstance(by, dict) else by
    when = annotation.get("updated_at") or annotation.get("created_at") or ""
    seconds = annotation.get("lead_time")
    return Answer(tile, label, f"label studio {person}", when, seconds)
