"""Trials of VLM-CPL and of other methods: the same networks learn from different labels.

A trial says which tiles are labelled and what is minimised; everything else, the setup, the seed
and the tiles to predict, is the same for all of them. Filters see no true label here.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.alarm import Alarm, label_free_alarms
from lib.artefacts import digest_of, locked
from lib.clusters import classes_by_lift, lift_clusters
from lib.consensus import (
    TIE_STREAM,
    VARIANTS,
    keep_lowest,
    label_by_consensus,
    tile_lift,
)
from lib.labels import UNLABELLED, missing_classes_expected
from lib.learning.baselines import (
    anchored_probabilities,
    centred_probabilities,
    prior_by_em,
    sinkhorn_probabilities,
    transductive_probabilities,
)
from lib.learning.losses import HighConfidenceCrossSupervision, Objective, Supervised
from lib.learning.setups import TrainingSetup, fit_predict, frozen
from lib.learning.trainer import TrainingTiles, labelled_and_not
from lib.random_draws import tile_draws
from lib.vlm.inference import VLM, embed_tiles, embed_views, has_views

PLAIN = {"mvc": "ce-mvc", "pfc": "ce-pfc", "mvc+pfc": "ce-kept"}  # filters → name of the method


@dataclass(frozen=True)
class FilterInputs:
    """What the filters look at, one row per training tile.

    tiles: [N] tile numbers; prompt_labels, confidence: [N], the best class of the zero-shot
    probabilities and its probability; votes: [V, N]; view_probs: [N, C]; features:
    {"projected": [N, D], "unprojected": [N, E]}; agree: bool [N], whether all members of an
    ensemble of VLMs give the same label.
    """

    tiles: np.ndarray
    prompt_labels: np.ndarray
    confidence: np.ndarray
    votes: np.ndarray
    view_probs: np.ndarray
    features: Mapping[str, np.ndarray]
    agree: np.ndarray
    keep_ratio: float
    seed: int

    @classmethod
    def load(
        cls, folder: Path, tiles: np.ndarray, *, keep_ratio: float, seed: int, text: str = ""
    ) -> "FilterInputs":
        """As `embed_tiles` and `embed_views` left it; text: one of several sets of prompts.

        tiles: [N], some of all tiles.
        """

        def load(name: str, of: str = "") -> np.ndarray:
            return np.load(folder / of / f"{name}.npy", mmap_mode="r", allow_pickle=False)

        probs = load("probs", text)[tiles]
        return cls(
            tiles=tiles,
            prompt_labels=probs.argmax(1),
            confidence=probs.max(1),
            votes=load("votes", text)[:, tiles],
            view_probs=load("view_probs", text)[tiles],
            features={
                "projected": load("image_embeds")[tiles],
                "unprojected": load("backbone_features")[tiles],
            },
            agree=load("agree", text)[tiles],
            keep_ratio=keep_ratio,
            seed=seed,
        )

    @cached_property
    def lift_clusters(self) -> tuple[np.ndarray, np.ndarray]:
        """Clusters [N] and lifts [K, C] of our setting, see `clusters.lift_clusters`."""
        return lift_clusters(
            self.features[VARIANTS["ours"]["cluster_on"]], self.view_probs,
            clusters_per_class=VARIANTS["ours"]["clusters_per_class"], seed=self.seed,
            tiles=self.tiles, candidates=self.agree,
        )  # fmt: skip

    def alarms(
        self, setting: str, kept: np.ndarray, class_names: Sequence[str], predicted: np.ndarray
    ) -> list[Alarm]:
        """What is suspicious about training in a setting, see `alarm.label_free_alarms`.

        kept: bool [N]; predicted: [M, C], probabilities of any tiles by the trained networks.
        """
        labels = self.pseudo_labels("", **VARIANTS[setting])
        return label_free_alarms(
            self.view_probs, labels, kept, *self.lift_clusters, class_names, predicted=predicted
        )

    def confident_labels(self) -> np.ndarray:
        """Prompt labels of the most confident tiles of every class, [N], `UNLABELLED` elsewhere.

        As many tiles of each class as multi-view consensus with the quota "class" keeps, but
        without a view. Ties go by chance, drawn per tile number.
        """
        chance = tile_draws(self.tiles, 1, self.seed, TIE_STREAM)[:, 0]
        ranking = np.lexsort([self.tiles, chance, -self.confidence])
        kept = keep_lowest(
            ranking, self.prompt_labels, keep_ratio=self.keep_ratio, quota="class",
            candidates=self.agree,
        )  # fmt: skip
        return np.where(kept, self.prompt_labels, UNLABELLED)

    def pseudo_labels(self, order: str, **rules: Any) -> np.ndarray:
        """Labels that the filters keep in that order, [N], see `consensus.label_by_consensus`.

        rules: those that differ from its defaults; votes and view_probs stand in for those of the
        run.
        """
        own: dict[str, Any] = {
            "votes": self.votes, "view_probs": self.view_probs, "keep_ratio": self.keep_ratio,
        }  # fmt: skip
        return label_by_consensus(
            order, features=self.features, prompt_labels=self.prompt_labels, tiles=self.tiles,
            candidates=self.agree, seed=self.seed, **(own | rules),
        )  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One training: by which method and setting, with which loss, from which labels.

    labels: [N], of all training tiles, `UNLABELLED` where none is learnt from; with `cross_all`
    every tile is unlabelled too, besides its label.
    """

    method: str
    objective: Objective
    labels: np.ndarray
    setting: str = ""
    source: str = "zero-shot"
    params: Mapping[str, Any] = field(default_factory=dict)
    cross_all: bool = False

    @property
    def kept(self) -> np.ndarray:
        """Which labels are learnt from, bool [N]."""
        return self.labels != UNLABELLED


