"""What the strategies look at: plain predictions, those of views, and those with dropout."""

import numpy as np
import pytest
import torch

from lib.active import inputs
from lib.labels import UNLABELLED
from lib.learning import networks, setups
from lib.learning.networks import new_networks

N, V, E = 30, 3, 8
TILES = np.random.default_rng(1).permutation(N)[:20]


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    run, chance = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    np.save(run / "view_features.npy", chance.normal(size=(V, N, E)).astype(np.float16))
    np.save(run / "mean_features.npy", chance.normal(size=(N, E)).astype(np.float16))
    return setups.frozen(run, np.arange(N), 3, steps=1, seed=0, projection=4)


@pytest.fixture(scope="module")
def pair(setup):
    return [network.eval() for network in new_networks(setup.make_network, 0)]


def test_views_are_predicted_by_both_networks_as_the_sampler_gives_them(setup, pair):
    probs = inputs.predict_views(pair, setup, TILES, n_views=4)
    assert probs.shape == (8, 20, 3) and probs.dtype == np.float32
    for view in range(4):
        seen = setup.sampler(TILES, 0, view)
        for k, network in enumerate(pair):
            expected = torch.softmax(network(seen)[0], 1).detach().numpy()
            np.testing.assert_allclose(probs[2 * view + k], expected, atol=1e-6)
    assert not np.allclose(probs[0], probs[2])


def test_dropout_is_the_seeds_and_without_it_predictions_are_the_plain_mean(
    setup, pair, monkeypatch
):
    before = torch.random.get_rng_state()
    dropped, again, other = (
        inputs.predict_with_dropout(pair, setup.reader, TILES, seed=seed) for seed in (0, 0, 1)
    )
    assert dropped.shape == (3, 20, 3) and not np.allclose(dropped[0], dropped[1])
    assert np.array_equal(dropped, again) and not np.array_equal(dropped, other)
    assert torch.equal(before, torch.random.get_rng_state()), "torch's own numbers are left alone"
    monkeypatch.setattr(inputs, "DROPOUT", 0.0)
    same = inputs.predict_with_dropout(pair, setup.reader, TILES, seed=0)
    plain = networks.predict(pair, setup.reader, TILES)
    np.testing.assert_allclose(same, np.repeat(plain[None], 3, axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("strategy", "views", "dropout"),
    [("unisal-jsd", True, False), ("dropquery", False, True), ("openpath", False, False)],
)
def test_a_pool_holds_what_the_strategy_wants_and_no_more(setup, pair, strategy, views, dropout):
    labels = {"labels": np.full(20, UNLABELLED), "unlabelled_mask": np.ones(20, bool)}
    pool = inputs.make_pool(strategy, pair, setup, TILES, **labels, seed=0)
    assert (pool.per_view_probs is not None, pool.dropout_probs is not None) == (views, dropout)
    assert pool.probs.shape == (2, 20, 3)
    assert pool.features.shape == (20, E if strategy == "openpath" else 4)
