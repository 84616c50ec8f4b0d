"""VLM-CPL on slides: from features of their tiles to labels of slides, one setting at a time.

A setting says which tiles count: all tissue; those that open-set prompting leaves ("open set", as
published); or those that the networks leave, for which every other tissue is a class too ("open
set, learnt", ours), so that views and clusters confirm what is no target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.alarm import Alarm
from lib.artefacts import atomic, digest_of, locked, new_array
from lib.consensus import VARIANTS, labels_by_rule
from lib.data.tiles import stored_size
from lib.labels import UNLABELLED
from lib.learning import setups
from lib.learning.losses import HighConfidenceCrossSupervision, Objective, Supervised
from lib.learning.networks import predict
from lib.learning.pooling import Bags, attention_setup, pool_slides, poolings, predict_slides
from lib.learning.samplers import mapped, plain_features
from lib.learning.trials import FilterInputs
from lib.random_draws import tile_draws
from lib.slides.cohort import read_listed
from lib.slides.features_file import read_features
from lib.slides.open_set import LEARNT, relevant_tiles, target_probabilities
from lib.vlm.inference import VLM, class_probabilities, embed_tiles, embed_views

CHUNK = 8192
DRAW_STREAM = 5_000_011  # keeps these draws apart from those of views


# --- features of a cohort ------------------------------------------------------------------------


def gather(table: pd.DataFrame, out: Path) -> pd.DataFrame:
    """Join the features of all slides: backbone_features.npy and image_embeds.npy in `out`.

    table: of `read_slide_table`; out: where `embed_slides` wrote. Returns a line per tile, in the
    order of the rows: slide, x, y (top left, pixels of level 0) and side (float, likewise). Raises
    ValueError naming slides that have no features, and a file that is not of `embed_slides`.
    """
    missing = [name for name in table.name if not (out / f"{name}.h5").is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(table)} slides have no features, the first: {missing[0]}. "
            "Run 02_slide_features again, or take their lines out of the table of slides"
        )
    read = [read_features(out / f"{name}.h5") for name in table.name]
    for name, file in zip(table.name, read, strict=True):
        if "image_embeds" not in file.extra or "patch_size_level0_exact" not in file.attributes:
            raise ValueError(f"{out / name}.h5 is of another program: remove it")
    for name, arrays in (
        ("backbone_features", [file.features for file in read]),
        ("image_embeds", [file.extra["image_embeds"] for file in read]),
    ):
        with atomic(out / f"{name}.npy") as temporary, temporary.open("wb") as opened:
            np.save(opened, np.concatenate(arrays))
    lines = [
        pd.DataFrame(file.coords, columns=["x", "y"]).assign(
            slide=slide, side=file.attributes["patch_size_level0_exact"]
        )
        for slide, file in zip(table.slide, read, strict=True)
    ]
    return pd.concat(lines, ignore_index=True)


@torch.inference_mode()
def tile_probabilities(vlm: VLM, out: Path, text: torch.Tensor) -> np.ndarray:
    """Softmax over the prompts of every tile, float32 [N, C + K]. text: from `embed_prompts`."""
    features = mapped(out / "image_embeds.npy")
    probs = [
        class_probabilities(
            vlm, torch.from_numpy(np.array(features[start : start + CHUNK], np.float32)), text.cpu()
        ).numpy()
        for start in range(0, len(features), CHUNK)
    ]
    return np.concatenate(probs)


@dataclass(frozen=True)
class VotedTiles:
    """Tiles that may be relevant in one setting, and the votes of views on some of them.

    names: of the classes that views vote for, targets first; rows: [n], which of the tiles of
    `gather`; drawn: [M], those that views voted on; places: [M], their places among the tiles of
    the folder `votes`; text: the set of prompts that they voted for, see `embed_views`.
    """

    setting: str
    names: Sequence[str]
    rows: np.ndarray
    drawn: np.ndarray
    places: np.ndarray
    votes: Path
    text: str


TARGETS, EVERYTHING = "targets", "targets-and-other-tissue"  # sets of prompts


def vote_on(
    rows: Mapping[str, np.ndarray],
    vlm: VLM,
    folder: Path,
    table: pd.DataFrame,
    tiles: pd.DataFrame,
    class_names: Sequence[str],
    other_names: Sequence[str],
    text: torch.Tensor,
    out: Path,
    *,
    mpp: float,
    most: int,
    views: Mapping[str, Any],
) -> dict[str, VotedTiles]:
    """Draw some of the tiles from every slide, read them again and let views vote.

    rows: of each setting, [n], tiles that may be relevant; folder, table: of `read_slide_table`;
    tiles, out: of `gather`; class_names, other_names: of the targets [C] and of other tissue [K];
    text: [C + K, D], of their prompts. Views vote for a target, in the setting "open set, learnt"
    for other tissue as well. most: tiles of a slide that are drawn, so that the cost of the views
    does not grow with its size; views: n_views, hue, batch_size and seed. Every tile is encoded
    once for all settings. Features and votes are kept in `out`, by model, tiles and settings: the
    folds of a run share them, and a second call finds them.
    """
    slide_of = tiles.slide.values
    drawn = {s: draw_tiles(own, slide_of, most, seed=views["seed"]) for s, own in rows.items()}
    joined = np.unique(np.concatenate(list(drawn.values())))
    texts = {TARGETS: text[: len(class_names)], EVERYTHING: text}
    used = {"rows": joined.tolist(), "mpp": mpp, **views, "targets": len(class_names)}
    used["text"] = text.tolist()
    votes = out / f"votes-{digest_of(used, out / 'backbone_features.npy')}"
    with locked(votes.with_suffix(".lock")):
        if not votes.is_dir():
            # as all decoded tiles: larger than the input, so that views are crops of it
            stored = stored_size(vlm.image_size)
            read_at = vlm.image_size * mpp / stored
            with atomic(votes) as made:
                made.mkdir()
                pixels_file = made / "tiles.npy"
                decoded = new_array(pixels_file, (len(joined), stored, stored, 3), np.uint8)
                read_listed(folder, table, tiles.loc[joined], stored, read_at, decoded)
                embed_tiles(vlm, pixels_file, texts, made, batch_size=views["batch_size"])
                numbers = np.arange(len(joined))
                embed_views(vlm, pixels_file, numbers, texts, made, progress=False, **views)
                pixels_file.unlink()
    return {
        setting: VotedTiles(
            setting,
            [*class_names, *other_names] if setting == LEARNT else class_names,
            rows[setting],
            own,
            np.searchsorted(joined, own),
            votes,
            EVERYTHING if setting == LEARNT else TARGETS,
        )
        for setting, own in drawn.items()
    }


def draw_tiles(rows: np.ndarray, slide_of: np.ndarray, most: int, *, seed: int) -> np.ndarray:
    """At most `most` of the rows of each slide, by chance: int64, sorted.

    rows: [n]; slide_of: int [N].
    """
    chance = tile_draws(rows, 1, seed, DRAW_STREAM)[:, 0]
    frame = pd.DataFrame({"row": rows, "slide": slide_of[rows], "chance": chance})
    drawn = frame.sort_values("chance", kind="stable").groupby("slide").head(most)
    return np.sort(drawn.row.to_numpy(np.int64))


# --- one fold ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SlideOutcome:
    """Probabilities [S, C] of slides by one way to learn and to pool, in one setting."""

    method: str
    pooling: str
    setting: str
    probs: np.ndarray


@dataclass(frozen=True)
class SlideStudy:
    """What `label_slides` finds in one setting.

    rows: [n], tiles that count, in the order of slides; tile_probs: [n, C], of these, by VLM-CPL;
    attention: of each slide, in the order of its tiles that count; kept: the share of drawn
    training tiles that the filters keep; alarms: what is suspicious about that, see
    `alarm.label_free_alarms`.
    """

    outcomes: Sequence[SlideOutcome]
    rows: np.ndarray
    tile_probs: np.ndarray
    attention: Sequence[np.ndarray]
    kept: float
    alarms: Sequence[Alarm]

    def probs(self, method: str, pooling: str) -> np.ndarray:
        """Probabilities [S, C] of slides by one of the outcomes."""
        (found,) = [o for o in self.outcomes if (o.method, o.pooling) == (method, pooling)]
        return found.probs

    def classes(self, class_names: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """Class of each slide by the mean of VLM-CPL, and the probabilities [S, C].

        A slide without a tile that counts has the class "", and so have all of them where no class
        has labels to learn from; their probabilities are NaN.
        """
        probs = self.probs("vlm-cpl", "mean").copy()
        without = [a.text for a in self.alarms if a.name == "class without labels"]
        if all(any(text.startswith(f"{name}: ") for text in without) for name in class_names):
            probs[:] = np.nan
        probs[[not len(attention) for attention in self.attention]] = np.nan
        best = np.nan_to_num(probs).argmax(1)
        return [
            "" if np.isnan(p[k]) else class_names[k] for k, p in zip(best, probs, strict=True)
        ], probs

    def of_tiles(self, n_tiles: int) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities [N, C] and attention [N] of all tiles, NaN where a tile does not count."""
        probs = np.full((n_tiles, self.tile_probs.shape[1]), np.nan)
        attention = np.full(n_tiles, np.nan)
        probs[self.rows], attention[self.rows] = self.tile_probs, np.concatenate(self.attention)
        return probs, attention


