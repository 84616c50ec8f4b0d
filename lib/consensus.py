"""Which pseudo labels to trust: multi-view consensus (MVC) and prompt-feature consensus (PFC).

VLM-CPL, arXiv 2403.15836. Everything here takes NumPy arrays and sees no label of a tile; the two
tables at the end hold what the notebooks pass on. A result never depends on the order of the rows:
chance is drawn per tile number. The clusters are in `clusters`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lib.clusters import labels_by_clusters
from lib.labels import UNLABELLED
from lib.random_draws import tile_draws

LABEL_RULES = ("prompt", "lift")
TIE_BREAKS = ("random", "probability")
QUOTAS = ("global", "class")
CLUSTER_RULES = ("matched", "lift")
ORDERS = ("mvc", "pfc", "mvc+pfc", "pfc+mvc")
VARIANTS: dict[str, dict[str, Any]] = {
    "published filters": {
        "label_rule": "prompt", "tie_break": "random", "quota": "global",
        "cluster_on": "projected", "cluster_rule": "matched", "clusters_per_class": 1,
    },
    # A class that the prompts name too seldom has no label that a filter could keep: hence lift.
    # Projected features were trained to agree with prompts; a second opinion should not come from
    # them. Probability ties need the class quota: alone they keep whole classes out.
    "ours": {
        "label_rule": "lift", "tie_break": "probability", "quota": "class",
        "cluster_on": "unprojected", "cluster_rule": "lift", "clusters_per_class": 3,
    },
}  # fmt: skip
TIE_STREAM = 1_000_003  # keeps the draws of ties apart from those of views


def setting_of(rules: Mapping[str, object]) -> str | None:
    """Name of the setting that these rules are, all or some of a setting's; None if of neither."""
    for name, setting in VARIANTS.items():
        if all(rules[key] == setting[key] for key in rules if key in setting):
            return name
    return None


