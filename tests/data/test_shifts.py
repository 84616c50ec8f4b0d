"""Named shifts: each direction does what its name says, and keeps the tissue."""

import numpy as np
import pytest
from cases import case

from lib.data.shifts import DIRECTIONS, parse, parse_list, shift
from lib.data.staining import HE, restain, separate_stains

NAMES = [f"{direction}{'20' if direction == 'jpeg' else '1.0'}" for direction in DIRECTIONS]


def tissue(seed=0, size=24):
    """Light through both stains, in amounts that change slowly from place to place."""
    waves = np.random.default_rng(seed).uniform(0.1, 0.5, (2, size // 4, size // 4))
    amounts = waves.repeat(4, 1).repeat(4, 2)
    density = np.einsum("khw,kc->hwc", amounts, HE)
    return np.clip(256 * 10**-density - 1, 0, 255).round().astype(np.uint8)


def test_a_name_is_a_direction_and_a_strength():
    assert [parse(name)[0] for name in NAMES] == list(DIRECTIONS)
    assert parse("haematoxylin-0.5") == ("haematoxylin-", 0.5) and parse("jpeg20") == ("jpeg", 20)
    for name in ("", "eosin", "eosin1", "eosin+", "eosin+0", "blur+1", "hue+1", "jpeg96", "blur-1"):
        with case(name), pytest.raises(ValueError, match=r"is no shift; .* haematoxylin-1"):
            parse(name)


def test_shifts_are_read_from_a_line():
    assert parse_list("eosin+1.0, blur2") == ["eosin+1.0", "blur2"]
    with pytest.raises(ValueError, match="must differ"):
        parse_list("blur2,jpeg20,blur2.0")
    for names in ("", "blur2,", "1.0"):
        with case(names), pytest.raises(ValueError, match="is no shift"):
            parse_list(names)


def test_no_shift_changes_nothing_and_every_other_does():
    for seed in range(3):
        tile = tissue(seed)
        assert np.array_equal(shift(tile, ""), tile)
        for name in NAMES:
            moved = shift(tile, name)
            with case(seed, name):
                assert moved.shape == tile.shape and moved.dtype == np.uint8
                assert not np.array_equal(moved, tile)


def test_a_stain_is_halved_or_doubled_and_the_other_stays():
    for seed in range(3):
        before = separate_stains(tissue(seed))
        for number, stain in enumerate(("haematoxylin", "eosin")):
            for sign, factor in (("-", 0.5), ("+", 2.0)):
                after = separate_stains(shift(tissue(seed), f"{stain}{sign}1.0"))
                with case(seed, stain, sign):
                    assert after[number] == pytest.approx(factor * before[number], abs=0.06)
                    assert after[1 - number] == pytest.approx(before[1 - number], abs=0.06)


def test_the_shift_of_both_stains_is_restaining_by_the_opposite_number():
    for seed in range(3):
        tile = np.random.default_rng(seed).integers(256, size=(20, 20, 3), dtype=np.uint8)
        assert np.array_equal(shift(tile, "stain+1.5"), restain(tile, -1.5)), seed
        assert np.array_equal(shift(tile, "stain-1"), restain(tile, 1.0)), seed


def test_blur_and_compression_lose_more_the_stronger_they_are_and_keep_the_mean():
    for seed in range(3):
        tile = tissue(seed)
        for weak, strong in (("blur1", "blur3"), ("jpeg60", "jpeg10")):
            near, far = (shift(tile, name).astype(int) for name in (weak, strong))
            with case(seed, strong):
                assert 0 < np.abs(near - tile).mean() < np.abs(far - tile).mean()
                assert far.mean((0, 1)) == pytest.approx(tile.mean((0, 1)), abs=10)