def label_slides(
    voted: VotedTiles,
    out: Path,
    slide_of: np.ndarray,
    zero_shot: np.ndarray,
    labels: np.ndarray | None,
    trained_on: np.ndarray,
    class_names: Sequence[str],
    settings: Mapping[str, Any],
    folder: Path,
    *,
    seed: int,
) -> SlideStudy:
    """Label all slides of a cohort in one setting, without a label, and once with true labels.

    out: of `gather`; slide_of: int [N]; zero_shot: [N, C], of the targets; labels: [S], true, seen
    by full supervision alone, which is left out without them; trained_on: bool [S], the slides to
    learn from; settings: see `learn_tiles`, and slide_steps; folder: for the networks. Attention
    learns from `pseudo_labels_of_slides`.
    """
    n_slides, n_targets = len(trained_on), len(class_names)
    learnt_from = trained_on[slide_of[voted.drawn]]
    evidence, kept, networks = learn_tiles(voted, learnt_from, settings, folder, seed=seed)
    features, every = plain_features(out / "backbone_features.npy"), voted.rows
    predicted = {method: predict(pair, features, every) for method, pair in networks.items()}
    alarms = evidence.alarms("ours", kept, voted.names, predicted["vlm-cpl"])
    by_method = {} if voted.setting == LEARNT else {"zero-shot": (every, zero_shot[every])}
    for method, probs in predicted.items():
        counts = relevant_tiles(probs, n_targets)
        by_method[method] = every[counts], target_probabilities(probs[counts], n_targets)
    outcomes = [
        SlideOutcome(method, name, voted.setting,
                     pool_slides(probs, slide_of[rows], n_slides, pool))
        for method, (rows, probs) in by_method.items()
        for name, pool in poolings().items()
    ]  # fmt: skip
    rows, tile_probs = by_method["vlm-cpl"]
    bags = Bags(out / "backbone_features.npy", rows_of_slides(rows, slide_of, n_slides))
    mean = pool_slides(tile_probs, slide_of[rows], n_slides)
    pseudo = pseudo_labels_of_slides(voted.setting, mean, trained_on)
    attentions = []
    taught_by = {"vlm-cpl-slides": pseudo}
    taught_by |= {} if labels is None else {"full-supervision": labels}
    for method, taught in taught_by.items():
        probs, attention = learn_slides(
            bags, np.flatnonzero(trained_on), taught, class_names, folder / method,
            steps=settings["slide_steps"], seed=seed,
        )  # fmt: skip
        outcomes.append(SlideOutcome(method, "attention", voted.setting, probs))
        attentions.append(attention)
    return SlideStudy(outcomes, rows, tile_probs, attentions[0], float(kept.mean()), alarms)


