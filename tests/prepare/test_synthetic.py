"""Properties of the synthetic tiles and of the folder that holds them."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cases import case
from numpy.typing import NDArray
from PIL import Image

from data.prepare import synthetic
from data.prepare.laboratory import beer_lambert, draw_slide
from data.prepare.synthetic import KINDS, tissue_tile, write_dataset


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def tile(kind: str, size: int = 64, seed: int = 0, shift: float = 0.0) -> NDArray[np.uint8]:
    return tissue_tile(kind, draw_slide(shift, rng(seed)), size, rng(seed, 1))


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.rglob("*.png"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def write(folder: Path, **changes: object) -> None:
    given = dict(kinds=KINDS[:2], slides=2, tiles=9, size=32, shift=0.5, seed=3) | changes
    write_dataset(folder, **given)  # type: ignore[arg-type]


def test_every_kind_has_its_shape_and_shows_something() -> None:
    for kind, size, seed in itertools.product(KINDS, (32, 128), range(2)):
        with case(kind, size, seed):
            pixels = tile(kind, size, seed)
            assert pixels.shape == (size, size, 3) and pixels.dtype == np.uint8
            assert pixels.std() > 6 and pixels.mean() > 60


def test_same_seed_gives_the_same_tile_and_another_seed_another() -> None:
    for kind in KINDS:
        assert np.array_equal(tile(kind, seed=4), tile(kind, seed=4)), kind
        assert not np.array_equal(tile(kind, seed=4), tile(kind, seed=5)), kind


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="cartilage"):
        tile("cartilage")


def test_slides_of_one_laboratory_differ_in_colour() -> None:
    means = [
        tissue_tile("smooth_muscle", draw_slide(0.0, rng(s)), 64, rng(0)).mean((0, 1))
        for s in range(4)
    ]
    gaps = [np.abs(a - b).max() for i, a in enumerate(means) for b in means[:i]]
    assert min(gaps) > 0.5 and max(gaps) > 5


def test_the_laboratory_shift_acts_step_by_step_and_beyond_one() -> None:
    slides = [draw_slide(shift, rng(2)) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert np.all(np.diff([s.blur_um for s in slides]) > 0)
    assert np.all(np.diff([s.strengths[0] for s in slides]) > 0)
    distance = [np.abs(np.subtract(s.stains, slides[0].stains)).max() for s in slides]
    assert np.all(np.diff(distance) > 0)
    near = draw_slide(0.001, rng(2))
    assert np.allclose(near.stains, slides[0].stains, atol=1e-3)
    assert near.blur_um == pytest.approx(slides[0].blur_um, abs=5e-3)


def test_a_shift_below_zero_is_refused() -> None:
    for shift in (-0.1, float("nan")):
        with case(shift), pytest.raises(ValueError, match="shift"):
            draw_slide(shift, rng(0))


def test_stains_stay_unit_vectors_that_absorb() -> None:
    for shift in (0.0, 1.0, 5.0):
        stains = np.array(draw_slide(shift, rng(1)).stains)
        assert np.allclose(np.linalg.norm(stains, axis=1), 1) and stains.min() > 0, shift


def test_no_stain_gives_the_white_point() -> None:
    slide = draw_slide(1.0, rng(6))
    light = beer_lambert(np.zeros((3, 4, 5), np.float32), slide)
    assert light.shape == (4, 5, 3)
    assert np.allclose(light, 255 * np.array(slide.white))


def test_more_stain_is_darker_in_every_channel() -> None:
    for stain in range(3):
        concentration = np.zeros((3, 1, 6), np.float32)
        concentration[stain, 0] = np.linspace(0, 2, 6)
        light = beer_lambert(concentration, draw_slide(0.0, rng(7)))
        assert np.all(np.diff(light[0], axis=0) < 0), stain


def test_light_follows_beer_lambert_pixel_by_pixel() -> None:
    slide = draw_slide(0.7, rng(8))
    concentration = rng(9).random((3, 2, 3)).astype(np.float32)
    light = beer_lambert(concentration, slide)
    for row, column, channel in np.ndindex(2, 3, 3):
        density = sum(
            slide.strengths[s] * concentration[s, row, column] * slide.stains[s][channel]
            for s in range(3)
        )
        expected = 255 * slide.white[channel] * np.exp(-density)
        assert light[row, column, channel] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_fat_is_brightest_and_lymphocytes_hold_most_haematoxylin() -> None:
    slide = draw_slide(0.0, rng(0))
    means = {}
    for kind in KINDS:
        tiles = [tissue_tile(kind, slide, 48, rng(1, seed)) for seed in range(6)]
        means[kind] = np.mean(tiles, axis=(0, 1, 2))
    assert max(means, key=lambda k: means[k].mean()) == "adipose"
    # Red light is absorbed by haematoxylin and hardly by eosin.
    assert min(means, key=lambda k: means[k][0]) == "lymphocytes"
    assert means["adenocarcinoma"][0] < means["normal_mucosa"][0] < means["stroma"][0]
    assert means["smooth_muscle"][1] < means["stroma"][1]


def test_a_dataset_has_the_count_the_names_and_an_even_spread(tmp_path: Path) -> None:
    write(tmp_path / "demo", kinds=KINDS, slides=2, tiles=27)
    names = list(contents(tmp_path / "demo"))
    cells = Counter(name.rsplit("_", 1)[0] for name in names)
    assert len(names) == 27
    assert set(cells) == {f"{kind}/slide{s:02d}" for kind in KINDS for s in range(2)}
    assert set(cells.values()) == {2, 3}
    assert f"{KINDS[0]}/slide00_0000.png" in names
    assert np.asarray(Image.open(tmp_path / "demo" / names[0])).shape == (32, 32, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.slow
def test_same_seed_same_bytes_whatever_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "one")
    monkeypatch.setattr(synthetic, "PARALLEL_FROM", 1)
    write(tmp_path / "several")
    write(tmp_path / "other seed", seed=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "several")
    assert contents(tmp_path / "one") != contents(tmp_path / "other seed")


def test_a_wrong_value_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    for name, value, named in (
        ("kinds", ("stroma", "cartilage"), "cartilage"),
        ("kinds", ("stroma", "stroma"), "stroma"),
        ("kinds", (), "kinds"),
        ("slides", 0, "slides"),
        ("size", 31, "size"),
        ("tiles", 3, "tiles"),
        ("shift", -1.0, "shift"),
        ("seed", -1, "seed"),
    ):
        with case(name, value):
            with pytest.raises(ValueError, match=named):
                write(tmp_path / "demo", **{name: value})
            assert not list(tmp_path.iterdir())


def test_an_interrupted_call_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reason in (RuntimeError, KeyboardInterrupt):
        drawn = iter([np.zeros((32, 32, 3), np.uint8)] * 3)

        def breaks(*_: object, drawn=drawn, reason=reason) -> NDArray[np.uint8]:
            tile = next(drawn, None)
            if tile is None:
                raise reason
            return tile

        monkeypatch.setattr(synthetic, "tissue_tile", breaks)
        with case(reason), pytest.raises(reason):
            write(tmp_path / "demo")
        assert next(drawn, None) is None and not list(tmp_path.iterdir()), reason


def test_a_folder_with_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="demo"):
        write(tmp_path / "demo")
    assert [path.name for path in tmp_path.rglob("*")] == ["demo", "notes.txt"]
