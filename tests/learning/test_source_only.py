"""Source-only supervision: which class a source class stands for, and what the heads learn."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lib.learning import source_only

E, S, N = 6, 60, 20
SETTINGS = {
    "prompts": [["a"], ["b"]],
    "input_size": 32,
    "n_views": 3,
    "hue": 0.05,
    "batch_size": 16,
    "n_steps": 40,
}
TEXT = {"a": [1.0, 0.0], "b": [0.0, 1.0], "like a": [0.9, 0.1], "like b": [0.2, 0.8]}


def test_a_source_class_is_the_target_class_of_its_name_else_of_the_nearest_prompt():
    text = np.eye(3)
    source = text[[2, 1, 0]]
    found = source_only.target_class(["x", "a", "y"], source, ["a", "b", "c"], text)
    assert found.tolist() == [2, 0, 0]


def features(labels, seed):
    return np.random.default_rng(seed).normal(size=(len(labels), E)) + 3 * labels[:, None]


@pytest.fixture
def model(monkeypatch):
    """A stand-in with three source classes, of which two are like the first target class."""
    captions = [("like a",), ("like b",), ("a",)]
    classes = [SimpleNamespace(captions=c, prompts=("p",)) for c in captions]
    card = SimpleNamespace(name="elsewhere", classes=classes, class_names=["x", "y", "z"])
    table = pd.DataFrame({"label": np.arange(S) % 3})
    kinds = np.array([0, 1, 0])[table.label]

    def embed_views(model, store, tiles, text, folder, *, n_views, **options):
        views = np.stack([features(kinds, v) for v in range(n_views)])
        np.save(folder / "view_features.npy", views)
        np.save(folder / "mean_features.npy", views.mean(0))

    def embed_tiles(model, store, text, folder):
        np.save(folder / "backbone_features.npy", features(kinds, 9))

    monkeypatch.setattr(source_only, "read_source", lambda name, size: (card, table, "store"))
    monkeypatch.setattr(
        source_only,
        "embed_prompts",
        lambda model, prompts: torch.tensor([TEXT[words[0]] for words in prompts]),
    )
    monkeypatch.setattr(source_only, "embed_tiles", embed_tiles)
    monkeypatch.setattr(source_only, "embed_views", embed_views)
    return SimpleNamespace(name="stand-in-elsewhere", ensemble_members=(), card=card)


def save_features(folder, values):
    for name in ("backbone_features", "mean_features"):
        np.save(folder / f"{name}.npy", values)


def test_heads_learn_from_the_source_and_predict_every_tile_of_the_run(model, tmp_path):
    truth = np.arange(N) % 2
    save_features(tmp_path, features(truth, 5))
    probs = source_only.source_only_probabilities(model, tmp_path, ["a", "b"], SETTINGS, seed=0)
    assert probs.shape == (N, 2) and (probs.argmax(1) == truth).mean() > 0.9


def test_the_result_is_kept_for_the_same_settings_alone(model, tmp_path, monkeypatch):
    save_features(tmp_path, features(np.arange(N) % 2, 5))
    given = (model, tmp_path, ["a", "b"])
    first = source_only.source_only_probabilities(*given, SETTINGS, seed=0)
    monkeypatch.setattr(source_only, "fit_predict", lambda *args, **kwargs: np.zeros((N, 2)))
    kept = source_only.source_only_probabilities(*given, SETTINGS, seed=0)
    assert first.tobytes() == kept.tobytes()
    for settings, seed in ((SETTINGS | {"n_steps": 50}, 0), (SETTINGS, 1)):
        assert not source_only.source_only_probabilities(*given, settings, seed=seed).any()
    save_features(tmp_path, features(np.arange(N) % 2, 6))  # of another model
    assert not source_only.source_only_probabilities(*given, SETTINGS, seed=0).any()


def test_a_target_class_without_a_source_class_is_said_and_left_out(model, tmp_path):
    model.card.classes[1].captions = ("like a",)
    save_features(tmp_path, features(np.arange(N) % 2, 5))
    with pytest.warns(UserWarning, match="elsewhere has no class b"):
        found = source_only.source_only_probabilities(model, tmp_path, ["a", "b"], SETTINGS, seed=0)
    assert found is None


@pytest.mark.parametrize("other", [{"name": "plip"}, {"ensemble_members": (1, 2)}])
def test_a_model_without_source_tiles_is_said_and_left_out(model, tmp_path, other):
    vars(model).update(other)
    with pytest.warns(UserWarning, match="no single stand-in"):
        found = source_only.source_only_probabilities(model, tmp_path, ["a", "b"], SETTINGS, seed=0)
    assert found is None
