"""Trials of VLM-CPL and of other methods: the same networks learn from different labels.

A trial says which tiles are labelled and what is minimised; everything else, the setup, the seed
and the tiles to predict, is the same for all of them. Filters see no true label here.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.alarm import Alarm
from lib.artefacts import digest_of, locked
from lib.clusters import classes_by_lift
from lib.consensus import (
    VARIANTS,
    FilterInputs,
    FilterRules,
    cluster_labels,
    filter_tiles,
    keep_lowest,
    labels_by_rule,
    tile_lift,
)
from lib.labels import UNLABELLED, missing_classes_expected
from lib.learning.baselines import (
    MOST_NEIGHBOURED,
    anchored_probabilities,
    centred_probabilities,
    prior_by_em,
    sinkhorn_probabilities,
    transductive_probabilities,
)
from lib.learning.batches import TrainingTiles, labelled_and_not
from lib.learning.losses import (
    CoTeaching,
    HighConfidenceCrossSupervision,
    Objective,
    Supervised,
)
from lib.learning.networks import predict
from lib.learning.setups import Training, TrainingSetup, frozen, train_all
from lib.learning.vlm_cpl import train_vlm_cpl
from lib.random_draws import TIES, tile_draws
from lib.vlm.inference import VLM, embed_tiles, embed_views, is_embedded


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
    inputs: FilterInputs, objectives: Mapping[str, Objective], suspected: np.ndarray
) -> list[Trial]:
    """Trials that learn from the zero-shot labels without a filter of VLM-CPL.

    objectives: method → what it minimises, on all tiles; suspected: bool [N], tiles that confident
    learning leaves out.
    """
    labels = inputs.prompt_labels
    trusted = np.where(suspected, UNLABELLED, labels)
    trials = [Trial(method, loss, labels) for method, loss in objectives.items()]
    return [*trials, Trial("confident-learning", Supervised(), trusted)]


def confident_labels(inputs: FilterInputs) -> np.ndarray:
    """Prompt labels of the most confident tiles of every class, [N], `UNLABELLED` elsewhere.

    As many tiles of each class as multi-view consensus with the quota "class" keeps, but without a
    view. Ties go by chance, drawn per tile number.
    """
    chance = tile_draws(inputs.tiles, 1, inputs.seed, TIES)[:, 0]
    ranking = np.lexsort([inputs.tiles, chance, -inputs.confidence])
    labels = inputs.prompt_labels
    kept = keep_lowest(ranking, labels, inputs.keep_ratio, "class", candidates=inputs.candidates)
    return np.where(kept, labels, UNLABELLED)


def filter_trials(inputs: FilterInputs, pseudo: pd.DataFrame) -> list[Trial]:
    """Plain training on what MVC, PFC or both keep, in each variant, and on the most confident.

    Beside MVC in our variant, "top-confidence" tells whether views are worth their time, and
    "ce-lift", from all labels by lift, what the filters add to our label rule. "clusters" learns
    all labels of our clusters by Co-teaching: an opinion that asks the prompts for the names of the
    clusters alone. pseudo: of `12_prompt_feature_consensus`, in which PFC alone is missing.
    """
    by_lift = labels_by_rule("lift", inputs.prompt_labels, inputs.view_probs, inputs.candidates)
    trials = [
        Trial("top-confidence", Supervised(), confident_labels(inputs)),
        Trial("ce-lift", Supervised(), by_lift),
        Trial("clusters", CoTeaching(), _of_clusters(inputs), source="clusters"),
    ]
    for variant, rules in VARIANTS.items():
        table = pseudo[pseudo.setting == variant]
        labels = {
            "ce-mvc": np.where(table.kept_by_views, table.label, UNLABELLED),
            "ce-pfc": filter_tiles(inputs, rules, "pfc").training_label.values,
            "ce-kept": table.training_label.values,
        }
        trials += [
            Trial(method, Supervised(), own, setting=variant, params={"rules": asdict(rules)})
            for method, own in labels.items()
        ]
    return trials


def _of_clusters(inputs: FilterInputs) -> np.ndarray:
    return cluster_labels(inputs, VARIANTS["ours"], inputs.prompt_labels, inputs.candidates)


def three_opinions(ours: np.ndarray, outcomes: Sequence[Outcome]) -> Outcome:
    """The mean of VLM-CPL in our variant and of what all prompts and all clusters teach.

    Not in the papers: the filters keep typical tiles, and these two learn from the others. ours:
    [M, C]; outcomes: of `run_trials`, with "elr" (labels of the prompts) and "clusters".
    """
    probs = {outcome.method: outcome.probs for outcome in outcomes}
    return Outcome("opinions", np.mean([ours, probs["elr"], probs["clusters"]], axis=0), "ours")


def untrained_outcomes(
    model: VLM, folder: Path, text: Any, inputs: FilterInputs, tiles: np.ndarray
) -> list[Outcome]:
    """Methods without training: all tiles of a run are classified at once, `tiles` are returned.

    folder: run folder with features, probs and view_probs; model: one VLM, or an ensemble, whose
    members are centred one by one; text: [C, D] from `embed_prompts`. No label is seen. "sinkhorn"
    takes all classes to be equally frequent, "sinkhorn-clusters" as frequent as the lift clusters
    of the training tiles say. Over `MOST_NEIGHBOURED` tiles both transductive methods are left out.
    """
    features, probs, view_probs = (
        np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("image_embeds", "probs", "view_probs")
    )
    prompts = np.asarray(text.cpu())
    sizes = np.cumsum(model.sizes or (prompts.shape[1],))[:-1]
    parts = zip(np.split(features, sizes, 1), np.split(prompts, sizes, 1), strict=True)
    centred = [
        centred_probabilities(*part, member.scale)
        for member, part in zip(model.members, parts, strict=True)
    ]
    clusters, lift = inputs.lift_clusters()
    labels = classes_by_lift(lift)[clusters[clusters != UNLABELLED]]
    shares = np.bincount(labels, minlength=len(prompts)) / len(labels)
    classified = {
        "mean-of-views": view_probs,
        "lift": tile_lift(view_probs),
        **_transduced(features, prompts, probs),
        "centred": np.mean(centred, axis=0),
        "sinkhorn": sinkhorn_probabilities(probs),
        "sinkhorn-clusters": sinkhorn_probabilities(probs, shares),
        "prior-em": prior_by_em(probs)[1],
    }
    return [Outcome(method, of_all[tiles]) for method, of_all in classified.items()]


def _transduced(
    features: np.ndarray, prompts: np.ndarray, probs: np.ndarray
) -> dict[str, np.ndarray]:
    if len(features) > MOST_NEIGHBOURED:
        text = f"transductive and stata are left out: {len(features)} tiles would take them hours"
        warnings.warn(text, stacklevel=3)
        return {}
    return {
        "transductive": transductive_probabilities(features, probs),
        "stata": anchored_probabilities(features, prompts, probs),
    }


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
    trainings = []
    for trial in trials:
        make_data = labelled_and_not if trial.cross_all else TrainingTiles
        with missing_classes_expected():
            data = make_data(train.tile.values, trial.labels, class_names, train.label.values)
        trainings.append(Training(setup, trial.objective, data, seed))
    outcomes = []
    for trial, trained in zip(trials, train_all(trainings), strict=True):
        probs = predict(trained.networks, setup.reader, test.tile.values)
        own = trial.method, probs, trial.setting, trial, trial.params, trained.seconds
        outcomes.append(Outcome(*own))
    return outcomes


# --- ablations -----------------------------------------------------------------------------------


def ablation_trials(
    grid: Iterable[Mapping[str, Any]],
    inputs: FilterInputs,
    pseudo: pd.DataFrame,
    vote: Callable[..., tuple[np.ndarray, np.ndarray]],
) -> list[Trial]:
    """VLM-CPL with the rules of each line of a grid (`ablations.ablation_grid`).

    pseudo: of `12_prompt_feature_consensus`, whose labels serve where no filter is varied; vote:
    number of views → votes [V, N] and view probabilities [N, C] of the training tiles, where that
    rule is varied; the networks see the views of the run all the same.
    """
    names = [rule.name for rule in fields(FilterRules)]
    trials = []
    for line in grid:
        if {*line["varied"]} <= {"threshold", "cross_weight"}:
            labels = pseudo.training_label[pseudo.setting == "ours"].values
        else:
            varied = replace(inputs, keep_ratio=line["keep_ratio"])
            if "n_views" in line["varied"]:
                votes, view_probs = vote(n_views=line["n_views"])
                varied = replace(varied, votes=votes, view_probs=view_probs)
            rules = FilterRules(**{name: line[name] for name in names})
            labels = filter_tiles(varied, rules, line["filters"]).training_label.values
        objective = HighConfidenceCrossSupervision(line["threshold"], line["cross_weight"])
        cross_all = not line["filters"]
        trials.append(Trial("vlm-cpl", objective, labels, params=line, cross_all=cross_all))
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
                if not is_embedded(folder):
                    embed_tiles(model, file, text, folder)
                    tiles = np.arange(len(np.load(file, mmap_mode="r", allow_pickle=False)))
                    views = {name: settings[name] for name in ("n_views", "hue", "batch_size")}
                    embed_views(model, file, tiles, text, folder, seed=seed, **views)
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
    tiles, tested = train.tile.values, test.tile.values
    inputs = FilterInputs.load(folder, tiles, keep_ratio=settings["keep_ratio"], seed=seed)
    zero_shot = np.load(folder / "probs.npy", allow_pickle=False)[tested]
    setup = frozen(folder, tiles, len(class_names), steps=settings["n_steps"], seed=seed)
    plain = [
        Trial("ce-all", Supervised(), inputs.prompt_labels),
        full_supervision(train.label.values),
    ]
    outcomes = run_trials(plain, train, test, class_names, setup=setup, seed=seed)
    objective = HighConfidenceCrossSupervision(settings["threshold"], settings["cross_weight"])
    for variant, rules in VARIANTS.items():
        started, pseudo = time.perf_counter(), filter_tiles(inputs, rules)
        trained = train_vlm_cpl(
            inputs, setup, class_names, objective=objective, pseudo=pseudo, tiles=tested
        )
        trial = Trial("vlm-cpl", objective, trained.training_labels, setting=variant)
        seconds = time.perf_counter() - started
        outcomes.append(
            Outcome("vlm-cpl", trained.probs, variant, trial, {}, seconds, trained.alarms)
        )
    return [Outcome("zero-shot", zero_shot), *outcomes]
