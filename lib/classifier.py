"""The user's own tiles: a folder of images in, a classifier and its predictions out."""

import json
import shutil
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from lib.artefacts import atomic
from lib.data.images import FORMATS
from lib.data.tiles import decode_tiles, digests
from lib.learning import networks, samplers
from lib.vlm.inference import VLM, embed_prompts, embed_tiles
from lib.vlm.loading import load_vlm

ABOUT = "classifier.json"


def list_tiles(folder: Path, *, by_folder: bool = False) -> pd.DataFrame:
    """Every image file below a folder, ordered by path; hidden files are left out.

    Columns: tile (int64; copies of one file share a number), path (below the folder), group (the
    subfolder with `by_folder`, else the path), digest (of the bytes). Raises ValueError naming the
    folder when it is absent or holds no image, or tiles outside any subfolder with `by_folder`.
    """
    if not folder.is_dir():
        raise ValueError(f"no such folder of tiles: {folder}")
    found = sorted(
        path
        for file in folder.rglob("*")
        if file.suffix.lower() in FORMATS and file.is_file()
        for path in [file.relative_to(folder).as_posix()]
        if not any(part.startswith(".") for part in path.split("/"))
    )
    if not found:
        raise ValueError(f"{folder} holds no image ({', '.join(FORMATS)})")
    for path in found:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ValueError(f"rename {path!r} in {folder}: its name is not UTF-8") from None
    table = pd.DataFrame({"path": found})
    table["group"] = table.path.str.rpartition("/")[0] if by_folder else table.path
    if by_folder and (table.group == "").any():
        outside = table.path[table.group == ""].iloc[0]
        raise ValueError(f"subfolders are to be groups, but {outside} lies in none")
    table["digest"] = digests(folder, table.path)
    table.insert(0, "tile", pd.factorize(table.digest)[0])
    return table


def once(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each tile number, in their order."""
    return table.drop_duplicates("tile").reset_index(drop=True)


def predictions(table: pd.DataFrame, probs: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """A row per file: path, group, class, confidence, then the probability of each class.

    probs: [tiles, C], by tile number. Of copies only the first has an empty `copy_of`.
    """
    of_file = probs[table.tile]
    first = table.groupby("tile").path.transform("first")
    said = pd.DataFrame(
        {
            "path": table.path,
            "group": table.group,
            "class": np.array(names, dtype=object)[of_file.argmax(1)],
            "confidence": of_file.max(1),
            "copy_of": first.where(first != table.path, ""),
        }
    )
    shares = pd.DataFrame(of_file, columns=[f"p({name})" for name in names])
    return pd.concat([said, shares], axis=1)


def per_group(said: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Of each group the number of its files, and the share that is predicted as each class."""
    shares = pd.crosstab(said.group, said["class"], normalize="index")
    shares = shares.reindex(columns=list(names), fill_value=0.0)
    shares.columns = [f"share({name})" for name in names]
    shares.insert(0, "files", said.groupby("group").size())
    return shares.reset_index()


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame | None]) -> None:
    """Write `<name>.csv` of each table; for None, remove that of an earlier run."""
    for name, table in tables.items():
        if table is None:
            (folder / f"{name}.csv").unlink(missing_ok=True)
            continue
        with atomic(folder / f"{name}.csv") as file:
            table.to_csv(file, index=False, float_format="%.4f")


def save_classifier(
    folder: Path, trained: Path, model: VLM, seed: int, classes: Mapping[str, Sequence[str]]
) -> None:
    """Keep two trained heads (`network_*.safetensors` in `trained`) with all that they need.

    The folder appears when complete. The VLM itself is kept by name and by a digest of its weights.
    """
    about = {
        "vlm": model.name,
        "vlm_seed": seed,
        "vlm_digest": weights_digest(model),
        "image_size": model.image_size,
        "networks": len(list(trained.glob("network_*.safetensors"))),
        "classes": {name: list(prompts) for name, prompts in classes.items()},
    }
    with atomic(folder) as temporary:
        temporary.mkdir()
        for file in sorted(trained.glob("network_*.safetensors")):
            shutil.copy(file, temporary)
        (temporary / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False))


def weights_digest(model: VLM) -> str:
    """Of the image encoder's weights: the same name can stand for another model elsewhere."""
    content = blake2b(digest_size=16)
    for member in model.members:
        for name, tensor in sorted(member.model.visual.state_dict().items()):
            content.update(name.encode())
            content.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return content.hexdigest()


def read_classifier(folder: Path) -> tuple[dict[str, Any], list[networks.Classifier]]:
    """What `save_classifier` wrote, networks in evaluation mode.

    Raises ValueError naming the folder when it holds no complete classifier.
    """
    files = sorted(folder.glob("network_*.safetensors"))
    if not (folder / ABOUT).is_file():
        raise ValueError(f"{folder} holds no classifier ({ABOUT} and network_*.safetensors)")
    about = json.loads((folder / ABOUT).read_text())
    if len(files) != about["networks"]:
        raise ValueError(f"{folder} holds {len(files)} networks of {about['networks']}")
    heads = []
    for file in files:
        weights = load_file(file)
        head = networks.frozen_head(weights["mean"], weights["std"], len(about["classes"]))
        head.load_state_dict(weights)
        heads.append(head.eval())
    return about, heads


def predict(classifier: Path, tiles: Path, *, by_folder: bool = False) -> pd.DataFrame:
    """Predictions for a folder of tiles by a classifier that `90_your_own_tiles` trained.

    classifier: the folder that holds classifier.json; tiles: see `list_tiles`. Returns a row per
    image file: path, group, class, confidence, copy_of, p(class) for each class. Raises ValueError
    naming what is wrong with either folder, unreadable images, or that the VLM of that name is not
    the one that the classifier was trained with.
    """
    about, heads = read_classifier(classifier)
    table = list_tiles(tiles, by_folder=by_folder)
    model = load_vlm(about["vlm"], seed=about["vlm_seed"])
    if weights_digest(model) != about["vlm_digest"]:
        raise ValueError(
            f"{classifier} was trained with another {about['vlm']}: its weights are not those here"
        )
    unique = once(table)
    store = decode_tiles(unique, tiles, "own", model.image_size)
    with TemporaryDirectory() as name, torch.inference_mode():
        text = embed_prompts(model, list(about["classes"].values()))
        embed_tiles(model, store, text, Path(name))
        read = samplers.plain_features(Path(name) / "unprojected.npy")
        probs = networks.predict(heads, read, unique.tile.values)
    return predictions(table, probs, list(about["classes"]))
