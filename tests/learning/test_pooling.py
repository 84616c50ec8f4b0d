"""Pooling: attention against torchmil's and a loop, padding, order, learning it; sums by loops."""

import numpy as np
import pytest
import torch

from lib.learning import pooling, setups, whole_networks
from lib.learning.batches import TrainingTiles
from lib.learning.losses import Supervised

E, H, A, C = 6, 5, 4, 3


@pytest.fixture
def network():
    torch.manual_seed(0)
    mean, std = torch.randn(E), torch.rand(E) + 0.5
    return pooling.AttentionClassifier(mean, std, C, hidden=H, attention=A).eval()


def bag(n, seed=0, padding=0):
    tiles = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, n, E))).float()
    return torch.cat(
        [torch.cat([tiles, torch.ones(1, n, 1)], 2), torch.zeros(1, padding, E + 1)], 1
    )


def test_the_pooling_is_that_of_torchmil(network):
    pool = pytest.importorskip("torchmil.nn").AttentionPool(H, A, act="tanh", gated=True)
    pool.fc1.module.load_state_dict(network.tanh.state_dict())
    pool.fc_gated.module.load_state_dict(network.gate.state_dict())
    pool.fc2.load_state_dict(network.weight.state_dict())
    bags = torch.cat([bag(7, padding=2), bag(9, seed=1)])
    tiles = network.body((bags[..., :-1] - network.mean) / network.std)
    pooled, scores = pool(tiles, bags[..., -1], return_att=True)
    logits, weights = network.forward_features(bags)
    torch.testing.assert_close(logits, network.head(pooled))
    torch.testing.assert_close(weights[1], torch.softmax(scores[1], 0))


def test_the_attention_is_that_of_a_loop_over_the_tiles(network):
    logits, weights = network.forward_features(bag(4))
    scores, hidden = [], []
    for tile in bag(4)[0]:
        h = network.body((tile[:-1] - network.mean) / network.std)
        gated = torch.tanh(network.tanh(h)) * torch.sigmoid(network.gate(h))
        scores.append(network.weight(gated).item())
        hidden.append(h)
    a = np.exp(scores) / np.exp(scores).sum()
    torch.testing.assert_close(weights[0], torch.tensor(a, dtype=torch.float32))
    pooled = sum(float(weight) * h for weight, h in zip(a, hidden, strict=True))
    torch.testing.assert_close(logits[0], network.head(pooled))


def test_padding_counts_for_nothing_whatever_stands_there(network):
    alone, padded = bag(5), bag(5, padding=3)
    padded[0, 5:, :-1] = 1e3
    torch.testing.assert_close(network(padded), network(alone))
    assert (network.forward_features(padded)[1][0, 5:] == 0).all()


def test_the_order_of_the_tiles_does_not_matter(network):
    tiles = bag(8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    logits, weights = network.forward_features(tiles)
    moved, moved_weights = network.forward_features(tiles[:, order])
    torch.testing.assert_close(moved, logits)
    torch.testing.assert_close(moved_weights, weights[:, order])


def test_a_slide_without_tiles_is_finite(network):
    logits, weights = network.forward_features(bag(0, padding=2))
    torch.testing.assert_close(logits[0], network.head.bias)
    assert (weights == 0).all()


# --- bags ----------------------------------------------------------------------------------------

N_SLIDES = 30


@pytest.fixture
def cohort(tmp_path):
    """Slides of which a few tiles show their class, the others noise; the last slide is empty."""
    chance = np.random.default_rng(0)
    labels = np.arange(N_SLIDES) % C
    features, rows, start = [], [], 0
    for label in labels:
        n = int(chance.integers(5, 20))
        tiles = chance.normal(size=(n, E))
        tiles[:3, label] += 6
        features.append(tiles)
        rows.append(np.arange(start, start + n))
        start += n
    np.save(tmp_path / "features.npy", np.concatenate(features).astype(np.float16))
    return pooling.Bags(tmp_path / "features.npy", (*rows, np.arange(0))), labels


def test_a_bag_holds_the_tiles_of_its_slide_and_padding(cohort):
    bags, _ = cohort
    padded = bags.padded([bags.rows[0], bags.rows[-1], bags.rows[1]])
    features = np.load(bags.file)
    assert padded.shape[1] == max(len(bags.rows[0]), len(bags.rows[1]))
    for n, slide in enumerate((0, N_SLIDES, 1)):
        rows = bags.rows[slide]
        assert np.array_equal(padded[n, : len(rows), :-1], features[rows].astype(np.float32))
        assert padded[n, :, -1].sum() == len(rows) and not padded[n, len(rows) :].any()


def test_a_step_sees_at_most_so_many_tiles_drawn_by_chance(cohort):
    bags, _ = cohort
    slides = np.arange(4)
    drawn = [
        bags.sample(slides, network, step, seed=0, max_tiles=4)
        for network, step in ((0, 0), (0, 0), (1, 0), (0, 1))
    ]
    assert all(batch.shape == (4, 4, E + 1) for batch in drawn)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[3])
    alone = bags.sample(slides[1:2], 0, 0, seed=0, max_tiles=4)
    assert torch.equal(alone[0], drawn[0][1]), "draws do not depend on the batch"
    every = bags.sample(slides, 0, 0, seed=0, max_tiles=100)
    assert torch.equal(every, bags.padded([bags.rows[slide] for slide in slides]))


