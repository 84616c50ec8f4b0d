"""Source-only supervision: what the labelled tiles of the stand-in's source teach about a target.

No consensus and no target tile: a baseline for every run whose VLM has labelled source tiles.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lib import paths
from lib.artefacts import atomic, digest_of, locked, scratch_folder
from lib.data.sources import read_source
from lib.learning.batches import TrainingTiles
from lib.learning.losses import Supervised
from lib.learning.samplers import plain_features
from lib.learning.setups import fit_predict, frozen
from lib.vlm.cards import split_name
from lib.vlm.inference import VLM, embed_prompts, embed_tiles, embed_views

# Settings of a run that the result depends on.
SETTINGS = ("prompts", "input_size", "n_views", "hue", "batch_size", "n_steps")


def target_class(
    source_names: Sequence[str],
    source_text: np.ndarray,
    target_names: Sequence[str],
    target_text: np.ndarray,
) -> np.ndarray:
    """Target class of each source class, int64 [S]: of the same name, else of the nearest prompt.

    source_text: [S, D]; target_text: [T, D], L2-normalised.
    """
    nearest = (np.asarray(source_text) @ np.asarray(target_text).T).argmax(1)
    position = {name: c for c, name in enumerate(target_names)}
    return np.array([position.get(n, c) for n, c in zip(source_names, nearest, strict=True)])


def source_only_probabilities(
    model: VLM, run: Path, class_names: Sequence[str], settings: Mapping[str, Any], *, seed: int
) -> np.ndarray | None:
    """Heads trained on the labelled source tiles of a stand-in predict all tiles of a run.

    The heads, the steps and the views are those of the run (its settings); source classes take the
    names of target classes by `target_class`, with captions as the prompts of the source. run: run
    folder with the features of notebooks 10 and 11, where the result is kept for all folds. Returns
    float32 [N, C]; None, with a warning that says why, when the VLM is no stand-in or a target
    class is no source class.
    """
    if len(model.ensemble_members) > 1 or not model.name.startswith(paths.STAND_IN):
        warnings.warn(f"source-only is left out: {model.name} is no single stand-in", stacklevel=2)
        return None
    used = {name: settings[name] for name in SETTINGS} | {"seed": seed, "classes": [*class_names]}
    file = run / f"source_only_{digest_of(used, run / 'backbone_features.npy')}.npy"
    with locked(run / ".source_only.lock"):  # folds run side by side
        if not file.is_file():
            probs = _train_and_predict(model, run, class_names, settings, seed)
            if probs is None:
                return None
            with atomic(file) as temporary, temporary.open("wb") as opened:
                np.save(opened, probs)
    return np.load(file, allow_pickle=False)


def _train_and_predict(
    model: VLM, run: Path, class_names: Sequence[str], settings: Mapping[str, Any], seed: int
) -> np.ndarray | None:
    card, table, pixels_file = read_source(split_name(model.name)[0][0], settings["input_size"])
    captions = [list(c.captions) or list(c.prompts) for c in card.classes]
    text = embed_prompts(model, settings["prompts"])
    source_text = embed_prompts(model, captions)
    classes = target_class(
        card.class_names, source_text.cpu().numpy(), class_names, text.cpu().numpy()
    )
    absent = [name for c, name in enumerate(class_names) if c not in classes[table.label.unique()]]
    if absent:
        found = ", ".join(absent)
        warnings.warn(f"source-only is left out: {card.name} has no class {found}", stacklevel=3)
        return None
    data = TrainingTiles(np.arange(len(table)), classes[table.label.values], class_names)
    drawing = {name: settings[name] for name in ("n_views", "hue", "batch_size")}
    with scratch_folder() as folder:
        embed_tiles(model, pixels_file, text, folder)
        embed_views(model, pixels_file, data.tiles, text, folder, seed=seed, **drawing)
        setup = frozen(folder, data.tiles, len(class_names), steps=settings["n_steps"], seed=seed)
        setup = replace(setup, reader=plain_features(run / "mean_features.npy"))
        n_tiles = len(np.load(run / "backbone_features.npy", mmap_mode="r", allow_pickle=False))
        return fit_predict(Supervised(), data, np.arange(n_tiles), setup=setup, seed=seed)
