"""Features that other programs wrote, in their documented layouts: in, and ours out to them."""

from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from cases import case
from slides.made_up_slides import piece, textured_slide, tissue_slide
from small_models import write_model

from lib.slides import study
from lib.slides.cohort import Cohort, embed_slides
from lib.slides.features_file import read_features, read_given, write_features
from lib.slides.open_set import LEARNT
from lib.slides.reading import open_slide
from lib.vlm import inference
from lib.vlm.loading import load_vlm
from lib.vlm.views import plain_view

VIT = {"image_size": 32, "layers": 1, "width": 48, "head_width": 16, "patch_size": 16}
GRID = np.array([(x, y) for x in range(100, 500, 80) for y in range(120, 440, 80)], np.int64)


def numbers(n, width=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def write_trident(file, coords, features, size=(600, 600), **changed):
    """As TRIDENT's save_h5: attributes on both arrays, sizes at level 0; None leaves one out."""
    file.parent.mkdir(parents=True, exist_ok=True)
    attributes = {"patch_size": 40, "patch_size_level0": 80, "level0_magnification": 40}
    attributes |= {"target_magnification": 20, "overlap": 0, "name": file.stem, "savetodir": "d"}
    attributes |= {"level0_width": size[0], "level0_height": size[1]} | changed
    with h5py.File(file, "w") as opened:
        chunks = {"chunks": True, "maxshape": (None, 2)}
        opened.create_dataset("coords", data=coords, **chunks)
        opened.create_dataset("features", data=features, chunks=True, maxshape=(None, None))
        told = {name: value for name, value in attributes.items() if value is not None}
        opened["coords"].attrs.update(told)
        opened["features"].attrs.update({"name": file.stem, "savetodir": "d"})
    return file


def write_clam(folder, name, coords, features, **changed):
    """As CLAM: `patches` with sizes of a level, `h5_files` with none; None leaves one out."""
    attributes = {"patch_size": 40, "patch_level": 1, "downsample": (2.0, 2.0)}
    attributes |= {"downsampled_level_dim": (300, 300), "level_dim": (300, 300), "name": name}
    attributes |= {"save_path": "d"} | changed
    for below in ("patches", "features/h5_files"):
        (folder / below).mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "patches" / f"{name}.h5", "w") as opened:
        opened.create_dataset("coords", data=coords, maxshape=(None, 2))
        told = {name: value for name, value in attributes.items() if value is not None}
        opened["coords"].attrs.update(told)
    with h5py.File(folder / "features" / "h5_files" / f"{name}.h5", "w") as opened:
        opened.create_dataset("features", data=features, maxshape=(None, None))
        opened.create_dataset("coords", data=coords, maxshape=(None, 2))
    return folder / "features"


@pytest.fixture
def slide(tmp_path):
    return tissue_slide(tmp_path / "a.tif", lambda pen: piece(pen, (60, 80, 520, 500)))


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return load_vlm(write_model(tmp_path_factory.mktemp("models") / "vit", VIT), device="cpu")


# --- in ------------------------------------------------------------------------------------------


def test_tiles_of_trident_and_clam_have_their_side_at_level_0(slide, tmp_path):
    given = numbers(len(GRID))
    write_trident(tmp_path / "trident" / "a.h5", GRID, given)
    clam = write_clam(tmp_path / "clam", "a", GRID, given)
    for folder in (tmp_path / "trident", clam, clam / "h5_files"):
        if folder.name == "h5_files":  # whose patches have to lie in or beside it
            (tmp_path / "clam" / "patches").rename(clam / "patches")
        found = read_given(folder, slide)
        with case(folder):
            assert np.array_equal(found.coords, GRID) and np.array_equal(found.features, given)
            assert found.side == 80
    mask = found.area(slide, 8.0)  # slides have 4 µm/px
    expected = np.zeros((300, 300), bool)
    for x, y in GRID // 2:
        expected[y : y + 40, x : x + 40] = True
    assert np.array_equal(mask, expected)