def pseudo_labels_of_slides(setting: str, probs: np.ndarray, trained_on: np.ndarray) -> np.ndarray:
    """Labels [S] that teach the attention, from the mean of the tile probabilities, [S, C].

    The most probable class (VLM-CPL). In our setting, "open set, learnt", the class that gains most
    on its mean over the slides to learn from, as for tiles: see `consensus.labels_by_rule`.
    trained_on: bool [S].
    """
    rule = VARIANTS["ours" if setting == LEARNT else "published filters"]["label_rule"]
    return labels_by_rule(rule, probs.argmax(1), probs, trained_on)


def rows_of_slides(rows: np.ndarray, slide_of: np.ndarray, n_slides: int) -> tuple[np.ndarray, ...]:
    """The rows of each slide. rows: [n], of tiles that count; slide_of: int [N]."""
    of_rows = slide_of[rows]
    return tuple(rows[of_rows == slide] for slide in range(n_slides))


def learn_tiles(
    voted: VotedTiles,
    learnt_from: np.ndarray,
    settings: Mapping[str, Any],
    folder: Path,
    *,
    seed: int,
) -> tuple[FilterInputs, np.ndarray, dict[str, list]]:
    """MVC, PFC in our setting and two ways to learn from what they keep.

    learnt_from: bool [M], the drawn tiles of training slides; settings: keep_ratio, threshold,
    cross_weight and n_steps; folder: for the networks. Returns what the filters saw, what they
    keep, bool [n], and the networks by method: "ce-kept" learns from the kept tiles alone,
    "vlm-cpl" by cross supervision from all.
    """
    votes, names, places = voted.votes, voted.names, voted.places[learnt_from]
    evidence = FilterInputs.load(
        votes, places, keep_ratio=settings["keep_ratio"], seed=seed, text=voted.text
    )
    labels = evidence.pseudo_labels("mvc+pfc", **VARIANTS["ours"])
    setup = setups.frozen(votes, places, len(names), steps=settings["n_steps"], seed=seed)
    objectives: dict[str, Objective] = {
        "ce-kept": Supervised(),
        "vlm-cpl": HighConfidenceCrossSupervision(settings["threshold"], settings["cross_weight"]),
    }
    networks = {
        method: setups.fit(objective, setup, places, labels, names, folder / method, seed=seed)
        for method, objective in objectives.items()
    }
    return evidence, labels != UNLABELLED, networks


def learn_slides(
    bags: Bags,
    slides: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    folder: Path,
    *,
    steps: int,
    seed: int,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Gated attention learnt from labels of slides; probabilities and attention of every slide.

    slides: those to train on; labels: [S], of all slides, pseudo labels, or true ones for full
    supervision. Slides without a tile that counts are left out of the training; if none has one,
    nothing is known of any slide.
    """
    slides = np.array([slide for slide in slides if len(bags.rows[slide])], int)
    if not len(slides):
        alike = np.full((len(bags.rows), len(class_names)), 1 / len(class_names))
        return alike, [np.zeros(len(rows)) for rows in bags.rows]
    setup = attention_setup(bags, slides, len(class_names), steps=steps, seed=seed)
    given = Supervised(), setup, slides, labels[slides], class_names
    networks = setups.fit(*given, folder, seed=seed)
    return predict_slides(networks, bags, np.arange(len(bags.rows)))
