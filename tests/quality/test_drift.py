"""Does the test of new tiles speak too often without a shift, and does it speak with one?"""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from lib.quality import drift

EVEN, ODD = (0.5, 0.3, 0.2), (0.1, 0.1, 0.8)


def made_up(rng, sizes, *, mix=EVEN, shift=0.0, between=0.7, n_features=48):
    """Features, classes and groups of tiles of three classes that are mostly told apart.

    sizes: of each group; between: how far groups lie apart, in standard deviations of their tiles.
    """
    groups = np.repeat(np.arange(len(sizes)), sizes)
    classes = rng.choice(len(mix), len(groups), p=mix)
    spread = np.linspace(1.5, 0.3, n_features)
    own = between * rng.standard_normal((len(sizes), n_features))[groups]
    features = spread * (rng.standard_normal((len(groups), n_features)) + own + shift)
    features[np.arange(len(groups)), classes] += 8
    return features, classes, groups


def share(n, train, new, **other):
    """How often the test speaks in `n` worlds, and the mean share of distant tiles."""
    spoke, far = [], []
    for seed in range(n):
        rng = np.random.default_rng([seed, len(train), len(new)])
        features, classes, groups = made_up(rng, train)
        errs = rng.random(len(classes)) < 0.03
        labels = np.where(errs, rng.integers(3, size=len(classes)), classes)
        found = drift.compare(features, labels, groups, *made_up(rng, new, **other)[::2], seed=seed)
        spoke.append(found.unlike)
        far.append(found.far)
    return np.mean(spoke), np.mean(far)


def at_most(n, level=drift.LEVEL):
    """The share that speaking at `level` exceeds once in a thousand times, of `n`."""
    from scipy.stats import binom

    return binom.ppf(0.999, n, level) / n


WORLDS = {  # training and new groups
    "tiles": ([1] * 300, [1] * 100),
    "few new tiles": ([1] * 300, [1] * 8),
    "few tiles": ([1] * 30, [1] * 20),
    "cases": ([10] * 30, [10] * 6),
    "cases of every size": ([1, 3, 30] * 10, [2, 40] * 4),
    "many tiles of one case": ([10] * 40, [200]),
}


@pytest.mark.slow
@pytest.mark.parametrize("mix", [EVEN, ODD])
@pytest.mark.parametrize("world", WORLDS)
def test_without_a_shift_it_speaks_no_more_often_than_it_may(world, mix):
    """Whether there are groups or not, how few tiles are new and whatever classes they have."""
    train, new = WORLDS[world]
    spoke, far = share(100, train, new, mix=mix)
    assert spoke <= at_most(100) and far < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("world", ["tiles", "few new tiles", "cases", "cases of every size"])
def test_a_shift_is_found(world):
    assert share(20, *WORLDS[world], shift=1.0)[0] >= 0.9
    assert share(20, *WORLDS[world], shift=3.0)[1] > 0.5


@pytest.mark.slow
def test_tiles_of_one_case_are_no_independent_evidence():
    """As tiles of their own they would speak of a case that differs as cases do."""
    rng, spoke = np.random.default_rng(0), []
    for seed in range(4):
        features, labels, groups = made_up(rng, [10] * 20, between=1)
        new, _, new_groups = made_up(rng, [30, 30], between=1)
        each = np.arange(len(groups)), np.arange(len(new_groups))
        given = (groups, new_groups), each
        found = [drift.compare(features, labels, g, new, h, seed=seed) for g, h in given]
        spoke.append([one.unlike for one in found])
        assert [(one.n_trained, one.n_new) for one in found] == [(20, 2), (200, 60)]
    assert np.mean(spoke, 0)[0] <= 0.25 and np.mean(spoke, 0)[1] == 1


def test_too_few_cases_never_speak_and_it_is_known_beforehand():
    """One case against eleven: one of twelve ways to deal them is the one that is seen."""
    rng = np.random.default_rng(3)
    features, labels, groups = made_up(rng, [8] * 11, mix=(1.0,))
    new, _, new_groups = made_up(rng, [40], mix=(1.0,), shift=9)
    found = drift.compare(features, labels, groups, new, new_groups)
    assert found.least == pytest.approx(1 / 12) and found.far == 1 and not found.unlike


def test_the_statistic_is_that_of_three_means_class_by_class():
    rng = np.random.default_rng(1)
    for n, n_classes in product((6, 25), (1, 4)):
        rows, classes = rng.standard_normal((n, 3)) * (1, 5, 0), rng.integers(n_classes, size=n)
        dealt = rng.random((7, n)) < 0.4
        scores, spreads, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
        scaled = scores[:, : min(n // 4, 2)]  # of three features one never changes
        assert spreads[2] < 1e-9
        squares = np.array([[((a - b) ** 2).sum() for b in scaled] for a in scaled])
        kernel = np.exp(-squares / (2 * np.median(squares[np.triu_indices(n, 1)])))
        assert drift.gaussian_kernel(rows) == pytest.approx(kernel)
        groups = rng.integers(n // 2, size=n)
        expected = np.zeros(len(dealt))
        for c in range(n_classes):
            own = np.flatnonzero(classes == c)
            kinds = {(i, j): (i == j, groups[i] == groups[j]) for i in own for j in own}
            less = {p: kernel[p] for p in kinds}
            for kind in set(kinds.values()):
                alike = [p for p in kinds if kinds[p] == kind]
                less |= {p: kernel[p] - np.mean([kernel[q] for q in alike]) for p in alike}
            for way, new in enumerate(dealt):
                x, y = [i for i in own if not new[i]], [i for i in own if new[i]]
                if x and y:
                    pairs = (x, x), (y, y), (x, y)
                    means = [np.mean([less[i, j] for i in a for j in b]) for a, b in pairs]
                    weight = len(x) * len(y) / (len(x) + len(y))
                    expected[way] += (means[0] + means[1] - 2 * means[2]) * weight
        given = drift.class_wise_mmd(kernel, classes, groups, dealt)
        assert given == pytest.approx(expected, abs=1e-12)


def test_groups_are_drawn_in_turn():
    groups = np.array(["a"] * 50 + ["b"] * 2 + ["c"] * 8)
    for most, counts in {3: [1, 1, 1], 8: [3, 2, 3], 60: [50, 2, 8], 99: [50, 2, 8]}.items():
        drawn = groups[drift.draw_by_group(groups, most, seed=0)]
        assert [np.sum(drawn == name) for name in "abc"] == counts


def test_the_table_of_shifts_names_the_one_that_moves_the_tiles(tmp_path):
    """Features and probabilities as a run leaves them, groups by name, test tiles in between."""
    rng = np.random.default_rng(4)
    features, classes, groups = made_up(rng, [10] * 24)
    table = pd.DataFrame({"tile": range(240), "group": [f"slide {n}" for n in groups]})
    tested = groups % 4 == 0
    for name, moved in {"": 0, "blur1": 0.1, "eosin+1.0": 2}.items():
        (tmp_path / f"at{name}").mkdir()
        np.save(tmp_path / f"at{name}" / "mean_features.npy", features + moved)
        np.save(tmp_path / f"at{name}" / "view_probs.npy", np.eye(3)[classes])
    folders = {name: tmp_path / f"at{name}" for name in ("", "blur1", "eosin+1.0")}
    found = drift.at_shifts(folders, table[~tested], table[tested], seed=0).set_index("shift")
    assert list(found.index) == ["none", "blur1", "eosin+1.0"]
    assert found.speaks.iloc[2] == "yes" and found.p.iloc[2] < 0.01
    assert found.p.is_monotonic_decreasing and found["distant tiles"].iloc[2] > 0.5
