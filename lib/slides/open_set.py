"""Open-set prompting: tiles of tissue that is none of the target classes are named and left out.

VLM-CPL (arXiv 2403.15836, last version) says only that irrelevant tiles are filtered from slides;
the recipe is OpenPath's (MICCAI 2025, same first author): a softmax over the prompts of the target
classes and of other tissue, and a tile stays if its best prompt is a target's. Tiles are not
dropped by a threshold, so nothing has to be chosen.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

# Which tiles count: all; those whose best prompt is a target's; those that networks leave, which
# learn other tissue as further classes.
ALL_TISSUE, OPEN_SET, LEARNT = "all tissue", "open set", "open set, learnt"
# OpenPath's first three, the neighbouring pool of its group, and what glass and pens leave.
OTHER_TISSUE = (
    *("stroma", "mucus", "fibrous tissue"),
    *("adipose tissue", "smooth muscle", "lymphocytes", "necrotic tissue", "debris"),
    *("squamous epithelium", "nerves", "vessels", "blood", "background"),
)


def relevant_tiles(probs: np.ndarray, n_targets: int) -> np.ndarray:
    """Tiles whose most probable prompt is a target's, bool [N].

    probs: [N, C + K], softmax over C targets, which come first, and K other tissues. Of equal
    probabilities the first counts, so a tie is a target's.
    """
    return probs.argmax(1) < n_targets


def target_probabilities(probs: np.ndarray, n_targets: int) -> np.ndarray:
    """Softmax over the target prompts alone, float [N, C], from that over all, [N, C + K].

    Their shares of the larger softmax; where these round to nothing all targets are alike.
    """
    targets = np.asarray(probs[:, :n_targets], np.float64)
    total = targets.sum(1, keepdims=True)
    alike = np.full_like(targets, 1 / n_targets)
    return np.divide(targets, total, out=alike, where=total > 0)


def others_as_one(probs: np.ndarray, n_targets: int) -> np.ndarray:
    """Give all other tissue one class, the last, with the probability of the best of it.

    The most probable class stays what it is in probs, [N, C + K], as it does not with their sum;
    divided by their total, float [N, C + 1].
    """
    best = np.column_stack([probs[:, :n_targets], probs[:, n_targets:].max(1)])
    return best / best.sum(1, keepdims=True)


def dropped_tiles(
    probs: np.ndarray, others: Sequence[str], relevant: np.ndarray | None = None
) -> pd.DataFrame:
    """Count the tiles that each other tissue took: a line per name, sorted by tiles.

    probs: [N, C + K]; others: [K], their names; relevant: bool [N], tiles that do show a target,
    where that is known: then `wrongly` counts those among the dropped.
    """
    best = probs.argmax(1) - (probs.shape[1] - len(others))

    def counts(took: np.ndarray) -> np.ndarray:
        return np.bincount(took[took >= 0], minlength=len(others))

    table = pd.DataFrame({"other tissue": others, "tiles": counts(best)})
    table["share"] = table.tiles / len(probs)
    if relevant is not None:
        table["wrongly"] = counts(best[relevant])
    return table.sort_values("tiles", ascending=False, kind="stable", ignore_index=True)


def open_set_quality(kept: np.ndarray, relevant: np.ndarray) -> dict[str, float | None]:
    """Share of tiles that are irrelevant; of these that were dropped; of relevant ones, wrongly.

    kept, relevant: bool [N]. A share of no tiles is None.
    """
    groups = {"irrelevant_dropped": ~relevant, "relevant_dropped": relevant}
    shares = {name: float((~kept)[g].mean()) if g.any() else None for name, g in groups.items()}
    return {"irrelevant": float((~relevant).mean()), **shares}
