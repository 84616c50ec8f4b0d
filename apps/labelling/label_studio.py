"""Label Studio: its configuration and tasks with predictions; its exports, read back as answers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import pandas as pd

from apps.labelling.answers import Answer, line_of
from apps.labelling.exchange import checked_class
from lib.artefacts import atomic
from lib.labels import NONE_OF_THESE

CONTROL, IMAGE = "choice", "image"
BROKEN = (AttributeError, LookupError, TypeError)  # raised by what has another form than a task


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
    root: str,
) -> list[dict[str, Any]]:
    """A task with its prediction for each tile.

    unique: path and digest; probs: [N, C]; version: what the predictions are called; root: the name
    of the tiles' folder, which must be a local storage of the project. The folder above it is Label
    Studio's document root, which cannot be a storage itself.
    """
    made = []
    for path, digest, row in zip(unique.path, unique.digest, probs, strict=True):
        result = {
            "id": digest[:10],
            "from_name": CONTROL,
            "to_name": IMAGE,
            "type": "choices",
            "value": {"choices": [class_names[int(row.argmax())]]},
        }
        prediction = {"model_version": version, "score": float(row.max()), "result": [result]}
        data = {
            "image": f"/data/local-files/?d={quote(f'{root}/{path}')}",
            "tile": digest,
            "path": path,
        }
        made.append({"data": data, "predictions": [prediction]})
    return made


def write_project(
    folder: Path,
    unique: pd.DataFrame,
    probs: np.ndarray,
    class_names: Sequence[str],
    version: str,
    root: str,
) -> None:
    """`configuration.xml` and `tasks.json`, for a new project; see `tasks`.

    Whatever else is in the folder, such as an export, stays there.
    """
    made = tasks(unique, probs, class_names, version, root)
    texts = {
        "configuration.xml": configuration(class_names),
        "tasks.json": json.dumps(made, ensure_ascii=False, indent=1, allow_nan=False),
    }
    for name, text in texts.items():
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def read_export(
    file: Path, class_names: Sequence[str], digests: Sequence[str]
) -> tuple[list[Answer], list[str]]:
    """Answers of an export, full (JSON) or JSON_MIN, and in words what was left out.

    Each annotator is a person, `label studio <id or e-mail>`. Cancelled annotations are left out,
    which a full export alone tells. Left out and named by task are also those without a choice or
    with an unknown class, tasks of tiles that are not among digests, and what is no task. Raises
    ValueError for a file that is no such export.
    """
    try:
        exported = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no export of Label Studio (JSON or JSON_MIN)") from error
    if not isinstance(exported, list) or not all(isinstance(task, dict) for task in exported):
        raise ValueError(f"{file} is no export of Label Studio (JSON or JSON_MIN)")
    known, read, problems = set(digests), [], []
    for task in exported:
        where = f"{file}, task {task.get('id')}"
        try:
            tile = task.get("data", task).get("tile")
            if tile not in known:
                raise ValueError(f"no tile here has the digest {tile!r}")
            annotations = list(_annotations(task))
        except (ValueError, *BROKEN) as error:
            problems.append(f"{where}: {_words(error)}")
            continue
        for annotation in annotations:
            try:
                read.append(_answer(tile, annotation, class_names))
            except (ValueError, *BROKEN) as error:
                problems.append(f"{where}: {_words(error)}")
    return sorted(read, key=lambda answer: answer.when), problems


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"it is no task ({error!r})"


def _annotations(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The annotations of a task of either format, in the words of the full one."""
    if "annotations" in task:
        for annotation in task["annotations"]:
            results = [r for r in annotation["result"] if r.get("from_name") == CONTROL]
            choices = [choice for r in results for choice in r["value"].get("choices", [])]
            yield annotation | {"choices": choices}
    else:
        choice = task.get(CONTROL, [])
        listed = choice.get("choices", []) if isinstance(choice, dict) else choice
        choices = listed if isinstance(listed, list) else [listed]
        yield {**task, "choices": choices, "completed_by": task.get("annotator")}


def _answer(tile: str, annotation: Mapping[str, Any], class_names: Sequence[str]) -> Answer:
    if annotation.get("was_cancelled"):
        raise ValueError("its annotation was cancelled")
    choices = annotation["choices"]
    if len(choices) != 1:
        raise ValueError(f"{len(choices)} choices, not one")
    label = checked_class(choices[0], class_names)
    by = annotation.get("completed_by")
    person = by.get("email", by.get("id")) if isinstance(by, dict) else by
    when = annotation.get("updated_at") or annotation.get("created_at") or ""
    answer = Answer(tile, label, f"label studio {person}", when, annotation.get("lead_time"))
    line_of(answer)  # raises for what is no answer
    return answer
