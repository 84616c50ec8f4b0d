"""A random audit: a few tiles, drawn by chance, tell how many of all predictions are correct.

**The sample.** Tiles are lined up by their predicted class, in each class by chance, and n of N are
drawn by ordered pivotal sampling (Deville & Tillé, Biometrika 85, 1998; in a line it is Deville's
systematic sampling, Chauvet, Bernoulli 18, 2012): every tile with the same probability n/N, every
class in proportion, to within two tiles.

**The interval.** With X correct tiles of n, Clopper & Pearson's (Biometrika 26, 1934) limits of a
binomial X cover the accuracy p of all N predictions with at least 95 %:

1. The sample is strongly Rayleigh. Of a part of the line let F₁(x) and F₀(x) be the generating
   polynomials of what is drawn, given that the tile that still waits is drawn or not; for a single
   tile they are x and 1. Joining two parts whose waiting tiles have probabilities a and b gives

       a + b < 1:  F₀ = A₀ B₀,   F₁ ∝ a A₁ B₀ + b A₀ B₁
       a + b ≥ 1:  F₁ = A₁ B₁,   F₀ ∝ (1 − b) A₁ B₀ + (1 − a) A₀ B₁

   so that F₁/F₀ stays in the upper half-plane where all x are, and no polynomial has a zero there.
2. Hence X is distributed as a sum of at most n independent draws of unequal probabilities (its
   polynomial has real zeros only) with mean n p.
3. Such a sum lies between b ≤ n p ≤ c at least as often as a binomial one (Hoeffding, Annals of
   Mathematical Statistics 27, 1956, theorem 4). The values of X whose limits hold p are such a
   b … c, unless n (1 − p) or n p < 0.0254; then P(X ≠ n), or P(X ≠ 0), is below that by Markov.

Limits per class, combined by Bonferroni's rule, hold too and are several times as wide. That the
tiles are N and not endless makes the interval wider than it need be; what the labels rule out for
certain (fewer correct tiles than were seen, fewer incorrect ones) is cut off, so that with all
tiles labelled the interval is a point. Audits drawn from several seeds add up: sums of independent
sums.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.labels import UNANSWERED
from lib.random_draws import AUDIT, tile_draws
from lib.report.statistics import LEVEL, Estimate

MOST_LABELS = 20_000  # that `labels_needed` looks for


def clopper_pearson(
    correct: np.ndarray | int, n: np.ndarray | int, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Compute exact limits of a probability after `correct` of `n` trials, float64, broadcast.

    low: P(X ≥ correct | low) = (1 − level) / 2; high: P(X ≤ correct | high) likewise; 0 and 1 at
    the ends, and for n = 0. Raises ValueError unless 0 ≤ correct ≤ n.
    """
    from scipy.stats import beta

    correct, n = np.broadcast_arrays(np.asarray(correct), np.asarray(n))
    if not ((correct >= 0) & (correct <= n)).all():
        raise ValueError("of n trials between none and n can be correct")
    incorrect, tail = n - correct, (1 - level) / 2
    low = beta.ppf(tail, np.maximum(correct, 1), incorrect + 1)
    high = beta.ppf(1 - tail, correct + 1, np.maximum(incorrect, 1))
    return np.where(correct > 0, low, 0.0), np.where(incorrect > 0, high, 1.0)


def draw_audit(
    tiles: np.ndarray, predicted: np.ndarray, n: int, *, seed: int, at_least: int = 0
) -> pd.DataFrame:
    """Draw the tiles to label: n of all in proportion to the predicted classes, some of rare ones.

    Parameters
    ----------
    tiles, predicted : [N], tile numbers, whose order does not matter, and classes.
    at_least : classes with fewer tiles than this in the n get more of theirs, drawn by chance;
        these tell about their class alone, and do not count in the accuracy.

    Returns
    -------
    A line per tile, those that count first: tile, predicted, counted (bool).

    Raises
    ------
    ValueError : unless 1 ≤ n ≤ N.
    """
    if not 1 <= n <= len(tiles):
        raise ValueError(f"an audit of {n} of {len(tiles)} tiles: draw between 1 and all of them")
    tiles, predicted = np.asarray(tiles), np.asarray(predicted)
    order, chance = tile_draws(tiles, 2, seed, AUDIT).T
    line = np.lexsort([tiles, order, predicted])
    counted = np.zeros(len(tiles), bool)
    counted[line[_pivotal(chance[line], n)]] = True
    more = []
    for c in np.unique(predicted) if at_least else ():
        lacking = at_least - (counted & (predicted == c)).sum()
        rest = line[(predicted[line] == c) & ~counted[line]]
        more += rest[: max(0, lacking)].tolist()
    rows = [*np.flatnonzero(counted).tolist(), *more]
    return pd.DataFrame(
        {"tile": tiles[rows], "predicted": predicted[rows], "counted": counted[rows]}
    )


def _pivotal(chance: np.ndarray, n: int) -> list[int]:
    """Draw n positions in a line of N tiles by ordered pivotal sampling. chance: [N] in [0, 1).

    In whole numbers: a probability is a count of N-ths, so that the last one is 0 or 1.
    """
    whole = len(chance)
    drawn, waiting, a = [], 0, n
    for idx in range(1, whole):
        both = a + n
        if both < whole:
            stays = chance[idx] * both < a
            waiting, a = (waiting if stays else idx), both
        else:
            goes = chance[idx] * (2 * whole - both) < whole - n
            drawn.append(waiting if goes else idx)
            waiting, a = (idx if goes else waiting), both - whole
    return [*drawn, waiting] if a == whole else drawn


