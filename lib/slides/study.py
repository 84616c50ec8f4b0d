"""VLM-CPL on slides: from features of their tiles to labels of slides, one setting at a time.

A setting says which tiles count: all tissue; those that open-set prompting leaves ("open set", as
published); or those that the networks leave, for which other tissue gives further classes ("open
set, learnt", ours), so that views and clusters confirm what is no target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.alarm import Alarm
from lib.artefacts import atomic, digest_of, locked, new_array
from lib.consensus import VARIANTS, FilterInputs, labels_by_rule
from lib.data.tiles import stored_size
from lib.labels import UNLABELLED, missing_classes_expected
from lib.learning import setups
from lib.learning.batches import TrainingTiles
from lib.learning.losses import HighConfidenceCrossSupervision, Supervised
from lib.learning.pooling import Bags, attention_setup, pool_slides, poolings, predict_slides
from lib.learning.samplers import PlainReader, mapped, plain_features
from lib.learning.vlm_cpl import TrainedVlmCpl, train_vlm_cpl
from lib.random_draws import SLIDE_TILES, tile_draws
from lib.slides.cohort import Cohort
from lib.slides.open_set import LEARNT, OPEN_SET, OTHER_TISSUE, relevant_tiles, target_probabilities
from lib.vlm.inference import VLM, class_probabilities, embed_prompts, embed_tiles, embed_views
from lib.vlm.prompts import PAPERS, fill

CHUNK = 8192  # tiles
FEW_SLIDES = 5  # with fewer to learn from, attention would only learn them by heart
TARGETS, EVERYTHING = "targets", "targets-and-other-tissue"  # sets of prompts


# --- prompts and votes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class CohortTiles:
    """The tiles in the tissue of a cohort, and what the prompts say of them.

    table: a line per tile, see `Cohort.gather_tiles`; targets, others: names of the C target
    classes and of K other tissues; text: [C + K, D], their embedded prompts, targets first; probs:
    [N, C + K], softmax over all prompts.
    """

    cohort: Cohort
    table: pd.DataFrame
    targets: Sequence[str]
    others: Sequence[str]
    text: torch.Tensor
    probs: np.ndarray

    @property
    def slide_of(self) -> np.ndarray:
        """The slide of each tile, int [N]."""
        return self.table.slide.values

    @property
    def relevant(self) -> np.ndarray:
        """Tiles whose best prompt is a target's, bool [N]."""
        return relevant_tiles(self.probs, len(self.targets))


@torch.inference_mode()
def prompted_tiles(
    vlm: VLM, cohort: Cohort, prompts: Mapping[str, Sequence[str]], others: Sequence[str] = ()
) -> CohortTiles:
    """Gather the tiles of a cohort and compare them with the prompts.

    Parameters
    ----------
    vlm, cohort : the model, and the slides that it has embedded
    prompts : one or more by target
    others : names of other tissue, put into the papers' words; `OTHER_TISSUE` by default

    """
    others = list(others or OTHER_TISSUE)
    filled = fill([[name] for name in others], [PAPERS])
    text = embed_prompts(vlm, [*map(list, prompts.values()), *filled])
    table, probs = cohort.gather_tiles(), []
    embeds = mapped(cohort.out / "image_embeds.npy")
    for start in range(0, len(embeds), CHUNK):
        chunk = torch.from_numpy(np.array(embeds[start : start + CHUNK], np.float32))
        probs.append(class_probabilities(vlm, chunk, text.cpu()).numpy())
    return CohortTiles(cohort, table, list(prompts), others, text, np.concatenate(probs))


@dataclass(frozen=True)
class VotedTiles:
    """Tiles that may be relevant in one setting, and the votes of views on some of them.

    names: of the classes that views vote for, targets first; rows: [n], which of the tiles of the
    cohort; drawn: [M], those that views voted on; places: [M], their places among the tiles of the
    folder `votes`; text: the set of prompts that they voted for, see `embed_views`.
    """

    setting: str
    names: Sequence[str]
    rows: np.ndarray
    drawn: np.ndarray
    places: np.ndarray
    votes: Path
    text: str