def tile_lift(view_probs: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
    """How much more probable each class is for a tile than on the average, float64 [N, C].

    p_c(x) / p̄_c with p̄_c the mean over the tiles, divided by its sum over the classes; a class of
    no probability anywhere has lift 0. By Bayes' rule it is the likelihood of the tile in each
    class, as far as p̄ are the shares that the prompts believe in. Not in the paper.
    view_probs: [N, C], mean over the views; candidates: bool [N], tiles averaged over.
    """
    probs = np.asarray(view_probs, np.float64)
    # the order of the rows changes the last bits of a mean
    overall = (probs if candidates is None else probs[candidates]).mean(0).round(12)
    lift = np.divide(probs, overall, out=np.zeros_like(probs), where=overall > 0)
    return lift / lift.sum(1, keepdims=True)


def labels_by_rule(
    label_rule: str,
    prompt_labels: np.ndarray,
    view_probs: np.ndarray,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """What the prompts say of every tile, before a filter, int [N].

    "prompt": the prompt labels as they are (published). "lift": the class of the highest
    `tile_lift`. Raises ValueError for another rule.
    """
    if label_rule not in LABEL_RULES:
        raise ValueError(f"label_rule must be one of {', '.join(LABEL_RULES)}, not {label_rule!r}")
    by_lift = label_rule == "lift"
    return tile_lift(view_probs, candidates).argmax(1) if by_lift else np.asarray(prompt_labels)


def entropy(probs: np.ndarray) -> np.ndarray:
    """Shannon entropy −Σ_c p_c log p_c of each row, in nats. probs: [N, C]; returns float64 [N]."""
    p = np.asarray(probs, np.float64)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return 0.0 - (p * logs).sum(1)  # 0 − 0, as −0 would sort and print oddly


def vote_histogram(votes: np.ndarray, n_classes: int) -> np.ndarray:
    """Share of a tile's views that vote for each class. votes: int [V, N]; returns [N, C].

    Raises ValueError for a vote outside 0 … C−1.
    """
    votes = np.asarray(votes)
    if votes.ndim != 2 or not len(votes):
        raise ValueError(f"votes must be [V, N] with at least one view, not {votes.shape}")
    if votes.size and not (0 <= votes.min() and votes.max() < n_classes):
        raise ValueError(f"votes must lie in 0 … {n_classes - 1}")
    n_views, n_tiles = votes.shape
    cells = np.arange(n_tiles) * n_classes + votes  # counts all tiles in one pass
    counts = np.bincount(cells.ravel(), minlength=n_tiles * n_classes)
    return counts.reshape(n_tiles, n_classes) / n_views


def vote_entropy(votes: np.ndarray, n_classes: int) -> np.ndarray:
    """Entropy of the vote histogram, H = −Σ_c h_c log h_c. votes: int [V, N]; returns [N]."""
    return entropy(vote_histogram(votes, n_classes))


def rank_by_consensus(
    votes: np.ndarray,
    view_probs: np.ndarray,
    *,
    tie_break: str = "random",
    seed: int = 0,
    tiles: np.ndarray | None = None,
) -> np.ndarray:
    """Rows from the most to the least agreed upon, int64 [N].

    Order of the vote entropy; ties, which are the rule, go by `tie_break`: "random" (faithful to
    the paper's ranking; drawn per tile from the seed) or "probability" (entropy of the mean view
    probabilities, then random). votes: [V, N]; view_probs: [N, C]; tiles: [N] tile numbers, by
    default the row numbers.
    """
    if tie_break not in TIE_BREAKS:
        raise ValueError(f"tie_break must be one of {', '.join(TIE_BREAKS)}, not {tie_break!r}")
    n_tiles, n_classes = view_probs.shape
    votes = np.asarray(votes)
    if votes.shape[1:] != (n_tiles,):
        raise ValueError(f"votes {votes.shape} do not belong to view_probs {view_probs.shape}")
    tiles = np.arange(n_tiles) if tiles is None else np.asarray(tiles)
    keys = [tiles, tile_draws(tiles, 1, seed, TIE_STREAM)[:, 0]]  # the last key sorts first
    if tie_break == "probability":
        keys.append(entropy(view_probs))
    # Permuted votes give the same counts but sums that differ in the last bit: round them away.
    keys.append(vote_entropy(votes, n_classes).round(9))
    return np.lexsort(keys)


def keep_lowest(
    ranking: np.ndarray,
    prompt_labels: np.ndarray,
    *,
    keep_ratio: float = 0.3,
    quota: str = "global",
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """Keep the first `keep_ratio` of a ranking, bool [N].

    quota "global": of the whole ranking (faithful). quota "class": of every class of prompt labels,
    so that no predicted class disappears. The number kept is rounded down, but is at least one.
    ranking: rows, best first [N]; prompt_labels: [N]; candidates: bool [N], rows to choose from.
    Raises ValueError for a keep_ratio outside (0, 1].
    """
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio must be above 0 and at most 1, not {keep_ratio}")
    if quota not in QUOTAS:
        raise ValueError(f"quota must be one of {', '.join(QUOTAS)}, not {quota!r}")
    if len(prompt_labels) != len(ranking):
        raise ValueError(f"{len(prompt_labels)} prompt labels, but {len(ranking)} tiles")
    kept = np.zeros(len(ranking), bool)
    candidates = ranking if candidates is None else ranking[candidates[ranking]]
    labels = np.asarray(prompt_labels)[candidates]
    pools = (
        [candidates] if quota == "global" else [candidates[labels == c] for c in np.unique(labels)]
    )
    for pool in pools:
        if len(pool):
            # 1e-9: 0.3 · 10 must give 3 whatever its last bit
            kept[pool[: max(1, int(keep_ratio * len(pool) + 1e-9))]] = True
    return kept


def multi_view_consensus(
    votes: np.ndarray,
    view_probs: np.ndarray,
    prompt_labels: np.ndarray,
    *,
    keep_ratio: float = 0.3,
    tie_break: str = "random",
    quota: str = "global",
    seed: int = 0,
    tiles: np.ndarray | None = None,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """Multi-view consensus (VLM-CPL): which tiles' prompt labels the views agree on, bool [N].

    Keeps the `keep_ratio` ρ of tiles with the lowest vote entropy. The defaults are the published
    setting; see `VARIANTS` for ours. votes: [V, N]; view_probs: [N, C], mean over the views;
    prompt_labels: [N]; candidates: bool [N], tiles to choose from. See `rank_by_consensus` and
    `keep_lowest` for the errors raised.
    """
    ranking = rank_by_consensus(votes, view_probs, tie_break=tie_break, seed=seed, tiles=tiles)
    return keep_lowest(
        ranking, prompt_labels, keep_ratio=keep_ratio, quota=quota, candidates=candidates
    )


def label_by_consensus(
    order: str,
    votes: np.ndarray,
    view_probs: np.ndarray,
    features: Mapping[str, np.ndarray],
    prompt_labels: np.ndarray,
    *,
    label_rule: str = "prompt",
    keep_ratio: float = 0.3,
    tie_break: str = "random",
    quota: str = "global",
    cluster_on: str = "projected",
    cluster_rule: str = "matched",
    clusters_per_class: int = 1,
    seed: int = 0,
    tiles: np.ndarray | None = None,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """Labels that one filter or both in a given order keep, int [N], `UNLABELLED` elsewhere.

    order: one of `ORDERS`, or "" for no filter. "mvc" is `multi_view_consensus`, "pfc" is
    prompt-feature consensus: labels that those of the clusters confirm (`labels_by_clusters`). The
    second filter sees only what the first one kept, so "pfc+mvc" keeps the keep ratio ρ of what
    the clusters confirm. label_rule: see `labels_by_rule`. features: {"projected": [N, D],
    "unprojected": [N, E]}, of which `cluster_on` names one. `**VARIANTS["published filters"]` fits
    in. candidates: bool [N], tiles to choose from, such as those that several VLMs agree on. Raises
    ValueError for an unknown order or rule.
    """
    for name, value, known in (
        ("order", order, ("", *ORDERS)),
        ("cluster_on", cluster_on, features),
        ("cluster_rule", cluster_rule, CLUSTER_RULES),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    candidates = np.ones(len(prompt_labels), bool) if candidates is None else candidates
    labels = labels_by_rule(label_rule, prompt_labels, view_probs, candidates)
    kept = candidates if order else np.ones(len(labels), bool)
    for name in filter(None, order.split("+")):
        if name == "mvc":
            kept = multi_view_consensus(
                votes,
                view_probs,
                labels,
                keep_ratio=keep_ratio,
                tie_break=tie_break,
                quota=quota,
                seed=seed,
                tiles=tiles,
                candidates=kept,
            )
        else:
            second = labels_by_clusters(
                cluster_rule,
                features[cluster_on],
                labels,
                view_probs,
                candidates=candidates,
                kept=kept,
                clusters_per_class=clusters_per_class,
                seed=seed,
                tiles=tiles,
            )
            kept = kept & (labels == second)
    return np.where(kept, labels, UNLABELLED)


def pseudo_label_table(
    tiles: np.ndarray,
    votes: np.ndarray,
    view_probs: np.ndarray,
    features: Mapping[str, np.ndarray],
    prompt_labels: np.ndarray,
    *,
    keep_ratio: float,
    seed: int,
    candidates: np.ndarray,
) -> pd.DataFrame:
    """Pseudo labels for training: tiles kept by the views, then by the clusters, in each setting.

    See `label_by_consensus` for the arguments; tiles: [N]. Columns: setting, tile, label (by the
    label rule of the setting), feature_label (of the tiles that were clustered), vote_entropy,
    kept_by_views, kept; a row per setting and tile.
    """
    tables = []
    for name, rules in VARIANTS.items():
        labels = labels_by_rule(rules["label_rule"], prompt_labels, view_probs, candidates)
        kept_by_views = multi_view_consensus(
            votes,
            view_probs,
            labels,
            keep_ratio=keep_ratio,
            tie_break=rules["tie_break"],
            quota=rules["quota"],
            seed=seed,
            tiles=tiles,
            candidates=candidates,
        )
        second = labels_by_clusters(
            rules["cluster_rule"],
            features[rules["cluster_on"]],
            labels,
            view_probs,
            candidates=candidates,
            kept=kept_by_views,
            clusters_per_class=rules["clusters_per_class"],
            seed=seed,
            tiles=tiles,
        )
        columns = {
            "setting": name, "tile": tiles, "label": labels, "feature_label": second,
            "vote_entropy": vote_entropy(votes, view_probs.shape[1]),
            "kept_by_views": kept_by_views, "kept": kept_by_views & (labels == second),
        }  # fmt: skip
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
