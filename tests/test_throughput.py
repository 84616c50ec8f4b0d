"""What a measurement counts, and the tiles that are made up for it."""

import sys

import numpy as np
import pandas as pd
import pytest

from lib import throughput

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_memory_is_what_a_call_takes_beside_mapped_files(tmp_path):
    np.save(tmp_path / "large.npy", np.ones(8_000_000))

    def copied():
        return {"sum": np.load(tmp_path / "large.npy").sum()}

    def mapped():
        return {"sum": np.load(tmp_path / "large.npy", mmap_mode="r").sum()}

    own, of_file = throughput.measure(copied), throughput.measure(mapped)
    assert own["sum"] == of_file["sum"] == 8_000_000
    assert 55 < own["memory_mb"] < 110 and of_file["memory_mb"] < 20
    assert 0 <= own["cpu_seconds"] and 0 < own["seconds"]


def test_a_call_that_fails_is_an_error_here():
    def failing():
        raise ValueError("no such tiles")

    with pytest.raises(RuntimeError, match="no such tiles"):
        throughput.measure(failing)


def test_the_exponent_is_that_of_the_two_largest_numbers():
    n = np.array([10, 100, 1000])
    parts = {"linear": 3.0 * n, "square": np.array([1, 2.0, 200]), "flat": n * 0 + 5.0}
    parts["none"] = n * 0.0
    frames = [pd.DataFrame({"part": p, "n_tiles": n, "s": t}) for p, t in parts.items()]
    found = throughput.exponents(pd.concat(frames), "s")
    assert np.isnan(found.pop("none"))
    assert found.to_dict() == pytest.approx({"linear": 1, "square": 2, "flat": 0})


def test_made_up_tiles_have_the_files_of_embedded_ones_and_classes_that_can_be_found(tmp_path):
    shape = {"n_tiles": 9000, "n_classes": 3, "n_features": 8}  # more than a block
    folder = throughput.make_up_tiles(tmp_path / "a", **shape, n_views=2, seed=0)
    arrays = {file.stem: np.load(file) for file in folder.glob("*.npy")}
    truth = arrays["truth"]
    assert arrays["view_features"].shape == (2, 9000, 8) and arrays["votes"].shape == (2, 9000)
    assert set(np.unique(truth)) == {0, 1, 2}
    for name in ("probs", "view_probs"):
        np.testing.assert_allclose(arrays[name].sum(1), 1, rtol=1e-5)
        assert (arrays[name].argmax(1) == truth).mean() > 0.6
    np.testing.assert_allclose(np.linalg.norm(arrays["image_embeds"], axis=1), 1, atol=1e-2)
    assert not [name for name, array in arrays.items() if not array[-10:].any()]
