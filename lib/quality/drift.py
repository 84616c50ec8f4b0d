"""Are new tiles unlike those that trained a classifier? A permutation test, and a share of tiles.

**The test.** The maximum mean discrepancy of Gretton, Borgwardt, Rasch, Schölkopf & Smola, "A
Kernel Two-Sample Test", JMLR 13:723 (2012), in its biased form: with k(x, y) =
exp(−‖x − y‖² / 2σ²), σ the median distance, X the n training and Y the m new tiles,

    MMD² = mean k(x, x') + mean k(y, y') − 2 mean k(x, y)

Ours: tiles are compared on the principal components of both sides together, each scaled to unit
variance, as a stain may shift them where tissue varies little (chosen on synthetic tiles). It is
taken class by class, of each k less what is expected of such a pair, and n m / (n + m) times that
is added up, so that another mix of classes is no evidence by itself, as far as the classes can be
told apart. Tiles of a group (case, slide) are no independent evidence: the sides are dealt anew
among whole groups, and no group counts with many more tiles than another. The test speaks at
p ≤ `LEVEL`; without a difference as often as that, or less.

**The share.** Of the new tiles, those farther from the nearest class than 99% of the training
tiles, by the distance of Mahalanobis with one covariance for all classes (Lee, Lee, Lee & Shin,
NeurIPS 2018) on principal components. It does not tell why tiles are strange, and a low one is no
comfort: beside colon tiles it was 0 to 1% of such tiles in other stain, blur or compression, 5 to
23% of lung and of other hospitals', none of fat; the test called the last three unlike.

A tile that took part in a fit lies nearer than others, so for both every tile, new ones too, is
looked at by one of `N_FITS` fits to the training tiles, each without a part of the groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd

LEVEL = 0.05
DEALS = 999
MOST_TILES = 512  # of either side that are looked at
FEWEST_FITTED = 8  # training tiles, below which a fit says nothing
N_COMPONENTS, N_WHITENED = 32, 64  # of the share, of the test
N_FITS = 5
NEAR = 0.99  # of the training tiles


@dataclass(frozen=True)
class Drift:
    """What the comparison says.

    p: of the test; least: the smallest p that so many groups allow; far: the share of the new tiles
    that are distant; n_trained, n_new: groups, of one tile where there are none.
    """

    p: float
    least: float
    far: float
    n_trained: int
    n_new: int

    @property
    def unlike(self) -> bool:
        return self.p <= LEVEL


def draw_by_group(groups: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Positions of at most `most` tiles, by chance: one of every group, then another of every one.

    groups: [N]. The positions come in this order.
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    turn = pd.Series(order).groupby(groups[order]).cumcount().to_numpy()
    return order[np.argsort(turn, kind="stable")][:most]


def compare(
    trained: np.ndarray,
    labels: np.ndarray,
    trained_groups: np.ndarray,
    new: np.ndarray,
    new_groups: np.ndarray,
    *,
    seed: int = 0,
) -> Drift | None:
    """Compare new tiles with training tiles; None where these, or their groups, are too few.

    Parameters
    ----------
    trained, new : features, [N, E] and [M, E]
    labels : int [N], the predicted class of the training tiles
    trained_groups, new_groups : [N] and [M]; a number of its own for a tile without a group
    seed : of the draws, the fits and the deals

    """
    kept = draw_by_group(trained_groups, MOST_TILES, seed)
    looked_at = draw_by_group(new_groups, MOST_TILES, seed)
    group = np.unique(trained_groups[kept], return_inverse=True)[1]
    new_group = np.unique(new_groups[looked_at], return_inverse=True)[1]
    n_trained, n_new = int(group.max()) + 1, int(new_group.max()) + 1
    each = min(np.median(np.bincount(group)), np.median(np.bincount(new_group)))
    rows = np.concatenate([trained[kept], new[looked_at]]).astype(np.float64)
    group = np.concatenate([group, new_group + n_trained])
    is_new = group >= n_trained
    nearest = _nearest_class(rows, labels[kept], group, is_new, seed)
    if nearest is None:
        return None
    distances, classes = nearest
    far = np.mean(distances[is_new] > np.quantile(distances[~is_new], NEAR))
    # Tiles come in a random order, so the first ones of a group are a draw.
    some = pd.Series(group).groupby(group).cumcount().to_numpy() < each
    p, least = _permutation_test(rows[some], classes[some], group[some], is_new[some], seed)
    return Drift(p, least, float(far), n_trained, n_new)


def _nearest_class(
    rows: np.ndarray, labels: np.ndarray, groups: np.ndarray, is_new: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Squared distance to the nearest class and which it is, [N + M], by fits to other groups.

    None where a fit would have fewer than `FEWEST_FITTED` tiles.
    """
    from sklearn.covariance import LedoitWolf
    from sklearn.decomposition import PCA

    chance, n_trained = np.random.default_rng(seed), groups[~is_new].max() + 1
    n_fits = min(N_FITS, n_trained)  # each leaves out as many training groups as any other
    sides = n_trained, groups.max() + 1 - n_trained
    fit = np.concatenate([chance.permutation(n) % n_fits for n in sides])[groups]
    fitted = [np.flatnonzero(~is_new & (fit != n)) for n in range(n_fits)]
    fewest = min(map(len, fitted))
    if fewest < FEWEST_FITTED:
        return None
    distances, classes = np.empty(len(rows)), np.empty(len(rows), np.int64)
    for n, others in enumerate(fitted):
        own = np.flatnonzero(fit == n)
        components = PCA(min(N_COMPONENTS, fewest // 4), random_state=seed)
        seen, judged = components.fit_transform(rows[others]), components.transform(rows[own])
        known, label = np.unique(labels[others], return_inverse=True)
        means = np.stack([seen[label == c].mean(0) for c in range(len(known))])
        spread = LedoitWolf(assume_centered=True).fit(seen - means[label])
        squares = np.stack([spread.mahalanobis(judged - mean) for mean in means])
        distances[own], classes[own] = squares.min(0), known[squares.argmin(0)]
    return distances, classes


def gaussian_kernel(rows: np.ndarray) -> np.ndarray:
    """The kernel of all pairs of rows [N, E], on whitened principal components: float64 [N, N].

    Up to `N_WHITENED` of them, and no more than a quarter of the rows.
    """
    centred = rows - rows.mean(0)
    spreads, axes = np.linalg.eigh(centred @ centred.T)  # the axes are the whitened components
    most = min(N_WHITENED, len(rows) // 4)
    whitened = axes[:, -most:][:, spreads[-most:] > 1e-9 * spreads[-1]]
    lengths = (whitened**2).sum(1)
    squares = np.maximum(lengths[:, None] + lengths - 2 * whitened @ whitened.T, 0)
    median = np.median(squares[np.triu_indices(len(rows), 1)])
    return np.exp(-squares / max(2 * median, 1e-12))


def class_wise_mmd(
    kernel: np.ndarray, classes: np.ndarray, groups: np.ndarray, is_new: np.ndarray
) -> np.ndarray:
    """Σ over the classes of MMD² n m / (n + m), [B], for B ways to deal the sides.

    kernel: [N, N], of which, in each class, what is expected is taken off: the mean of all pairs of
    one group, of two groups, 1 of a tile with itself. classes, groups: [N]; is_new: bool [B, N]. A
    class with tiles of one side alone adds nothing.
    """
    total = np.zeros(len(is_new))
    for inside in (np.flatnonzero(classes == c) for c in np.unique(classes)):
        own = kernel[np.ix_(inside, inside)]
        one, same = np.eye(len(inside), dtype=bool), groups[inside, None] == groups[inside]
        for pairs in (one, same & ~one, ~same):
            own[pairs] -= own[pairs].mean() if pairs.any() else 0
        new = is_new[:, inside].astype(np.float64)
        m = new.sum(1, keepdims=True)
        n = len(inside) - m
        signed = new / np.maximum(m, 1) - (1 - new) / np.maximum(n, 1)
        total += ((signed @ own * signed).sum(1, keepdims=True) * n * m / (n + m))[:, 0]
    return total


def _permutation_test(
    rows: np.ndarray, classes: np.ndarray, groups: np.ndarray, is_new: np.ndarray, seed: int
) -> tuple[float, float]:
    """The p of `class_wise_mmd` when groups are dealt anew, and the least that it could be."""
    side = np.zeros(groups.max() + 1, bool)
    side[groups] = is_new
    dealt = np.repeat(side[None], DEALS + 1, 0)
    dealt[1:] = np.random.default_rng(seed).permuted(dealt[1:], axis=1)
    values = class_wise_mmd(gaussian_kernel(rows), classes, groups, dealt[:, groups])
    least = 1 / min(comb(len(side), int(side.sum())), DEALS + 1)
    return max(float(np.mean(values >= values[0] - 1e-9)), least), least


def at_shifts(
    folders: Mapping[str, Path], train: pd.DataFrame, test: pd.DataFrame, *, seed: int
) -> pd.DataFrame:
    """Compare test tiles under each shift with the training tiles as they are: a row per shift.

    folders: by shift, what `embed_tiles` and `embed_views` wrote; "" is none; train, test: columns
    tile and group. The class of a training tile is that of its prompts.
    """

    def read(folder: Path, name: str, tiles: pd.DataFrame) -> np.ndarray:
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)[tiles.tile]

    trained = read(folders[""], "mean_features", train)
    labels = read(folders[""], "view_probs", train).argmax(1)
    rows = []
    for shift, folder in folders.items():
        new, groups = read(folder, "mean_features", test), test.group.to_numpy()
        found = compare(trained, labels, train.group.to_numpy(), new, groups, seed=seed)
        if found is not None:
            said = {"speaks": "yes" * found.unlike, "p": found.p, "least p": found.least}
            rows.append({"shift": shift or "none", **said, "distant tiles": found.far})
    return pd.DataFrame(rows)
