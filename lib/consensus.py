"""Which pseudo labels to trust: multi-view consensus (MVC) and prompt-feature consensus (PFC).

VLM-CPL, arXiv 2403.15836. With h the histogram of a tile's V votes, ŷ its label by the prompts and
π the matching of clusters k and classes:

    MVC keeps the fraction ρ of the tiles with the lowest H = −Σ_c h_c log h_c
    PFC keeps the tiles with π(k_i) = ŷ_i

No label of a tile is seen, and no result depends on the order of the rows: chance is drawn per tile
number. The clusters are in `clusters`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lib import clusters
from lib.blocks import Rows
from lib.labels import UNLABELLED
from lib.random_draws import TIES, tile_draws

LABEL_RULES = ("prompt", "lift")
TIE_BREAKS = ("random", "probability")
QUOTAS = ("global", "class")
CLUSTER_FEATURES = ("projected", "unprojected")
CLUSTER_RULES = ("matched", "lift")
ORDERS = ("mvc", "pfc", "mvc+pfc", "pfc+mvc")


@dataclass(frozen=True)
class FilterRules:
    """What the paper leaves open, or ours does otherwise; the defaults are the published filters.

    Raises ValueError for a rule that there is not.
    """

    label_rule: str = "prompt"
    tie_break: str = "random"
    quota: str = "global"
    cluster_on: str = "projected"  # image_embeds; "unprojected": backbone_features
    cluster_rule: str = "matched"
    clusters_per_class: int = 1

    def __post_init__(self) -> None:
        for name, values in (
            ("label_rule", LABEL_RULES),
            ("tie_break", TIE_BREAKS),
            ("quota", QUOTAS),
            ("cluster_on", CLUSTER_FEATURES),
            ("cluster_rule", CLUSTER_RULES),
        ):
            if (value := getattr(self, name)) not in values:
                raise ValueError(f"{name} must be one of {', '.join(values)}, not {value!r}")


VARIANTS = {
    "published filters": FilterRules(),
    # A class that the prompts name too seldom has no label that a filter could keep: hence lift.
    # Projected features were trained to agree with prompts; a second opinion should not come from
    # them. Probability ties need the class quota: alone they keep whole classes out.
    "ours": FilterRules("lift", "probability", "class", "unprojected", "lift", 3),
}


def variant_of(rules: Mapping[str, object]) -> str | None:
    """Name the variant whose rules these are, all or some of them; None if they are of neither."""
    for name, variant in VARIANTS.items():
        own = asdict(variant)
        if all(rules[key] == own[key] for key in rules if key in own):
            return name
    return None


@dataclass(frozen=True, eq=False)
class FilterInputs:
    """What the filters look at, one row for each of N tiles of a split.

    tiles: [N] tile numbers; prompt_labels, confidence: [N], the best class of the zero-shot
    probabilities and its probability; votes: int [V, N]; view_probs: [N, C], mean over the views;
    candidates: bool [N], tiles that may be kept, those on which all members of an ensemble of VLMs
    agree; image_embeds: [N, D] and backbone_features: [N, E], for PFC alone; keep_ratio: ρ; seed:
    of ties, clusters and networks.
    """

    tiles: np.ndarray
    prompt_labels: np.ndarray
    confidence: np.ndarray
    votes: np.ndarray
    view_probs: np.ndarray
    candidates: np.ndarray
    image_embeds: np.ndarray | Rows | None = None
    backbone_features: np.ndarray | Rows | None = None
    keep_ratio: float = 0.3
    seed: int = 0
    _clusters: dict = field(init=False, default_factory=dict, repr=False)

    @classmethod
    def load(
        cls,
        folder: Path,
        tiles: np.ndarray,
        *,
        keep_ratio: float,
        seed: int,
        text: str = "",
        features: bool = True,
    ) -> "FilterInputs":
        """Read what `embed_tiles` and `embed_views` wrote; features as they are looked at.

        Parameters
        ----------
        folder : of a run, of shifted tiles or of slides.
        tiles : int [N], some of all tiles.
        text : name of the set of prompts, where there are several.
        features : whether the clusters will be asked for.
        """

        def read(name: str, below: str = "") -> np.ndarray:
            return np.load(folder / below / f"{name}.npy", mmap_mode="r", allow_pickle=False)

        def rows(name: str) -> Rows | None:
            return Rows(read(name).__getitem__, tiles) if features else None

        probs = read("probs", text)[tiles]
        return cls(
            tiles=tiles,
            prompt_labels=probs.argmax(1),
            confidence=probs.max(1),
            votes=read("votes", text)[:, tiles],
            view_probs=read("view_probs", text)[tiles],
            candidates=read("agree", text)[tiles],
            image_embeds=rows("image_embeds"),
            backbone_features=rows("backbone_features"),
            keep_ratio=keep_ratio,
            seed=seed,
        )

    @property
    def n_classes(self) -> int:
        return self.view_probs.shape[1]

    def cluster(self, rules: FilterRules, chosen: np.ndarray) -> np.ndarray:
        """Cluster of each tile in `chosen`, by the features and the number of the rules, [N]."""
        features = self.image_embeds if rules.cluster_on == "projected" else self.backbone_features
        assert features is not None
        n = rules.clusters_per_class * self.n_classes
        return clusters.cluster_features(
            features, n, seed=self.seed, tiles=self.tiles, candidates=chosen
        )

    def lift_clusters(self, rules: FilterRules = VARIANTS["ours"]) -> tuple[np.ndarray, np.ndarray]:
        """Clusters of all candidates, int [N], and the lift of every class in each of them [K, C].

        Ours: a class of which the views keep few tiles still has its clusters. Computed once.
        """
        key = rules.cluster_on, rules.clusters_per_class
        if key not in self._clusters:
            found = self.cluster(rules, self.candidates)
            self._clusters[key] = found, clusters.cluster_lift(found, self.view_probs)
        return self._clusters[key]


# --- labels before a filter ----------------------------------------------------------------------


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
    """Label every tile by the prompts, int [N]: as they say ("prompt"), or by `tile_lift`."""
    if label_rule == "lift":
        return tile_lift(view_probs, candidates).argmax(1)
    return np.asarray(prompt_labels)


# --- multi-view consensus ------------------------------------------------------------------------


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


def rank_by_consensus(inputs: FilterInputs, tie_break: str) -> np.ndarray:
    """Rank the tiles, int64 [N]: rows from the most to the least agreed upon.

    In the order of the vote entropy; ties, which are the rule, go by `tie_break`: "random"
    (faithful to the paper's ranking; drawn per tile from the seed) or "probability" (entropy of
    the mean view probabilities, then random). Raises ValueError for votes of other tiles.
    """
    n_tiles, n_classes = inputs.view_probs.shape
    if np.shape(inputs.votes)[1:] != (n_tiles,):
        raise ValueError(f"votes {np.shape(inputs.votes)} do not belong to {n_tiles} tiles")
    draws = tile_draws(inputs.tiles, 1, inputs.seed, TIES)[:, 0]
    keys = [np.asarray(inputs.tiles), draws]  # the last key sorts first
    if tie_break == "probability":
        keys.append(entropy(inputs.view_probs))
    # Permuted votes give the same counts but sums that differ in the last bit: round them away.
    keys.append(vote_entropy(inputs.votes, n_classes).round(9))
    return np.lexsort(keys)


def keep_lowest(
    ranking: np.ndarray,
    labels: np.ndarray,
    keep_ratio: float,
    quota: str,
    *,
    candidates: np.ndarray,
) -> np.ndarray:
    """Keep the first `keep_ratio` of a ranking, bool [N].

    Parameters
    ----------
    ranking : int [N], rows, best first.
    labels : int [N].
    keep_ratio : of the candidates; the number kept is rounded down, but is at least one.
    quota : "global", of the whole ranking (faithful), or "class", of every class of labels, so
        that no predicted class disappears.
    candidates : bool [N], rows to choose from.

    Raises
    ------
    ValueError
        For a keep_ratio outside (0, 1], or labels of other tiles.
    """
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio must be above 0 and at most 1, not {keep_ratio}")
    if len(labels) != len(ranking):
        raise ValueError(f"{len(labels)} prompt labels, but {len(ranking)} tiles")
    kept = np.zeros(len(ranking), bool)
    ranked = ranking[candidates[ranking]]
    classes = np.zeros(len(labels)) if quota == "global" else np.asarray(labels)
    for c in np.unique(classes[ranked]):
        pool = ranked[classes[ranked] == c]
        # 1e-9: 0.3 · 10 must give 3 whatever its last bit
        kept[pool[: max(1, int(keep_ratio * len(pool) + 1e-9))]] = True
    return kept


def multi_view_consensus(
    inputs: FilterInputs,
    rules: FilterRules,
    labels: np.ndarray | None = None,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """Multi-view consensus (VLM-CPL): the tiles on whose labels the views agree, bool [N].

    labels: [N], by default those of the label rule; candidates: bool [N], by default the inputs'.
    """
    candidates = inputs.candidates if candidates is None else candidates
    if labels is None:
        labels = label_tiles(inputs, rules)
    ranking = rank_by_consensus(inputs, rules.tie_break)
    return keep_lowest(ranking, labels, inputs.keep_ratio, rules.quota, candidates=candidates)


def label_tiles(inputs: FilterInputs, rules: FilterRules) -> np.ndarray:
    """Label the tiles by the label rule of a variant, before a filter, int [N]."""
    return labels_by_rule(
        rules.label_rule, inputs.prompt_labels, inputs.view_probs, inputs.candidates
    )


# --- prompt-feature consensus and both -----------------------------------------------------------


def cluster_labels(
    inputs: FilterInputs, rules: FilterRules, labels: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """Label tiles by their clusters, int64 [N], `UNLABELLED` where nothing was clustered.

    "matched": clusters of the kept tiles, matched to the labels that they bear (published);
    "lift": clusters of all candidates, each of the class that gains most in it. labels: [N]; kept:
    bool [N]. Raises ValueError where no tile is left to cluster.
    """
    if rules.cluster_rule == "lift":
        found, lift = inputs.lift_clusters(rules)
        classes = clusters.classes_by_lift(lift)
    else:
        found = inputs.cluster(rules, kept)
        agreement = clusters.cluster_agreement(found, labels, inputs.n_classes)
        classes = clusters.match_clusters(agreement)
    return np.where(found == UNLABELLED, UNLABELLED, classes[found])


def filter_tiles(
    inputs: FilterInputs,
    rules: FilterRules = VARIANTS["ours"],
    order: str = "mvc+pfc",
    *,
    kept_by_views: np.ndarray | None = None,
) -> pd.DataFrame:
    """Filter the labels of all tiles: the one composition of both filters.

    Parameters
    ----------
    order : one of `ORDERS`, or "" for no filter. The second filter sees only what the first one
        kept, so "pfc+mvc" keeps the fraction ρ of what the clusters confirm.
    kept_by_views : bool [N], what MVC keeps where it comes first, as `11_multi_view_consensus`
        saved it; without it the votes are counted here.

    Returns
    -------
    A row per tile: tile, label (by the label rule), feature_label (by its cluster), vote_entropy,
    kept_by_views, kept, and training_label, the label of a kept tile, `UNLABELLED` elsewhere.
    """
    if order not in ("", *ORDERS):
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
    labels = label_tiles(inputs, rules)
    confirmed, by_views = np.full(len(labels), UNLABELLED), np.zeros(len(labels), bool)
    kept = inputs.candidates if order else np.ones(len(labels), bool)
    for name in filter(None, order.split("+")):
        if name == "pfc":
            confirmed = cluster_labels(inputs, rules, labels, kept)
            kept = kept & (labels == confirmed)
        elif kept_by_views is not None and order.startswith("mvc"):
            kept = by_views = kept_by_views
        else:
            kept = by_views = multi_view_consensus(inputs, rules, labels, kept)
    columns = {
        "tile": inputs.tiles,
        "label": labels,
        "feature_label": confirmed,
        "vote_entropy": vote_entropy(inputs.votes, inputs.n_classes),
        "kept_by_views": by_views,
        "kept": kept,
        "training_label": np.where(kept, labels, UNLABELLED),
    }
    return pd.DataFrame(columns)