def vote_on(
    vlm: VLM,
    tiles: CohortTiles,
    settings: Sequence[str],
    *,
    max_tiles: int,
    views: Mapping[str, Any],
) -> dict[str, VotedTiles]:
    """Sample some of the tiles of each slide, read them again and let views vote.

    Views vote for a target, in the setting "open set, learnt" for other tissue as well. A tile is
    encoded once for all settings. Of features of others there are no views: networks learn from
    them as they are. Features and votes are kept beside those of the cohort, by model,
    tiles and settings: the folds of a run share them, and a second call finds them.

    Parameters
    ----------
    vlm, tiles : the model, and the tiles that it has embedded
    settings : `ALL_TISSUE`, `OPEN_SET`, `LEARNT` or some of them
    max_tiles : sampled of a slide, so that the views cost no more on a larger one
    views : n_views, hue, batch_size and seed

    """
    cohort, targets, seed = tiles.cohort, list(tiles.targets), views["seed"]
    rows = {s: np.flatnonzero(tiles.relevant | (s != OPEN_SET)) for s in settings}
    drawn = {s: sample_tiles(r, tiles.slide_of, max_tiles, seed=seed) for s, r in rows.items()}
    joined = np.unique(np.concatenate(list(drawn.values())))
    texts = {TARGETS: tiles.text[: len(targets)], EVERYTHING: tiles.text}
    used = {"rows": joined.tolist(), "mpp": cohort.mpp, **views, "targets": len(targets)}
    used["text"] = tiles.text.tolist()
    votes = cohort.out / f"votes-{digest_of(used, cohort.out / 'backbone_features.npy')}"
    with locked(votes.with_suffix(".lock")):
        if not votes.is_dir():
            # As all files of pixels: larger than the input, so that views are crops of it.
            side = stored_size(vlm.image_size)
            with atomic(votes) as made:
                made.mkdir()
                pixels = made / "tiles.npy"
                into = new_array(pixels, (len(joined), side, side, 3), np.uint8)
                cohort.read(tiles.table.loc[joined], side, into)
                embed_tiles(vlm, pixels, texts, made, batch_size=views["batch_size"])
                numbers = np.arange(len(joined))
                embed_views(vlm, pixels, numbers, texts, made, **views)
                pixels.unlink()
                if cohort.given:  # nobody has their encoder to show it views
                    plain = mapped(cohort.out / "backbone_features.npy")[joined]
                    np.save(made / "view_features.npy", plain[None])
                    for name in ("backbone_features", "mean_features"):
                        np.save(made / f"{name}.npy", plain)
    return {
        s: VotedTiles(
            s,
            [*targets, *tiles.others] if s == LEARNT else targets,
            rows[s],
            sampled,
            np.searchsorted(joined, sampled),
            votes,
            EVERYTHING if s == LEARNT else TARGETS,
        )
        for s, sampled in drawn.items()
    }


def sample_tiles(rows: np.ndarray, slide_of: np.ndarray, max_tiles: int, *, seed: int) -> Any:
    """Sample at most `max_tiles` of the rows [n] of each slide, sorted. slide_of: int [N]."""
    chance = tile_draws(rows, 1, seed, SLIDE_TILES)[:, 0]
    frame = pd.DataFrame({"row": rows, "slide": slide_of[rows], "chance": chance})
    sampled = frame.sort_values("chance", kind="stable").groupby("slide").head(max_tiles)
    return np.sort(sampled.row.to_numpy(np.int64))


