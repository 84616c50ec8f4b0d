"""Which tiles to ask labels for: disagreement and compactness (UniSAL), and other strategies.

A strategy takes a `Pool`, the number n of tiles to query and a seed, and returns a `Query`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from lib import consensus
from lib.active.pool import Pool, Query
from lib.blocks import SAMPLED, Rows, blocks, draw, unit_rows
from lib.clusters import k_means
from lib.labels import UNLABELLED

Strategy = Callable[[Pool, int, int], Query]


# --- UniSAL --------------------------------------------------------------------------------------


def disagreement(probs: np.ndarray) -> np.ndarray:
    """Tell where the two networks predict different classes: bool [N] from [2, N, C] (DUS)."""
    first, second = probs.argmax(2)
    return first != second


def compact(features: np.ndarray | Rows, n: int, seed: int) -> np.ndarray:
    """Take of each of n clusters the tile nearest to its centre, the largest first (CS)."""
    members = cluster_members(features, n, seed)
    return np.array([rows[0] for rows in members], int)


def cluster_members(features: np.ndarray | Rows, n: int, seed: int) -> list[np.ndarray]:
    """List the rows of each of n clusters, nearest to its centre first; the largest first."""
    if not len(features):
        return []
    cluster, centres = k_means(features, n, n_init=1, seed=seed)
    away = [((features[b] - centres[cluster[b]]) ** 2).sum(1) for b in blocks(len(features))]
    order = np.lexsort((np.concatenate(away), cluster))
    members = np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1)
    return sorted(members, key=len, reverse=True)


def entropy(probs: np.ndarray) -> np.ndarray:
    """Entropy of the mean prediction in nats: [N] from [2, N, C]."""
    return consensus.entropy(probs.mean(0, dtype=np.float64))


def margin(probs: np.ndarray) -> np.ndarray:
    """Margin between the two likeliest classes of the mean prediction: [N] from [2, N, C]."""
    *_, second, first = np.sort(probs.mean(0, dtype=np.float64), axis=1).T
    return first - second


def divergence(probs: np.ndarray) -> np.ndarray:
    """Generalised Jensen-Shannon divergence of M predictions, H(mean) − mean of H, in nats.

    probs: [M, N, C]; returns float64 [N], at least 0.
    """
    apart = entropy(probs) - np.mean([consensus.entropy(member) for member in probs], axis=0)
    return np.maximum(apart, 0)


def unisal(
    pool: Pool,
    n: int,
    seed: int,
    *,
    disagreeing: bool = True,
    compactly: bool = True,
    widen: int = 0,
) -> Query:
    """Choose compact tiles of the disagreement set: DUS, then CS (UniSAL).

    Of the unlabelled tiles for which the networks predict different classes, one of each of n
    compact clusters of features. If no more than n disagree, all of them, and the rest by the
    highest entropy of the mean prediction (the authors' public code raises an error there).

    Parameters
    ----------
    disagreeing : without it all unlabelled tiles are candidates.
    compactly : without it n candidates are drawn by chance.
    widen : ours. If fewer than `widen` · n tiles disagree, that many are candidates, the further
        ones by the smallest margin of the mean prediction. `unisal-wide` takes 10, a value of
        diverse mini-batch active learning (Zhdanov, arXiv 1901.05954).
    """
    candidate = pool.unlabelled_mask & (disagreement(pool.probs) | (not disagreeing))
    candidates = np.flatnonzero(candidate)
    if len(candidates) < widen * n:
        order = np.lexsort((margin(pool.probs), ~candidate, ~pool.unlabelled_mask))
        candidates = order[: min(widen * n, pool.unlabelled_mask.sum())]
    if len(candidates) <= n:
        chosen = candidates[_highest(entropy(pool.probs)[candidates], n)]
    elif compactly:
        chosen = candidates[compact(pool.rows(candidates), n, seed)]
    else:
        chosen = np.random.default_rng(seed).choice(candidates, n, replace=False)
    rows = _fill(pool, chosen, n)
    filled = len(rows) - len(chosen)
    return Query(rows, int(candidate.sum()), filled) if disagreeing else Query(rows)


def covering_unisal(pool: Pool, n: int, seed: int) -> Query:
    """Choose half of the query by UniSAL, half to cover the whole pool (ours).

    Where both networks agree on a class that they miss, none of its tiles is in the disagreement
    set. So n // 2 tiles are those of MaxHerding (`herding`), which lie in the densest parts of the
    pool that no label covers; the tiles of UniSAL's half count as labelled there. Chosen out of
    three variants on fold 0 of demo and of ebhi: the others rank or cover by 1 − Σ p₁ p₂.
    """
    return _and_coverage(unisal(pool, n - n // 2, seed), pool, n // 2, seed)


def covering_margin(pool: Pool, n: int, seed: int) -> Query:
    """Choose half of the query by the smallest margin, half to cover the whole pool."""
    return _and_coverage(STRATEGIES["margin"](pool, n - n // 2, seed), pool, n // 2, seed)


def _and_coverage(query: Query, pool: Pool, n: int, seed: int) -> Query:
    """A query and n tiles of MaxHerding, for which those of the query count as labelled."""
    left, labels = pool.unlabelled_mask.copy(), pool.labels.copy()
    left[query.rows], labels[query.rows] = False, 0
    covering = herding(replace(pool, unlabelled_mask=left, labels=labels), n, seed)
    return replace(query, rows=np.concatenate([query.rows, covering.rows]))


def divergent_unisal(pool: Pool, n: int, seed: int, *, share: float = 0.1) -> Query:
    """Choose compact tiles of those on which networks and views diverge most (ours).

    UniSAL's disagreement set holds few tiles in late rounds, and a tile is in it or not. Here the
    unlabelled tiles are ranked by the `divergence` over both networks and several random views of
    the tile (what the vote entropy of multi-view consensus is to votes); candidates are the first
    max(2 n, `share` of the unlabelled tiles), of which `compact` takes n.
    """
    views = [] if pool.per_view_probs is None else [pool.per_view_probs]
    rows = np.flatnonzero(pool.unlabelled_mask)
    score = divergence(np.concatenate([pool.probs, *views])[:, rows])
    return _compact_query(
        pool, rows[_highest(score, max(2 * n, round(share * len(rows))))], n, seed
    )


def _highest(score: np.ndarray, n: int) -> np.ndarray:
    """Positions of the n highest scores, that of the first position where two are equal."""
    return np.argsort(-score, kind="stable")[:n]


def _fill(pool: Pool, chosen: np.ndarray, n: int) -> np.ndarray:
    """The chosen rows and, up to n, the least certain of the others that may be chosen."""
    left = pool.unlabelled_mask.copy()
    left[chosen] = False
    rows = np.flatnonzero(left)
    return np.concatenate([chosen, rows[_highest(entropy(pool.probs)[rows], n - len(chosen))]])


def _compact_query(pool: Pool, candidates: np.ndarray, n: int, seed: int) -> Query:
    """The compact tiles of the candidates; the least certain of all where these are too few."""
    return Query(_fill(pool, candidates[compact(pool.rows(candidates), n, seed)], n))


# --- others --------------------------------------------------------------------------------------


def by_chance(pool: Pool, n: int, seed: int) -> Query:
    """Draw n unlabelled tiles."""
    rows = np.flatnonzero(pool.unlabelled_mask)
    return Query(np.random.default_rng(seed).choice(rows, n, replace=False))


def least_certain(
    pool: Pool, n: int, seed: int, *, score: Callable[[np.ndarray], np.ndarray]
) -> Query:
    """Choose the n highest scores of the mean prediction."""
    rows = np.flatnonzero(pool.unlabelled_mask)
    return Query(rows[_highest(score(pool.probs)[rows], n)])


def margin_then_compact(pool: Pool, n: int, seed: int, *, widen: int = 4) -> Query:
    """Choose compact tiles of the `widen` · n smallest margins.

    After PPAL (Yang et al., CVPR 2024): uncertainty chooses candidates, K-means with k-means++
    starts spreads the query over them. Deviations: tiles instead of detections, hence plain
    distances of features instead of a similarity by class, and no calibration by class.
    """
    rows = np.flatnonzero(pool.unlabelled_mask)
    return _compact_query(pool, rows[_highest(-margin(pool.probs)[rows], widen * n)], n, seed)


def drop_query(pool: Pool, n: int, seed: int) -> Query:
    """Choose compact tiles whose predictions change with dropout: DropQuery.

    Gupte et al., TMLR 2024. Candidates are the tiles of whose predictions with dropout more than
    half differ from the plain one; if they are fewer than n, those whose prediction changes most
    often, the smallest margin first (ours: the paper leaves it open). Deviation: dropout acts
    before the linear head of both networks, not before one linear classifier on frozen features as
    in scikit-activeml, whose `DropQuery` therefore cannot read our networks. Raises ValueError for
    a pool without `dropout_probs`.
    """
    if pool.dropout_probs is None:
        raise ValueError("dropquery needs the predictions with dropout: Pool.dropout_probs")
    rows = np.flatnonzero(pool.unlabelled_mask)
    plain = pool.probs[:, rows].mean(0, dtype=np.float64).argmax(1)
    changed = (pool.dropout_probs[:, rows].argmax(2) != plain).mean(0)
    order = np.lexsort((margin(pool.probs)[rows], -changed))
    return _compact_query(pool, rows[order[: max(n, (changed > 0.5).sum())]], n, seed)


def herding(pool: Pool, n: int, seed: int, *, uncertain: bool = False, chunk: int = 256) -> Query:
    """Choose tiles that cover the unlabelled ones by a kernel, greedily: MaxHerding, UHerding.

    Each step takes the tile that raises 1/N Σ_i u_i max_j k(x_i, x_j) most, j over the labelled and
    the chosen tiles, k(x, y) = exp(−‖x − y‖² / σ²) of features with unit length. MaxHerding (Bae
    et al., ECCV 2024): u = 1, σ = 1. UHerding (Bae et al., ICLR 2025), with `uncertain`: u is the
    margin uncertainty 1 − (p₁ − p₂), and σ the smallest distance between two labelled tiles, so
    that it shrinks as labels grow. Deviations: the temperature that the paper fits to calibrate u
    is left at 1; of more than `SAMPLED` unlabelled tiles the mean is over a draw of them, and the
    kernel is computed in float32 (100 of 20,000 made-up tiles raise the whole sum by 99 % as much).

    The sum is submodular: a gain of an earlier step bounds a later one, and only tiles whose bound
    could win are looked at again. The same choice as the plain greedy one, memory O(N).
    """
    rows, labelled = (np.flatnonzero(m) for m in (pool.unlabelled_mask, pool.labels != UNLABELLED))
    covers = draw(len(rows), SAMPLED, seed)
    dtype = np.float64 if len(covers) == len(rows) else np.float32

    def features(of: np.ndarray) -> np.ndarray:
        return unit_rows(pool.features[of].astype(dtype))

    twice, seen = 2 * features(rows[covers]), features(labelled)
    weights = 1 - margin(pool.probs)[rows[covers]] if uncertain else np.ones(len(covers))
    sigma = _smallest_distance(seen, chunk) if uncertain else 1.0
    weights, scale = weights.astype(dtype), dtype(-(sigma**2))

    def kernel(others: np.ndarray) -> np.ndarray:
        squares = twice @ others.T
        np.maximum(np.subtract(2, squares, out=squares), 0, out=squares)  # of unit vectors
        squares /= scale
        return np.exp(squares, out=squares)

    def gain(of: np.ndarray) -> np.ndarray:
        more = kernel(features(rows[of]))
        more -= covered[:, None]
        return weights @ np.maximum(more, 0, out=more)

    covered = np.zeros(len(covers), dtype)
    for block in blocks(len(seen), chunk):
        np.maximum(covered, kernel(seen[block]).max(1), out=covered)
    every = np.array_split(np.arange(len(rows)), max(1, len(rows) // chunk))
    bounds = np.concatenate([gain(block) for block in every])
    chosen: list[int] = []
    for _ in range(n):
        left, best, row = bounds.copy(), -np.inf, -1
        while left.max() > best:  # some bound could still win
            first = np.argpartition(-left, min(chunk, len(left)) - 1)[:chunk]
            first = first[left[first] > -np.inf]
            gains = gain(first)
            bounds[first], left[first] = gains, -np.inf
            if gains.max() > best:
                best, row = gains.max(), int(first[gains.argmax()])
        chosen.append(row)
        bounds[row] = -np.inf
        np.maximum(covered, kernel(features(rows[[row]]))[:, 0], out=covered)
    return Query(rows[chosen])


def _smallest_distance(features: np.ndarray, chunk: int) -> float:
    """Between two different rows of unit length; 1 where there are no two."""
    smallest = np.inf
    for start in range(0, len(features), chunk):
        squares = np.maximum(2 - 2 * features[start : start + chunk] @ features.T, 0)
        smallest = min(smallest, squares[squares > 1e-9].min(initial=np.inf))
    return float(np.sqrt(smallest)) if np.isfinite(smallest) else 1.0


# --- pools with tiles of no class ----------------------------------------------------------------


def open_path(pool: Pool, n: int, seed: int, *, share: float = 0.25, n_batches: int = 10) -> Query:
    """Choose uncertain tiles near the classes: OpenPath (Zhong et al., MICCAI 2025, 2506.15318).

    Before any label: of the tiles that prompts of targets and non-targets call a target, compact
    ones (K-means). Then prototype-based candidates (PIS): with z̄_c the mean feature of the labels
    of a class, the `share` of the unlabelled tiles with the smallest min_c 1 − cos(z, z̄_c), and at
    least n; entropy-guided stochastic sampling (EGSS): they are dealt to `n_batches` by chance, and
    each gives its part of the query, those of the highest entropy.

    Deviations: the mean prediction of two networks, and UniSAL's compact selector. z is of the
    encoder, as there, and where that is frozen never learns; by the projections that UniSAL
    contrasts, other tissue is as near to the few classes as these are to themselves (seen on
    composed_open_set). Simplest where our sources leave it open: refused tiles make no prototype,
    and too few candidates are filled by entropy. Raises ValueError for a pool without `called`.
    """
    labelled, rows = pool.labels != UNLABELLED, np.flatnonzero(pool.unlabelled_mask)
    if not labelled.any():
        return _compact_query(pool, np.flatnonzero(_called(pool)), n, seed)
    of_class = [pool.features[pool.labels == c].mean(0) for c in np.unique(pool.labels[labelled])]
    prototypes = unit_rows(np.stack(of_class).astype(np.float64)).T
    near = [(unit_rows(pool.features[rows[b]]) @ prototypes).max(1) for b in blocks(len(rows))]
    candidates = rows[_highest(np.concatenate(near), max(n, round(share * len(rows))))]
    dealt = np.array_split(np.random.default_rng(seed).permutation(candidates), n_batches)
    parts = np.array_split(np.arange(n), n_batches)
    score = entropy(pool.probs)
    chosen = [b[_highest(score[b], len(part))] for b, part in zip(dealt, parts, strict=True)]
    return Query(np.concatenate(chosen))


def among_called(pool: Pool, n: int, seed: int, *, strategy: str) -> Query:
    """Choose by another strategy among the tiles that prompts call a target (ours).

    The least certain of the others where these are too few. Raises as `open_path` does.
    """
    called = _called(pool)
    if called.sum() > n:
        return STRATEGIES[strategy](replace(pool, unlabelled_mask=called), n, seed)
    return Query(_fill(pool, np.flatnonzero(called), n))


def _called(pool: Pool) -> np.ndarray:
    """Tiles that may be chosen and that prompts call a target, bool [N]."""
    if pool.called is None:
        raise ValueError("which tiles the prompts call a target is not known: Pool.called")
    return pool.unlabelled_mask & pool.called


def _activeml(class_name: str, pool: Pool, n: int, seed: int, **arguments: object) -> Query:
    """A pool strategy of scikit-activeml, which takes seconds to import."""
    from lib.active import activeml

    return Query(activeml.query(class_name, pool, n, seed, **arguments))


STRATEGIES: dict[str, Strategy] = {
    "unisal": unisal,
    "unisal-coverage": covering_unisal,
    "unisal-wide": partial(unisal, widen=10),
    "unisal-jsd": divergent_unisal,
    "dus": partial(unisal, compactly=False),
    "cs": partial(unisal, disagreeing=False),
    "random": by_chance,
    "entropy": partial(least_certain, score=entropy),
    "margin": partial(least_certain, score=lambda probs: -margin(probs)),
    "margin-coverage": covering_margin,
    "coreset": partial(_activeml, "CoreSet"),
    "badge": partial(_activeml, "Badge"),
    "typiclust": partial(_activeml, "TypiClust"),
    "dropquery": drop_query,
    "maxherding": herding,
    "uherding": partial(herding, uncertain=True),
    "ppal": margin_then_compact,
    "openpath": open_path,
    "unisal-coverage-open": partial(among_called, strategy="unisal-coverage"),
    "random-open": partial(among_called, strategy="random"),
}
WANT_VIEWS = ("unisal-jsd",)
WANT_DROPOUT = ("dropquery",)
WANT_FROZEN = ("openpath",)  # features of a frozen encoder in place of the networks'
# Those that look at what prompts call a target, and how they begin.
OPEN_SET = {
    "openpath": "openpath",
    "unisal-coverage-open": "openpath",
    "random-open": "random-open",
}


def strategy_by_name(strategy: str) -> Strategy:
    """Look a strategy up by its name in `STRATEGIES`, or its class name in scikit-activeml.

    Raises ValueError, naming those that there are, for an unknown one.
    """
    if strategy in STRATEGIES:
        return STRATEGIES[strategy]
    import skactiveml.pool

    if not hasattr(getattr(skactiveml.pool, strategy, None), "query"):
        raise ValueError(
            f"unknown strategy {strategy!r}. Ours: {', '.join(STRATEGIES)}; or the class name of a "
            "pool strategy of scikit-activeml, as Clue or MaxHerding"
        )
    return partial(_activeml, strategy)


def select(strategy: str, pool: Pool, n: int, seed: int) -> Query:
    """Choose n tiles by a strategy's name (`strategy_by_name`); all that are left if fewer."""
    choose = strategy_by_name(strategy)
    unlabelled = np.flatnonzero(pool.unlabelled_mask)
    return choose(pool, n, seed) if len(unlabelled) > n else Query(unlabelled)
