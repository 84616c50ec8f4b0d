"""Sets of classes that hold the true one as often as asked for, after an audit.

Split conformal prediction (Papadopoulos et al., ECML 2002; Vovk, Gammerman & Shafer, Algorithmic
Learning in a Random World, 2005) with the score s = 1 − p(true class), whose sets are the smallest
on the average (Sadinle, Lei & Wasserman, JASA 114, 2019). With s₍ₖ₎ the k-th smallest of n scores,

    C(x) = {c : 1 − p(c | x) ≤ s₍ₖ₎},   k = ⌈(n + 1) · level⌉

holds the true class of another tile with a probability of at least `level`, over draws of the
audit and of the tile, where tiles are exchangeable: drawn by chance from the same tiles, and none
has taught the networks. Of a class, or of the tiles with a single class, it says nothing.

Deviation: an audit is drawn in proportion to the predicted classes (`audit.draw_audit`), which is
no simple random sample. The number of scores below a limit then varies less than a binomial one;
were it not to vary at all, the coverage would be (k − ½)/n, which is above k/(n + 1) for k > n/2.
`tests/quality/test_conformal.py` measures it.

A tile that shows none of the classes, or that nobody could judge, has no true class that a set
could hold: its score is endless. So it counts as not covered, among the tiles and in the level.
Where such tiles are so many that s₍ₖ₎ is endless there are no sets: the level is over all draws,
those among them, and with about a tenth of such tiles the draws that do give sets cover less.

crepes and MAPIE do the same: 6,000 and 5,000 lines for the sorting and the comparison below, and
neither has a tile without a true class.
"""

import math

import numpy as np

SET_LEVEL = 0.9


def fewest_tiles(level: float = SET_LEVEL) -> int:
    """Compute the smallest n with k ≤ n: 9 for 90 %. With fewer no set but all classes is sure."""
    return math.ceil(level / (1 - level) - 1e-9)


def prediction_sets(
    probs: np.ndarray, audited: np.ndarray, labels: np.ndarray, level: float = SET_LEVEL
) -> np.ndarray:
    """Choose the classes of each tile, bool [N, C]: one, several, or none where all are unlikely.

    probs: [N, C]; audited: [n], rows that were drawn by chance, each once; labels: [n], classes,
    or below zero where no class is true or known. Raises ValueError, saying what it takes, for
    fewer than `fewest_tiles`, and where so many tiles are of no class that no set of classes could
    hold the level.
    """
    n, k = len(audited), math.ceil((len(audited) + 1) * level - 1e-9)
    if k > n:
        raise ValueError(
            f"sets of classes at {level:.0%} take {fewest_tiles(level)} audited tiles or more, "
            f"there are {n}"
        )
    own = 1 - probs[audited, np.maximum(labels, 0)]
    limit = np.sort(np.where(labels >= 0, own, np.inf))[k - 1]
    if np.isinf(limit):
        raise ValueError(
            f"{(labels < 0).sum()} of {n} audited tiles have no known class: no set of classes "
            f"holds that of {level:.0%}"
        )
    return 1 - probs <= limit