def test_what_others_leave_out_is_refused_by_file_and_attribute(slide, tmp_path):
    given, nan = numbers(len(GRID)), numbers(len(GRID))
    nan[3, 2] = np.nan

    def trident(coords=GRID, features=given, **changed):
        return write_trident(tmp_path / "t" / "a.h5", coords, features, **changed).parent

    def clam(**changed):
        return write_clam(tmp_path / "c", "a", GRID, given, **changed)

    def clam_alone():
        folder = write_clam(tmp_path / "alone", "a", GRID, given)
        (tmp_path / "alone" / "patches" / "a.h5").unlink()
        return folder

    def other_patches():
        folder = write_clam(tmp_path / "other", "a", GRID[1:], given[1:])
        other = write_clam(tmp_path / "more", "a", GRID, given)
        (other / "h5_files" / "a.h5").rename(folder / "h5_files" / "a.h5")
        return folder

    for write, message in (
        (
            lambda: trident(patch_size_level0=None),
            r"t/a\.h5: the attribute 'patch_size_level0'.*miss",
        ),
        (lambda: trident(patch_size_level0="80 px"), r"'patch_size_level0' of coords is '80 px'"),
        (lambda: trident(level0_width=601), r"t/a\.h5: its tiles are of another slide"),
        (lambda: trident(GRID + 400), r"t/a\.h5: its tiles are of another slide"),
        (lambda: trident(features=nan), r"t/a\.h5: the array 'features' has numbers that"),
        (lambda: clam(downsample=None), r"patches/a\.h5: the attribute 'downsample' of coords is"),
        (lambda: clam(patch_size=None), r"patches/a\.h5: the attribute 'patch_size' of coords is"),
        (clam_alone, r"h5_files/a\.h5: the attribute 'patch_size_level0'.*CLAM .*patches"),
        (other_patches, r"h5_files/a\.h5: its tiles are not those of .*patches/a\.h5"),
    ):
        folder = write()
        with case(message), pytest.raises(ValueError, match=message):
            read_given(folder, slide)
    with pytest.raises(FileNotFoundError, match=r"there is no a\.h5 in .*nowhere"):
        read_given(tmp_path / "nowhere", slide)


# --- through a cohort, and out -------------------------------------------------------------------


def cohort_of(folder, out, given):
    lines = [
        {"slide": n, "name": name, "path": f"{name}.tif", "mpp": np.nan, "tissue": "", "label": -1}
        for n, name in enumerate("ab")
    ]
    return Cohort(folder, pd.DataFrame(lines), out, 32, 16.0, given=given)


@pytest.fixture
def cohort(slide, tmp_path):
    """Two slides, of 4 and of 8 µm per pixel, with features of TRIDENT and of CLAM."""
    tissue_slide(tmp_path / "b.tif", lambda pen: piece(pen, (60, 80, 520, 500)), mpp=8.0)
    given = write_clam(tmp_path / "given", "a", GRID, numbers(len(GRID)))
    write_trident(given / "b.h5", GRID[:9], numbers(9, seed=1), patch_size_level0=40)
    return cohort_of(tmp_path, tmp_path / "out", given)


