"""The classifier of own tiles: save it, read it, predict other tiles and say if they are unlike.

What is heavy is imported where it is used, so that a notebook checks its inputs first.
"""

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from apps.own_tiles import unlike
from apps.own_tiles.results import predictions
from apps.own_tiles.tile_folder import TileFolder, list_tiles
from lib.artefacts import atomic, scratch_folder
from lib.data.cards import Seed
from lib.json_files import read_json

if TYPE_CHECKING:
    from lib.learning.networks import Classifier
    from lib.vlm.inference import VLM

DESCRIPTION = "classifier.json"
NETWORKS = "network_*.safetensors"


class Description(BaseModel):
    """What the description of a classifier has to hold, among more."""

    vlm: str
    vlm_seed: Seed
    vlm_digest: str
    n_views: int = Field(strict=True, ge=1, le=1000)
    networks: int = Field(strict=True, ge=1)
    classes: dict[str, list[str]] = Field(min_length=2)
    made_from: dict[str, Any]


def save_classifier(
    run: Path,
    unique: pd.DataFrame,
    *,
    model: "VLM",
    n_views: int,
    seed: int,
    classes: Mapping[str, Sequence[str]],
    origin: Mapping[str, Any],
) -> None:
    """Save trained heads with what they need to predict, and a sample of the training tiles.

    The folder, `run/classifier`, appears when it is complete.

    Parameters
    ----------
    run : folder with what `steps.embed` and `steps.learn` wrote
    unique : a row per tile
    model : the VLM, of which name, a digest of its weights and commits of the hub are saved
    n_views, seed : of each tile, whose mean the heads read
    classes : prompts of each class, and of other tissue, which `origin` names
    origin : of `results.made_from`

    """
    from lib.vlm.inference import weights_digest

    files = sorted((run / "hcs").glob(NETWORKS))
    description = {
        "vlm": model.name,
        "vlm_seed": seed,
        "n_views": n_views,
        "vlm_digest": weights_digest(model),
        "vlm_commits": model.commits,
        "image_size": model.image_size,
        "networks": len(files),
        "classes": {name: list(prompts) for name, prompts in classes.items()},
        "made_from": dict(origin),
    }
    with atomic(run / "classifier") as temporary:
        temporary.mkdir()
        for file in files:
            shutil.copy(file, temporary)
        unlike.save_sample(run, unique, temporary, seed=seed)
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False))


def read_classifier(folder: Path) -> tuple[dict[str, Any], list["Classifier"]]:
    """Read the description and the heads that `save_classifier` wrote, in evaluation mode.

    Raises ValueError naming the folder when it holds no complete classifier.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from lib.learning.networks import frozen_head

    name, heads = DESCRIPTION, []
    try:
        description = read_json(folder / DESCRIPTION, "description")
        Description.model_validate(description)
        files = sorted(folder.glob(NETWORKS))
        if len(files) != description["networks"]:
            raise ValueError(f"{len(files)} networks of {description['networks']!r:.80}")
        for file in files:
            name = file.name
            weights = load_file(file)
            seen = weights["mean"], weights["std"], weights["basis"]
            head = frozen_head(*seen, len(description["classes"]))
            head.load_state_dict(weights)
            heads.append(head.eval())
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ValueError(
            f"{folder} holds no classifier of this project: {name}: {why[:200]}"
        ) from error
    return description, heads


def predict_tiles(
    folder: Path, tiles: TileFolder, model: "VLM", *, views: bool = True
) -> tuple[pd.DataFrame, TileFolder, str]:
    """Predict tiles with the classifier in a folder, whose VLM is loaded.

    views: read the mean of as many random views as the heads were taught with, or else each tile
    once as it is, which is as many times as fast. Returns the table of `predictions`, the tiles
    without those that cannot be decoded, and what `unlike.how_unlike` says of them.
    """
    import torch

    from lib.learning import networks, samplers
    from lib.vlm.inference import embed_prompts, embed_tiles, embed_views

    description, heads = read_classifier(folder)
    classes = description["classes"]
    tiles, pixels = tiles.decode("own", model.image_size)
    text, numbers = embed_prompts(model, list(classes.values())), tiles.unique.tile.values
    with scratch_folder() as scratch, torch.no_grad():
        if views:
            drawn = {"n_views": description["n_views"], "seed": description["vlm_seed"]}
            embed_views(model, pixels, numbers, text, scratch, **drawn)
        else:
            embed_tiles(model, pixels, text, scratch)
        features = scratch / f"{unlike.FEATURES[views]}.npy"
        probs = networks.predict(heads, samplers.plain_features(features), numbers)
        sentence = unlike.how_unlike(folder, heads, features, tiles.unique)
    others = description["made_from"].get("other_tissue", ())
    return predictions(tiles.table, probs, list(classes), others), tiles, sentence


def predict(
    classifier: Path, folder: Path, *, by_folder: bool = False, views: bool = True
) -> pd.DataFrame:
    """Predict a folder of tiles with a classifier that `90_your_own_tiles` trained.

    classifier: the folder with classifier.json; folder, by_folder: see `list_tiles`; views: see
    `predict_tiles`. Returns the table of `predictions`, prints whether the tiles are unlike those
    that trained the classifier, and warns of what is left out. Raises ValueError naming what is
    wrong with either folder, and a VLM that is not the one that the classifier was trained with.
    """
    from lib.vlm.inference import weights_digest
    from lib.vlm.loading import load_vlm

    description, _ = read_classifier(classifier)
    tiles = list_tiles(folder, by_folder=by_folder)
    model = load_vlm(description["vlm"], seed=description["vlm_seed"])
    if weights_digest(model) != description["vlm_digest"]:
        raise ValueError(
            f"{classifier} was trained with another {description['vlm']}: "
            "its weights are not those here"
        )
    predicted, tiles, sentence = predict_tiles(classifier, tiles, model, views=views)
    print(sentence)
    if lines := tiles.left_out_lines():
        warnings.warn("\n".join(lines), stacklevel=2)
    return predicted