@dataclass(frozen=True)
class Outcome:
    """Probabilities [M, C] of the tiles to predict; without a trial no labels were chosen.

    alarms: what is suspicious, where that was looked for.
    """

    method: str
    probs: np.ndarray
    setting: str = ""
    trial: Trial | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    alarms: Sequence[Alarm] | None = None


def noisy_label_trials(
    evidence: FilterInputs, objectives: Mapping[str, Objective], suspected: np.ndarray
) -> list[Trial]:
    """Trials that learn from the zero-shot labels without a filter of VLM-CPL.

    objectives: method → what it minimises, on all tiles; suspected: bool [N], tiles that confident
    learning leaves out.
    """
    labels = evidence.prompt_labels
    trusted = np.where(suspected, UNLABELLED, labels)
    trials = [Trial(method, loss, labels) for method, loss in objectives.items()]
    return [*trials, Trial("confident-learning", Supervised(), trusted)]


def filter_trials(evidence: FilterInputs) -> list[Trial]:
    """Plain training on what MVC, PFC or both keep, in each setting, and on the most confident.

    Beside MVC in our setting, "top-confidence" tells whether views are worth their time, and
    "ce-lift", from all labels by lift, what the filters add to our label rule.
    """
    by_filters = [
        Trial(
            method, Supervised(), evidence.pseudo_labels(order, **rules), setting=setting,
            params={"rules": rules},
        )
        for setting, rules in VARIANTS.items()
        for order, method in PLAIN.items()
    ]  # fmt: skip
    confident = Trial("top-confidence", Supervised(), evidence.confident_labels())
    by_lift = Trial("ce-lift", Supervised(), evidence.pseudo_labels("", label_rule="lift"))
    return [confident, by_lift, *by_filters]


def untrained_outcomes(
    model: VLM, folder: Path, text: Any, evidence: FilterInputs, tiles: np.ndarray
) -> list[Outcome]:
    """Methods without training: all tiles of a run are classified at once, `tiles` are returned.

    folder: run folder with features, probs and view_probs; model: one VLM, or an ensemble, whose
    members are centred one by one; text: [C, D] from `embed_prompts`. No label is seen. "sinkhorn"
    takes all classes to be equally frequent, "sinkhorn-clusters" as frequent as the lift clusters
    of the training tiles say.
    """
    features, probs, view_probs = (
        np.load(folder / f"{name}.npy", allow_pickle=False)
        for name in ("image_embeds", "probs", "view_probs")
    )
    prompts = np.asarray(text.cpu())
    sizes = np.cumsum(model.sizes or (prompts.shape[1],))[:-1]
    parts = zip(np.split(features, sizes, 1), np.split(prompts, sizes, 1), strict=True)
    centred = [
        centred_probabilities(*part, member.scale)
        for member, part in zip(model.members, parts, strict=True)
    ]
    clusters, lift = evidence.lift_clusters
    labels = classes_by_lift(lift)[clusters[clusters != UNLABELLED]]
    shares = np.bincount(labels, minlength=len(prompts)) / len(labels)
    classified = {
        "mean-of-views": view_probs,
        "lift": tile_lift(view_probs),
        "transductive": transductive_probabilities(features, probs),
        "stata": anchored_probabilities(features, prompts, probs),
        "centred": np.mean(centred, axis=0),
        "sinkhorn": sinkhorn_probabilities(probs),
        "sinkhorn-clusters": sinkhorn_probabilities(probs, shares),
        "prior-em": prior_by_em(probs)[1],
    }
    return [Outcome(method, every[tiles]) for method, every in classified.items()]


def full_supervision(truth: np.ndarray) -> Trial:
    """Plain training on the true labels of all tiles: the upper bound."""
    return Trial("full-supervision", Supervised(), truth, source="true")


def select_trials(trials: Sequence[Trial], only: str) -> list[Trial]:
    """The trials of some methods, by comma; all of them for "". Raises ValueError for others."""
    methods = {trial.method for trial in trials}
    wanted = set(filter(None, only.split(","))) or methods
    if not wanted <= methods:
        raise ValueError(f"unknown method in only={only!r}; there are {', '.join(sorted(methods))}")
    return [trial for trial in trials if trial.method in wanted]


