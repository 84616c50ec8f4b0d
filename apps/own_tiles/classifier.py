"""Own tiles: list a folder of images, save a classifier and predict with it."""

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lib import paths
from lib.artefacts import atomic, digest_of, scratch_folder
from lib.data.images import FORMATS
from lib.data.tiles import decode_tiles, files_below, holds_results, read_digests
from lib.learning import networks, samplers
from lib.vlm.inference import VLM, embed_prompts, embed_tiles, weights_digest
from lib.vlm.loading import load_vlm

DESCRIPTION = "classifier.json"
UNREADABLE = (  # what other people's files raise in the place of a description and its heads
    json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, RuntimeError,
    SafetensorError,
)  # fmt: skip
MOST_LINES = 20  # of files that are left out, on the terminal


def list_tiles(folder: Path, *, by_folder: bool = False) -> pd.DataFrame:
    """Every image below a folder that can be read, ordered by path; the rest is `left_out`.

    Columns: tile (int64; copies of one file share a number), path (below the folder), group (the
    subfolder with `by_folder`, else the path), digest (of the bytes). Raises ValueError naming the
    folder when it does not exist, lies among results, holds no image that can be read, or with
    `by_folder` has tiles in no subfolder.
    """
    if not folder.is_dir():
        raise ValueError(f"no such folder of tiles: {folder}")
    here, drawn = folder.resolve(), paths.raw_folders()[0].resolve()
    if any(holds_results(parent) for parent in (here, *here.parents) if parent != drawn):
        raise ValueError(f"{folder} lies among results of this project: name a folder of tiles")
    reasons = files_below(folder)
    read = read_digests(folder, [path for path, why in reasons.items() if not why])
    table = pd.DataFrame({"path": [path for path, (_, why) in read.items() if not why]})
    if not len(table):
        reasons |= {path: why for path, (_, why) in read.items()}
        left = pd.DataFrame(reasons.items(), columns=["path", "why"])
        lines = [
            f"{folder} holds no image ({', '.join(FORMATS)})",
            *left_out_lines(folder, left, 0),
        ]
        raise ValueError("\n".join(lines))
    table["group"] = table.path.str.rpartition("/")[0] if by_folder else table.path
    if by_folder and (table.group == "").any():
        outside = table.path[table.group == ""].iloc[0]
        raise ValueError(f"subfolders are to be groups, but {outside} lies in none")
    table["digest"] = [read[path][0] for path in table.path]
    table.insert(0, "tile", pd.factorize(table.digest)[0])
    return table


def left_out(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Files below a folder that are not in its `list_tiles`, and folders not entered: path, why."""
    reasons = files_below(folder)
    rest = sorted(reasons.keys() - set(table.path))
    read = read_digests(folder, [path for path in rest if not reasons[path]])
    why = [reasons[path] or read[path][1] or "came later" for path in rest]
    return pd.DataFrame({"path": rest, "why": why})


def left_out_lines(folder: Path, left: pd.DataFrame, n_read: int) -> list[str]:
    """What is left out of how many files, in lines for the terminal; no name can break a line."""
    if not len(left):
        return []
    lines = [f"left out of {str(folder)!r}: {len(left)} of {n_read + len(left)} files"]
    shown = left[:MOST_LINES]
    lines += [f"left out: {path!r}: {why}" for path, why in zip(shown.path, shown.why, strict=True)]
    more = len(left) - len(shown)
    return lines + [f"left out: and {more} more"] * (more > 0)


def unique_tiles(table: pd.DataFrame) -> pd.DataFrame:
    """The first row of each tile number, in order: the table without copies."""
    return table.drop_duplicates("tile").reset_index(drop=True)


def predictions(table: pd.DataFrame, probs: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """A row per file: path, group, class, confidence, copy_of, and p(class) of each class.

    table: from `list_tiles`; probs: [tiles, C], by tile number. `copy_of` names the first of equal
    files, and is empty for that one.
    """
    file_probs = probs[table.tile]
    first = table.groupby("tile").path.transform("first")
    predicted = pd.DataFrame(
        {
            "path": table.path,
            "group": table.group,
            "class": np.array(names, dtype=object)[file_probs.argmax(1)],
            "confidence": file_probs.max(1),
            "copy_of": first.where(first != table.path, ""),
        }
    )
    class_probs = pd.DataFrame(file_probs, columns=[f"p({name})" for name in names])
    return pd.concat([predicted, class_probs], axis=1)


def per_group(predicted: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A row per group: its number of files, and the share of them that each class has.

    predicted: from `predictions`. Columns: group, files, share(class) for each class.
    """
    shares = pd.crosstab(predicted.group, predicted["class"], normalize="index")
    shares = shares.reindex(columns=list(names), fill_value=0.0)
    shares.columns = [f"share({name})" for name in names]
    shares.insert(0, "files", predicted.groupby("group").size())
    return shares.reset_index()


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame | None]) -> None:
    """Write each table to `<name>.csv`; for None or no rows, remove that of an earlier run."""
    for name, table in tables.items():
        if table is None or not len(table):
            (folder / f"{name}.csv").unlink(missing_ok=True)
            continue
        with atomic(folder / f"{name}.csv") as file:
            table.to_csv(file, index=False, float_format="%.4f")


