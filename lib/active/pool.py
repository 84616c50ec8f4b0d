"""What a strategy looks at, and what it answers."""

from dataclasses import dataclass

import numpy as np

from lib.blocks import Rows


@dataclass(frozen=True)
class Pool:
    """What a strategy may look at: predictions, features and the labels so far.

    probs: softmaxes of two networks [2, N, C]; features: [N, P] (`networks.predict_members`);
    labels: [N], `UNLABELLED` without one; unlabelled_mask: bool [N], the tiles that may be chosen,
    which those without an answer to an earlier query are not. For the strategies in `WANT_VIEWS`
    and `WANT_DROPOUT` alone: per_view_probs, softmaxes of both networks for each of several random
    views [M, N, C]; dropout_probs, softmaxes of the mean of both networks with dropout before the
    head [M, N, C]. For those in `OPEN_SET`, where tiles of the pool may be of no class: called,
    bool [N], the tiles whose best prompt is a class's (`open_set.relevant_tiles`).
    """

    probs: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    unlabelled_mask: np.ndarray
    per_view_probs: np.ndarray | None = None
    dropout_probs: np.ndarray | None = None
    called: np.ndarray | None = None

    def rows(self, rows: np.ndarray) -> Rows:
        """Features of some rows, read when they are looked at."""
        return Rows(self.features.__getitem__, rows)


@dataclass(frozen=True)
class Query:
    """Rows of the pool to ask for, in order; with UniSAL's selector also how it came to them.

    disagreeing: the size of the disagreement set; filled: how many of the query had to be taken
    elsewhere, as fewer tiles disagree than are asked for.
    """

    rows: np.ndarray
    disagreeing: int | None = None
    filled: int | None = None