def run_trials(
    trials: Sequence[Trial],
    train: pd.DataFrame,
    test: pd.DataFrame,
    class_names: Sequence[str],
    *,
    setup: TrainingSetup,
    seed: int,
) -> list[Outcome]:
    """Train each trial afresh and predict the test tiles.

    train: columns tile and label of the training tiles, whose labels are looked at for reports
    alone; test: column tile. Classes without a label are no warning here, as each trial would
    repeat it: `comparison.trials_table` counts them.
    """
    outcomes = []
    for trial in trials:
        started = time.perf_counter()
        make_data = labelled_and_not if trial.cross_all else TrainingTiles
        with missing_classes_expected():
            data = make_data(train.tile.values, trial.labels, class_names, train.label.values)
        probs = fit_predict(trial.objective, data, test.tile.values, setup=setup, seed=seed)
        seconds = time.perf_counter() - started
        outcomes.append(Outcome(trial.method, probs, trial.setting, trial, trial.params, seconds))
    return outcomes


# --- ablations -----------------------------------------------------------------------------------


def ablation_trials(
    grid: Sequence[Mapping[str, Any]],
    evidence: FilterInputs,
    vote: Callable[[int], tuple[np.ndarray, np.ndarray]],
) -> list[Trial]:
    """VLM-CPL with the rules of each line of a grid (`ablations.ablation_grid`).

    vote: number of views → votes [V, N] and view probabilities [N, C] of the training tiles, where
    that rule is varied; the networks see the views of the run all the same.
    """
    names = ("keep_ratio", *VARIANTS["ours"])
    trials = []
    for rules in grid:
        chosen_rules = {name: rules[name] for name in names}
        if "n_views" in rules["varied"]:
            votes, view_probs = vote(rules["n_views"])
            chosen_rules |= {"votes": votes, "view_probs": view_probs}
        objective = HighConfidenceCrossSupervision(rules["threshold"], rules["cross_weight"])
        labels = evidence.pseudo_labels(rules["filters"], **chosen_rules)
        every = not rules["filters"]
        trials.append(Trial("vlm-cpl", objective, labels, params=rules, cross_all=every))
    return trials


# --- a worse model -------------------------------------------------------------------------------


def embed_shifted(
    model: VLM,
    pixels_files: Sequence[Path],
    run: Path,
    text: Any,
    settings: Mapping[str, Any],
    *,
    seed: int,
) -> list[Path]:
    """Features and votes of shifted tiles; a folder for each file.

    pixels_files: shifted tiles, or those of the run; run: folder that all folds share,
    where they are kept for the same model, tiles and settings; text: [C, D] from `embed_prompts`;
    settings: of the run, or with other views. Folds that run side by side share the folders: what
    another one is embedding is left to it, and waited for at the end.
    """
    used = {name: settings[name] for name in ("prompts", "n_views", "hue", "batch_size")}
    digest = digest_of(used | {"seed": seed}, run / "backbone_features.npy")
    folders = [run / "shifts" / f"{file.stem}-{digest}" for file in pixels_files]
    for wait in (False, True):
        for file, folder in zip(pixels_files, folders, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(BlockingIOError), locked(folder / ".lock", wait=wait):
                if not has_views(folder):
                    embed_tiles(model, file, text, folder)
                    every = np.arange(len(np.load(file, mmap_mode="r", allow_pickle=False)))
                    embed_views(
                        model, file, every, text, folder, n_views=settings["n_views"], seed=seed,
                        hue=settings["hue"], batch_size=settings["batch_size"],
                    )  # fmt: skip
    return folders


def shifted_outcomes(
    folder: Path,
    train: pd.DataFrame,
    test: pd.DataFrame,
    class_names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    seed: int,
) -> list[Outcome]:
    """Prompts, votes, filters and training repeated on other tiles or with other views.

    folder: of `embed_shifted`; settings: of the run. Gives zero-shot, plain training on all
    zero-shot labels, full supervision and VLM-CPL in both settings with its alarms, heads on frozen
    features.
    """
    tiles = train.tile.values
    evidence = FilterInputs.load(folder, tiles, keep_ratio=settings["keep_ratio"], seed=seed)
    zero_shot = np.load(folder / "probs.npy", allow_pickle=False)[test.tile]
    setup = frozen(folder, tiles, len(class_names), steps=settings["n_steps"], seed=seed)
    trials = _shift_trials(evidence, train.label.values, settings)
    trained = run_trials(trials, train, test, class_names, setup=setup, seed=seed)
    for place, each in enumerate(trained):
        if each.trial and each.method == "vlm-cpl":
            raised = evidence.alarms(each.setting, each.trial.kept, class_names, each.probs)
            trained[place] = replace(each, alarms=raised)
    return [Outcome("zero-shot", zero_shot), *trained]


def _shift_trials(
    evidence: FilterInputs, truth: np.ndarray, settings: Mapping[str, Any]
) -> list[Trial]:
    """Everything that is measured at one shift, but for zero-shot."""
    objective = HighConfidenceCrossSupervision(settings["threshold"], settings["cross_weight"])
    plain = Trial("ce-all", Supervised(), evidence.prompt_labels)
    consensus = [
        Trial("vlm-cpl", objective, evidence.pseudo_labels("mvc+pfc", **rules), setting=setting)
        for setting, rules in VARIANTS.items()
    ]
    return [plain, full_supervision(truth), *consensus]