def label_audit(sample: pd.DataFrame, answers: Mapping[Any, int]) -> pd.DataFrame:
    """Add the column label to a sample: the answers, `UNANSWERED` where there is none yet.

    answers: of an oracle (`active.loop.Oracle`), label or `REFUSED` by tile, a number or a name.
    """
    labels = [answers.get(tile, UNANSWERED) for tile in sample.tile.tolist()]
    return sample.assign(label=labels)


def audited_accuracy(sample: pd.DataFrame, n_tiles: int) -> Estimate:
    """Estimate the accuracy of all `n_tiles` predictions, with its exact interval of 95 %.

    sample: of `label_audit`, or several of them, one below the other. The value is the share of
    correct tiles of those that count: all weigh alike, as classes are there in proportion.
    `REFUSED` (none of the classes, or cannot be judged) is incorrect: the prediction names a class,
    and a person did not confirm it; tiles that were left out would be no sample of all any more.
    Tiles without an answer are taken as incorrect for the lower limit, as correct for the upper
    one, and left out of the value. Raises ValueError when no tile that counts has an answer.
    """
    counted = sample[sample.counted]
    correct, open_ = (counted.label == counted.predicted).sum(), (counted.label == UNANSWERED).sum()
    if open_ == len(counted):
        raise ValueError("no tile of the audit has an answer yet")
    low = float(clopper_pearson(correct, len(counted))[0])
    high = float(clopper_pearson(correct + open_, len(counted))[1])
    seen = sample[sample.label != UNANSWERED].drop_duplicates("tile")
    least = (seen.label == seen.predicted).sum() / n_tiles
    largest = 1 - (seen.label != seen.predicted).sum() / n_tiles
    value = float(np.clip(correct / (len(counted) - open_), least, largest))
    return Estimate(value, max(low, float(least)), min(high, float(largest)))


def class_precisions(
    sample: pd.DataFrame, predicted: np.ndarray, class_names: Sequence[str]
) -> pd.DataFrame:
    """Estimate the precision of each predicted class, with an exact interval of 95 % per class.

    sample: of `label_audit`; predicted: [N], of all tiles. In a class every set of tiles is as
    likely to be labelled as any other, so a correct one more or less is hypergeometric, for which
    Clopper and Pearson's limits hold. A line per class: class, predicted (tiles), labelled,
    correct, precision, low, high; NaN, 0 and 1 without a label. Intervals of all classes at once
    hold less often than 95 %.
    """
    seen = sample[sample.label != UNANSWERED].drop_duplicates("tile")
    correct = seen.predicted[seen.predicted == seen.label]
    table = pd.DataFrame({"class": class_names})
    sets = {"predicted": predicted, "labelled": seen.predicted, "correct": correct}
    for name, classes in sets.items():
        table[name] = np.bincount(classes, minlength=len(class_names))
    table["precision"] = table.correct / table.labelled
    table["low"], table["high"] = clopper_pearson(table.correct.values, table.labelled.values)
    return table


def labels_needed(accuracy: float, half_width: float) -> int:
    """Compute how many labels make an interval of ± half_width or less at this accuracy.

    The smallest n from which on the limits of round(n · accuracy) of n are at most
    2 · half_width apart. Raises ValueError where `MOST_LABELS` are not enough.
    """
    n = np.arange(1, MOST_LABELS + 1)
    low, high = clopper_pearson(np.round(n * accuracy).astype(int), n)
    wide = np.flatnonzero(high - low > 2 * half_width)
    if len(wide) and wide[-1] == len(n) - 1:
        raise ValueError(f"± {half_width:g} takes more than {MOST_LABELS} labels")
    return int(n[wide[-1] + 1]) if len(wide) else 1


def audit_sentence(
    sample: pd.DataFrame,
    n_tiles: int,
    half_widths: Sequence[float] = (0.05, 0.03),
    what: str = "tiles",
) -> str:
    """Say in a sentence what the audit found, and how many labels more would narrow it how far.

    sample: see `audited_accuracy`; half_widths: of the intervals to be had; what: is audited.
    """
    estimate, counted = audited_accuracy(sample, n_tiles), sample[sample.counted]
    correct, n = int((counted.label == counted.predicted).sum()), len(counted)
    unknown = int((counted.label == UNANSWERED).sum())
    text = (
        f"{correct} of {n} {what} are correct{f', {unknown} have no answer' * (unknown > 0)}: "
        f"between {estimate.low:.1%} and {estimate.high:.1%} "
        f"of all {n_tiles} predictions, with a certainty of at least {LEVEL:.0%}."
    )
    for half_width in half_widths:
        more = labels_needed(estimate.value, half_width) - n
        wanted = f"± {100 * half_width:g} points"
        if (estimate.high - estimate.low) / 2 <= half_width:
            text += f" That is {wanted} or better."
        elif n + more >= n_tiles:
            text += f" For {wanted}, label them all."
        else:
            text += f" Label {max(more, 1)} more for {wanted}."
    return text


def repeat_audits(
    tiles: np.ndarray,
    predicted: np.ndarray,
    labels: np.ndarray,
    n: int,
    *,
    seed: int,
    repeats: int = 200,
) -> pd.DataFrame:
    """Draw other audits of the same predictions, where all labels are known.

    A line per audit: value, low, high, covers (whether the interval holds the accuracy). tiles,
    predicted, labels: [N].
    """
    truth, answers = float((predicted == labels).mean()), dict(zip(tiles, labels, strict=True))
    lines = []
    for repeat in range(repeats):
        sample = draw_audit(tiles, predicted, n, seed=seed * 1_000_003 + repeat + 1)
        estimate = audited_accuracy(label_audit(sample, answers), len(tiles))
        lines.append((estimate.value, estimate.low, estimate.high))
    audits = pd.DataFrame(lines, columns=["value", "low", "high"])
    return audits.assign(covers=(audits.low - 1e-12 <= truth) & (truth <= audits.high + 1e-12))