# --- one fold ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SlideStudy:
    """What `label_slides` finds in one setting.

    probs: [S, C] by method and pooling; rows: [n], tiles that count, in the order of slides;
    tile_probs: [n, C], of these, by VLM-CPL; attention: of each slide, in the order of its tiles
    that count; kept: the share of sampled training tiles that the filters keep; alarms: what is
    suspicious about that, see `alarm.label_free_alarms`; few_slides: whether no attention was
    learnt, so that all tiles of a slide weigh the same.
    """

    probs: Mapping[tuple[str, str], np.ndarray]
    rows: np.ndarray
    tile_probs: np.ndarray
    attention: Sequence[np.ndarray]
    kept: float
    alarms: Sequence[Alarm]
    few_slides: bool = False

    def classes(self, class_names: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """Class of each slide by the mean of VLM-CPL, and the probabilities [S, C].

        A slide without a tile that counts has the class "", and so have all of them where no class
        has labels to learn from; their probabilities are NaN.
        """
        probs = self.probs["vlm-cpl", "mean"].copy()
        without = [a.text for a in self.alarms if a.name == "class without labels"]
        if all(any(text.startswith(f"{name}: ") for text in without) for name in class_names):
            probs[:] = np.nan
        probs[[not len(attention) for attention in self.attention]] = np.nan
        names = np.array([*class_names, ""], object)
        best = np.where(np.isnan(probs).any(1), -1, np.nan_to_num(probs).argmax(1))
        return names[best].tolist(), probs

    def of_tiles(self, n_tiles: int) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities [N, C] and attention [N] of all tiles, NaN where a tile does not count."""
        probs = np.full((n_tiles, self.tile_probs.shape[1]), np.nan)
        attention = np.full(n_tiles, np.nan)
        probs[self.rows], attention[self.rows] = self.tile_probs, np.concatenate(self.attention)
        return probs, attention


def label_slides(
    tiles: CohortTiles, voted: VotedTiles, settings: Mapping[str, Any], folder: Path, *, seed: int
) -> SlideStudy:
    """Label all slides of a cohort in one setting without a label, and once with true labels.

    Attention learns from `pseudo_labels_of_slides`; with fewer than `FEW_SLIDES` to learn from, the
    mean of the tiles stands in its place and full supervision is left out.

    Parameters
    ----------
    tiles : the table of their cohort has the columns learnt_from, bool, the slides to learn from,
        and label, seen by full supervision alone, which is left out where a slide has none (−1)
    settings : keep_ratio, threshold, cross_weight, n_steps and slide_steps
    folder : for the networks
    seed : of draws, clusters, networks and batches

    """
    slides, slide_of, n_targets = tiles.cohort.table, tiles.slide_of, len(tiles.targets)
    learnt_from, labels = slides.learnt_from.values, slides.label.values
    file, by_method = tiles.cohort.out / "backbone_features.npy", {}
    places = voted.places[learnt_from[slide_of[voted.drawn]]]
    trained, plain = _learn_tiles(voted, places, plain_features(file), settings, folder, seed=seed)
    if voted.setting != LEARNT:
        probs = target_probabilities(tiles.probs[voted.rows], n_targets)
        by_method["zero-shot"] = voted.rows, probs
    for method, probs in (("ce-kept", plain), ("vlm-cpl", trained.probs)):
        counts = relevant_tiles(probs, n_targets)
        by_method[method] = voted.rows[counts], target_probabilities(probs[counts], n_targets)
    found = {
        (method, name): pool_slides(probs, slide_of[rows], len(slides), pool)
        for method, (rows, probs) in by_method.items()
        for name, pool in poolings().items()
    }
    rows, tile_probs = by_method["vlm-cpl"]
    bags = Bags(file, tuple(rows[slide_of[rows] == slide] for slide in range(len(slides))))
    mean = found["vlm-cpl", "mean"]
    lengths = np.array([len(of_slide) for of_slide in bags.rows])
    few_slides = bool((learnt_from & (lengths > 0)).sum() < FEW_SLIDES)
    teachers = {"vlm-cpl-slides": pseudo_labels_of_slides(voted.setting, mean, learnt_from)}
    teachers |= {"full-supervision": labels} if (labels >= 0).all() else {}
    found["vlm-cpl-slides", "attention"] = mean
    attention = {"vlm-cpl-slides": [np.full(n, 1 / max(n, 1)) for n in lengths]}
    for method, of_slides in teachers.items() if not few_slides else ():
        found[method, "attention"], attention[method] = learn_slides(
            bags,
            np.where(learnt_from, of_slides, UNLABELLED),
            tiles.targets,
            folder / method,
            steps=settings["slide_steps"],
            seed=seed,
        )
    looked, kept = attention["vlm-cpl-slides"], float(trained.pseudo.kept.mean())
    return SlideStudy(found, rows, tile_probs, looked, kept, trained.alarms, few_slides)


def pseudo_labels_of_slides(setting: str, probs: np.ndarray, learnt_from: np.ndarray) -> np.ndarray:
    """Labels [S] that the attention learns, from the mean of the tile probabilities, [S, C].

    The most probable class (VLM-CPL). In our setting, "open set, learnt", the class that gains most
    on its mean over the slides to learn from, as for tiles: see `consensus.labels_by_rule`.
    learnt_from: bool [S].
    """
    rule = VARIANTS["ours" if setting == LEARNT else "published filters"].label_rule
    return labels_by_rule(rule, probs.argmax(1), probs, learnt_from)


def _learn_tiles(
    voted: VotedTiles,
    places: np.ndarray,
    reader: PlainReader,
    settings: Mapping[str, Any],
    folder: Path,
    *,
    seed: int,
) -> tuple[TrainedVlmCpl, np.ndarray]:
    """VLM-CPL in our variant, and plain training on what its filters keep: both on `voted.rows`.

    places: of the sampled tiles of training slides; reader: of all tiles. The second predicts
    [n, C].
    """
    votes, names = voted.votes, voted.names
    inputs = FilterInputs.load(
        votes, places, keep_ratio=settings["keep_ratio"], seed=seed, text=voted.text
    )
    setup = setups.frozen(votes, places, len(names), steps=settings["n_steps"], seed=seed)
    setup = replace(setup, reader=reader)
    objective = HighConfidenceCrossSupervision(settings["threshold"], settings["cross_weight"])
    out = folder / "vlm-cpl"
    trained = train_vlm_cpl(inputs, setup, names, objective=objective, tiles=voted.rows, folder=out)
    with missing_classes_expected():
        kept = TrainingTiles(places, trained.training_labels, names)
    plain = setups.fit_predict(Supervised(), kept, voted.rows, setup=setup, seed=seed)
    return trained, plain


def learn_slides(
    bags: Bags,
    labels: np.ndarray,
    class_names: Sequence[str],
    folder: Path,
    *,
    steps: int,
    seed: int,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Learn gated attention from labels of slides; probabilities and attention of all slides.

    labels: [S], pseudo or true, `UNLABELLED` for slides that are not learnt from; nor is a slide
    without a tile that counts. If there is no other, nothing is known of any slide.
    """
    slides = np.flatnonzero((labels != UNLABELLED) & [len(rows) > 0 for rows in bags.rows])
    if not len(slides):
        alike = np.full((len(bags.rows), len(class_names)), 1 / len(class_names))
        return alike, [np.zeros(len(rows)) for rows in bags.rows]
    setup = attention_setup(bags, slides, len(class_names), steps=steps, seed=seed)
    with missing_classes_expected():
        data = TrainingTiles(slides, labels[slides], class_names)
    training = setups.Training(setup, Supervised(), data, seed, folder)
    (trained,) = setups.train_all([training])
    return predict_slides(trained.networks, bags, np.arange(len(bags.rows)))
