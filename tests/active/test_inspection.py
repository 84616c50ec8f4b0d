"""A batch and a query, taken apart: the numbers are those of the losses and of plain loops."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA

from lib.active import inspection, strategies
from lib.labels import UNLABELLED
from lib.learning import losses
from lib.learning.networks import frozen_head


def a_batch(seed=0, threshold=0.4):
    """Twelve tiles, the first five labelled, as two networks with projectors see them."""
    torch.manual_seed(seed)
    features = torch.randn(2, 12, 6)
    members = [frozen_head(np.zeros(6), np.ones(6), 3, projection=4) for _ in "ab"]
    labels = np.append(np.arange(5) % 3, np.full(7, UNLABELLED))
    batch = inspection.look_at_batch(
        members, lambda tiles, network, step: features[network][tiles], np.arange(12), labels,
        threshold,
    )  # fmt: skip
    outputs = [member(views) for member, views in zip(members, features, strict=True)]
    return batch, outputs, torch.from_numpy(labels[:5])


def test_the_terms_add_up_to_the_loss():
    for seed in range(4):
        batch, outputs, labels = a_batch(seed)
        objective = losses.DualViewTraining(0.4, weight=0.3, contrast=0.2)
        total, _ = objective(outputs, labels, torch.arange(12), 1.0)
        terms = batch.terms()
        expected = terms["cross-entropy"] + 0.3 * terms["cross supervision"]
        expected += 0.2 * terms["contrast"]
        assert total.sum().item() == pytest.approx(expected, rel=1e-5), seed
        assert terms["cross supervision"] > 0, seed


def test_known_are_labels_and_what_both_networks_are_sure_of():
    pseudo_labels = set()
    for seed in range(12):
        batch, outputs, labels = a_batch(seed, threshold=0.36)
        known = batch.known.tolist()
        assert known[:5] == labels.tolist(), seed
        for row, (a, b) in enumerate(zip(*(torch.softmax(o[0], 1) for o in outputs), strict=True)):
            sure = min(a.max(), b.max()) > 0.36 and a.argmax() == b.argmax()
            if row >= 5:
                assert known[row] == (a.argmax() if sure else UNLABELLED), (seed, row)
        pseudo_labels |= set(known[5:])
    assert pseudo_labels == {UNLABELLED, 0, 1, 2}


def test_shapes_and_cosines():
    batch, outputs, _ = a_batch()
    assert batch.probs.shape == (2, 7, 3)
    np.testing.assert_allclose(batch.probs.sum(2), 1, atol=1e-5)
    a, b = (torch.nn.functional.normalize(o[1], dim=1).detach().numpy() for o in outputs)
    cosines = batch.cosines
    assert cosines[3, 3] == pytest.approx(a[3] @ b[3], abs=1e-5)
    assert cosines[3, 8] == pytest.approx((a[3] @ a[8] + b[3] @ b[8]) / 2, abs=1e-5)


# --- one query -----------------------------------------------------------------------------------


def test_clusters_begin_with_the_tile_that_is_queried():
    for seed in range(3):
        features = np.random.default_rng(seed).normal(size=(30, 3))
        members = inspection.cluster_members(features, 4, seed)
        assert sorted(np.concatenate(members).tolist()) == list(range(30)), seed
        queried = strategies.compact(features, 4, seed)
        assert {rows[0] for rows in members} == set(queried.tolist()), seed
        assert [len(rows) for rows in members] == sorted(map(len, members), reverse=True), seed
    assert inspection.cluster_members(np.zeros((0, 3)), 4, 0) == []


def test_main_directions_are_the_principal_components():
    features = np.random.default_rng(0).normal(size=(30, 5)) * [1, 9, 1, 4, 1]
    plane = inspection.main_directions(features)
    expected = PCA(2).fit_transform(features)
    np.testing.assert_allclose(np.abs(plane), np.abs(expected), atol=1e-9)
    for n in (0, 1, 2):
        assert inspection.main_directions(features[:n]).shape == (n, 2), n


def test_a_mask_is_described_and_so_is_an_empty_one():
    probs = np.array([[[0.5, 0.5], [1.0, 0.0]]] * 2)
    right = np.array([False, True])
    everything = inspection.describe_mask(np.ones(2, bool), probs, right)
    assert (everything["tiles"], everything["mean prediction wrong"]) == (2, 0.5)
    assert everything["mean entropy"] == pytest.approx(np.log(2) / 2)
    nothing = inspection.describe_mask(np.zeros(2, bool), probs, right)
    assert nothing["tiles"] == 0 and np.isnan(nothing["mean entropy"])


def test_a_query_is_described_by_what_its_answers_are_worth():
    pool = pd.DataFrame({"label": [0, 1, 1, 0], "group": list("gghi")})
    features = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0], [1.0, 1.0]])
    disagree, right = np.array([True, False, True, False]), np.array([False, True, True, True])
    described = inspection.describe_query(
        strategies.Query(np.array([0, 1, 2]), 2, 1), pool, features, disagree, right
    )
    assert described == {
        "tiles": 3, "wrong now": pytest.approx(1 / 3), "networks disagree": pytest.approx(2 / 3),
        "classes": 2, "groups": 2, "distance to the nearest": pytest.approx(1 / 3),
        "filled by entropy": 1,
    }  # fmt: skip