def fit(cohort, folder, steps=60):
    bags, labels = cohort
    slides = np.arange(N_SLIDES)
    setup = pooling.attention_setup(bags, slides, C, steps=steps, seed=0, max_tiles=12)
    data = TrainingTiles(slides, labels, [*"abc"])
    (trained,) = setups.train_all([setups.Training(setup, Supervised(), data, 0, folder)])
    return trained.networks


def test_the_trainer_learns_it_and_attention_finds_the_tiles_that_count(cohort, tmp_path):
    bags, labels = cohort
    networks = fit(cohort, tmp_path / "nets")
    probs, weights = pooling.predict_slides(networks, bags, np.arange(N_SLIDES + 1))
    assert (probs[:-1].argmax(1) == labels).mean() > 0.9
    assert probs.dtype == np.float32 and np.allclose(probs.sum(1), 1, atol=1e-5)
    assert np.allclose(probs[-1], 1 / C) and len(weights[-1]) == 0
    assert [len(w) for w in weights] == [len(rows) for rows in bags.rows]
    shares = [w[:3].sum() / (3 / len(w)) for w in weights[:-1]]
    assert np.mean(shares) > 1.2, "more than their share"


def test_an_interrupted_training_ends_as_one_that_was_not(cohort, tmp_path, monkeypatch):
    whole = fit(cohort, tmp_path / "whole")
    monkeypatch.setattr(whole_networks, "CHECKPOINT_EVERY", 20)
    save = whole_networks._Run.save

    def stop(self):
        save(self)
        if self.step == 40:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(whole_networks._Run, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(cohort, tmp_path / "cut")
    again = fit(cohort, tmp_path / "cut")
    for one, other in zip(whole, again, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_step_draws_no_more_slides_than_there_are(cohort):
    for n in (1, 5, 40):
        slides = np.resize(np.arange(N_SLIDES), n)
        schedule = pooling.attention_setup(cohort[0], slides, C, steps=5, seed=0).schedule
        assert schedule.batch_size == min(2 * n, pooling.BATCH)


def test_without_a_tile_nothing_can_be_learnt(cohort):
    bags, _ = cohort
    with pytest.raises(ValueError, match="no slide to train on has a tile"):
        pooling.attention_setup(bags, np.array([N_SLIDES]), C, steps=5, seed=0)


# --- without learning ----------------------------------------------------------------------------

CHANCE = np.random.default_rng(0)
PROBS = CHANCE.dirichlet(np.ones(3), 50)
SLIDE_OF = CHANCE.integers(0, 6, 50)


@pytest.mark.parametrize("j", [1, 3, 100])
def test_top_j_is_the_mean_of_the_highest_of_each_class(j):
    means = [np.mean(sorted(column, reverse=True)[:j]) for column in PROBS.T]
    assert np.allclose(pooling.top_j_pooling(PROBS, j), np.array(means) / sum(means))


def test_the_share_counts_tiles():
    expected = [sum(row.argmax() == c for row in PROBS) / 50 for c in range(3)]
    assert pooling.tile_share(PROBS).tolist() == expected


@pytest.mark.parametrize("name", pooling.poolings())
def test_slides_are_pooled_one_by_one_whatever_the_order(name):
    pool = pooling.poolings()[name]
    pooled = pooling.pool_slides(PROBS, SLIDE_OF, 8, pool)
    for slide in range(6):
        assert np.allclose(pooled[slide], pool(PROBS[SLIDE_OF == slide]))
    assert np.allclose(pooled[6:], 1 / 3), "nothing is known of a slide without tiles"
    assert np.allclose(pooled.sum(1), 1)
    order = CHANCE.permutation(50)
    moved = pooling.pool_slides(PROBS[order], SLIDE_OF[order], 8, pool)
    assert np.allclose(moved, pooled)
