"""Stains are told apart and moved; each named shift does what it says and keeps the tissue."""

import numpy as np
import pytest
from cases import case

from lib.data import cards
from lib.data.shifts import DIRECTIONS, parse, parse_list, shift
from lib.data.staining import HE, OTHER_HE, restain, separate_stains

NAMES = [f"{direction}{'20' if direction == 'jpeg' else '1.0'}" for direction in DIRECTIONS]
NOISE = np.random.default_rng(1).integers(0, 256, (30, 30, 3), dtype=np.uint8)


def stained(amounts):
    """Light through haematoxylin and eosin, amounts [2, S, S] in decadic optical density."""
    density = np.einsum("khw,kc->hwc", amounts, HE)
    return np.clip(256 * 10**-density - 1, 0, 255).round().astype(np.uint8)


def tissue(seed=0, size=24):
    """Light through both stains, in amounts that change slowly from place to place."""
    waves = np.random.default_rng(seed).uniform(0.1, 0.5, (2, size // 4, size // 4))
    return stained(waves.repeat(4, 1).repeat(4, 2))


def test_the_amounts_of_both_stains_come_back_and_are_never_negative():
    amounts = np.random.default_rng(0).uniform(0.05, 0.7, (2, 20, 20))
    assert separate_stains(stained(amounts)) == pytest.approx(amounts, abs=0.03)
    assert not separate_stains(np.full((4, 4, 3), 255, np.uint8)).any()
    assert (separate_stains(NOISE) >= 0).all()


# --- another laboratory --------------------------------------------------------------------------


def test_restaining_moves_the_colours_further_the_larger_the_shift():
    assert np.array_equal(restain(NOISE, 0.0), NOISE)
    tile = tissue()
    for step in (-2.0, -0.5, 0.5, 1.0, 2.0):
        moved, further = (
            np.abs(restain(tile, s).astype(int) - tile).mean() for s in (step, 1.5 * step)
        )
        assert 2 < moved < further, step


def test_a_shift_of_minus_one_stains_like_the_other_laboratory_and_keeps_what_is_where():
    amounts = np.zeros((2, 20, 20))
    amounts[0, :, :10], amounts[1, :, 10:] = 0.4, 0.4
    density = -np.log10((restain(stained(amounts), -1.0).astype(float) + 1) / 256)
    lengths = np.linalg.norm(OTHER_HE, axis=1)
    for stain, half in ((0, density[:, :10]), (1, density[:, 10:])):
        white = -np.log10(np.array([0.94, 0.96, 0.97]))
        direction = (half - white).mean((0, 1))
        cosine = direction @ OTHER_HE[stain] / np.linalg.norm(direction) / lengths[stain]
        assert cosine > 0.995


def test_restaining_is_the_same_for_each_pixel_whatever_its_neighbours():
    tile = tissue()
    alone, among_others = restain(tile[:7, 3:9], -1.0), restain(tile, -1.0)[:7, 3:9]
    # a product of another size may round otherwise
    assert np.abs(alone.astype(int) - among_others).max() <= 1


def test_what_a_card_restains_is_that_shift_and_its_sign_is_the_same_everywhere():
    card = cards.read_card("lc25k_restained")
    assert card.shift == "stain-1" and card.restain == -1 and not cards.read_card("lc25k").shift
    for name, amount in (("stain+1.5", 1.5), (card.shift, card.restain)):
        assert np.array_equal(shift(NOISE, name), restain(NOISE, amount)), name


# --- named shifts --------------------------------------------------------------------------------


def test_a_name_is_a_direction_and_a_strength_and_names_are_read_from_a_line():
    assert [parse(name)[0] for name in NAMES] == list(DIRECTIONS)
    assert parse("haematoxylin-0.5") == ("haematoxylin-", 0.5) and parse("jpeg20") == ("jpeg", 20)
    for name in ("", "eosin", "eosin1", "eosin+", "eosin+0", "blur+1", "hue+1", "jpeg96", "blur-1"):
        with case(name), pytest.raises(ValueError, match=r"is no shift; .* haematoxylin-1"):
            parse(name)
    assert parse_list("eosin+1.0, blur2") == ["eosin+1.0", "blur2"]
    with pytest.raises(ValueError, match="must differ"):
        parse_list("blur2,jpeg20,blur2.0")
    for names in ("", "blur2,", "1.0"):
        with case(names), pytest.raises(ValueError, match="is no shift"):
            parse_list(names)


def test_no_shift_changes_nothing_and_every_other_does():
    tile = tissue()
    assert np.array_equal(shift(tile, ""), tile)
    for name in NAMES:
        moved = shift(tile, name)
        with case(name):
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


def test_blur_and_compression_lose_more_the_stronger_they_are_and_keep_the_mean():
    for seed in range(3):
        tile = tissue(seed)
        for weak, strong in (("blur1", "blur3"), ("jpeg60", "jpeg10")):
            near, far = (shift(tile, name).astype(int) for name in (weak, strong))
            with case(seed, strong):
                assert 0 < np.abs(near - tile).mean() < np.abs(far - tile).mean()
                assert far.mean((0, 1)) == pytest.approx(tile.mean((0, 1)), abs=10)