def test_the_vlm_looks_at_their_tiles_and_networks_get_their_features(cohort, vlm):
    report = embed_slides(vlm, cohort, workers=0)
    assert (report.error == "").all() and report.tiles.tolist() == [len(GRID), 9]
    table = cohort.gather_tiles()
    features = np.load(cohort.out / "backbone_features.npy")
    assert np.array_equal(features, np.concatenate([numbers(len(GRID)), numbers(9, seed=1)]))
    assert table.side.tolist() == pytest.approx([80] * len(GRID) + [40] * 9)
    embeds = np.load(cohort.out / "image_embeds.npy").astype("f4")
    pictures = cohort.read(table)
    for number, mpp, side in ((0, 4.0, 80), (1, 8.0, 40)):
        rows = np.flatnonzero(table.slide == number)
        with open_slide(cohort.folder / cohort.table.path[number]) as opened:
            at = table.loc[rows, ["x", "y"]].values.tolist()
            expected = np.stack([opened.read(*corner, 32, side * mpp / 32) for corner in at])
        assert np.array_equal(pictures[rows], expected)
        pixels = plain_view(torch.from_numpy(expected), 32)
        found = inference.encode_images(vlm, pixels)[1].numpy()
        np.testing.assert_allclose(embeds[rows], found, atol=2e-3)
    assert embed_slides(vlm, cohort, workers=0).tiles.tolist() == [0, 0]  # passed over
    without = embed_slides(vlm, replace(cohort, given=None), workers=0)
    assert without.anew.str.contains("tile").all()


def test_networks_learn_from_their_features_as_they_are_and_views_still_vote(cohort, vlm):
    embed_slides(vlm, cohort, workers=0)
    tiles = study.prompted_tiles(vlm, cohort, {"t": ["tumour"], "n": ["a nerve"]}, ["fat"])
    views = {"n_views": 4, "hue": 0.1, "batch_size": 8, "seed": 0}
    voted = study.vote_on(vlm, tiles, [LEARNT], max_tiles=9, views=views)[LEARNT]
    plain = np.load(cohort.out / "backbone_features.npy")[voted.drawn]
    for name in ("mean_features", "backbone_features"):
        assert np.array_equal(np.load(voted.votes / f"{name}.npy")[voted.places], plain)
    assert np.array_equal(np.load(voted.votes / "view_features.npy")[:, voted.places], plain[None])
    assert np.load(voted.votes / voted.text / "votes.npy").shape == (4, len(voted.places))
    settings = {"keep_ratio": 0.5, "threshold": 0.8, "cross_weight": 0.5}
    settings |= {"n_steps": 20, "slide_steps": 5}
    slides = replace(cohort, table=cohort.table.assign(learnt_from=True))
    found = study.label_slides(
        replace(tiles, cohort=slides), voted, settings, cohort.out / "networks", seed=0
    )
    assert np.isfinite(found.tile_probs).all() and len(found.probs["vlm-cpl", "mean"]) == 2


def test_features_of_two_encoders_are_refused_by_file(cohort, vlm):
    write_trident(cohort.given / "b.h5", GRID, numbers(len(GRID), 7))
    embed_slides(vlm, cohort, workers=0)
    with pytest.raises(ValueError, match=r"b\.h5: its features have 7 numbers, others 6"):
        cohort.gather_tiles()


def test_what_we_write_is_read_as_clam_and_trident_read_theirs_and_by_us_again(cohort, vlm):
    embed_slides(vlm, replace(cohort, given=None), workers=0)
    file = cohort.out / "a.h5"
    with h5py.File(file, "r") as opened:  # as the data sets of CLAM do
        features, coords = opened["features"][:], opened["coords"][:]
    with h5py.File(file, "r") as opened:  # as TRIDENT's read_coords does
        attributes, again = dict(opened["coords"].attrs), opened["coords"][:]
    ours, _ = read_features(file)
    assert np.array_equal(features, ours["features"]) and features.shape == (len(coords), 48)
    assert np.array_equal(coords, again) and attributes["patch_size_level0"] == 32 * 16.0 / 4.0
    with open_slide(cohort.folder / "a.tif") as opened:
        given = read_given(cohort.out, opened)
    assert np.array_equal(given.features, features) and given.side == 128


def test_a_side_that_is_not_whole_comes_back_from_our_own_file(tmp_path):
    slide, _ = textured_slide(tmp_path)
    arrays = {"coords": GRID, "features": numbers(len(GRID))}
    write_features(tmp_path / "textured.h5", arrays, slide, pixels=32, mpp=1.7)
    assert read_given(tmp_path, slide).side == pytest.approx(32 * 1.7 / 0.2513)