def made_from(unique: pd.DataFrame, labels: str, **settings: float) -> dict[str, Any]:
    """What decides a result besides the model and the words, to be known again.

    unique: from `unique_tiles`; labels: a file, or "". The tiles and that file as digests.
    """
    labelled = digest_of({}, Path(labels).expanduser()) if labels else ""
    files = unique[["path", "digest"]].values.tolist()
    return {"tiles": digest_of({"files": files}), "labels": labelled, **settings}


def save_classifier(
    folder: Path,
    trained: Path,
    model: VLM,
    seed: int,
    classes: Mapping[str, Sequence[str]],
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Save the trained heads (`network_*.safetensors` in `trained`) with what they need to predict.

    The folder appears when it is complete. Of the VLM the name and a digest of its weights are
    saved, not the weights. origin: of `made_from`.
    """
    description = {
        "vlm": model.name,
        "vlm_seed": seed,
        "vlm_digest": weights_digest(model),
        "image_size": model.image_size,
        "networks": len(list(trained.glob("network_*.safetensors"))),
        "classes": {name: list(prompts) for name, prompts in classes.items()},
        "made_from": dict(origin or {}),
    }
    with atomic(folder) as temporary:
        temporary.mkdir()
        for file in sorted(trained.glob("network_*.safetensors")):
            shutil.copy(file, temporary)
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False))


def read_classifier(folder: Path) -> tuple[dict[str, Any], list[networks.Classifier]]:
    """Description and heads that `save_classifier` wrote, the heads in evaluation mode.

    Raises ValueError naming the folder when it holds no complete classifier.
    """
    try:
        return _read_classifier(folder)
    except UNREADABLE as error:
        raise ValueError(f"{folder} holds no classifier of this project: {error!r}") from error


def _read_classifier(folder: Path) -> tuple[dict[str, Any], list[networks.Classifier]]:
    files = sorted(folder.glob("network_*.safetensors"))
    if not (folder / DESCRIPTION).is_file():
        raise ValueError(f"{folder} holds no classifier ({DESCRIPTION} and network_*.safetensors)")
    description = json.loads((folder / DESCRIPTION).read_text())
    if missing := {"vlm", "vlm_seed", "vlm_digest"} - description.keys():
        raise KeyError(*sorted(missing))
    if len(files) != description["networks"]:
        raise ValueError(f"{folder} holds {len(files)} networks of {description['networks']}")
    heads = []
    for file in files:
        weights = load_file(file)
        head = networks.frozen_head(weights["mean"], weights["std"], len(description["classes"]))
        head.load_state_dict(weights)
        heads.append(head.eval())
    return description, heads


def predict(classifier: Path, tiles: Path, *, by_folder: bool = False) -> pd.DataFrame:
    """Predict a folder of tiles with a classifier that `90_your_own_tiles` trained.

    classifier: the folder with classifier.json; tiles, by_folder: see `list_tiles`. Returns the
    table of `predictions`, and warns of what is left out. Raises ValueError naming what is wrong
    with either folder, and a VLM that is not the one that the classifier was trained with.
    """
    description, heads = read_classifier(classifier)
    table = list_tiles(tiles, by_folder=by_folder)
    if lines := left_out_lines(tiles, left_out(tiles, table), len(table)):
        warnings.warn("\n".join(lines), stacklevel=2)
    model = load_vlm(description["vlm"], seed=description["vlm_seed"])
    if weights_digest(model) != description["vlm_digest"]:
        raise ValueError(
            f"{classifier} was trained with another {description['vlm']}: "
            "its weights are not those here"
        )
    unique = unique_tiles(table)
    pixels_file = decode_tiles(unique, tiles, "own", model.image_size)
    with scratch_folder() as scratch, torch.inference_mode():
        text = embed_prompts(model, list(description["classes"].values()))
        embed_tiles(model, pixels_file, text, scratch)
        reader = samplers.plain_features(scratch / "backbone_features.npy")
        probs = networks.predict(heads, reader, unique.tile.values)
    return predictions(table, probs, list(description["classes"]))
