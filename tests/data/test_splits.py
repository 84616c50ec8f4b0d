"""Folds: every group is tested exactly once, whatever the seed of a run."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from cases import case

from lib import paths
from lib.data import cards, splits


def slides(seed, n_groups=120, n_classes=3):
    """Labels and groups of slides of unequal size; each class has a third of the slides."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 15, size=n_groups)
    groups = np.repeat([f"slide {g}" for g in range(n_groups)], sizes)
    labels = np.repeat(np.arange(n_groups) % n_classes, sizes)
    order = rng.permutation(len(labels))
    return labels[order], groups[order]


def tile_table(seed=0, part=""):
    labels, groups = slides(seed)
    paths_of = [f"{g}/{n}.png" for n, g in enumerate(groups)]
    return pd.DataFrame({"path": paths_of, "label": labels, "group": groups, "part": part})


@pytest.fixture
def card():
    return replace(cards.read_card("demo"), name="toy")


def test_every_group_is_tested_in_exactly_one_fold_that_holds_a_fifth_of_every_class():
    for seed in range(5):
        labels, groups = slides(seed)
        folds = splits.divide(labels, groups)
        assert (pd.Series(folds).groupby(groups).nunique() == 1).all(), seed
        shares = pd.crosstab(labels, folds, normalize="index")
        assert shares.values == pytest.approx(0.2, abs=0.05) and shares.shape[1] == 5, seed
    labels = np.random.default_rng(0).integers(3, size=3000)
    shares = pd.crosstab(labels, splits.divide(labels, np.arange(3000)), normalize="index")
    assert shares.values == pytest.approx(0.2, abs=0.002), "tiles that are groups of their own"


def test_five_groups_are_enough_and_fewer_are_refused_with_their_number():
    folds = splits.divide(np.zeros(10, int), np.arange(10) // 2)
    assert np.bincount(folds).tolist() == [2] * 5
    with pytest.raises(ValueError, match="need 5 groups, there are 4"):
        splits.divide(np.arange(8) % 2, np.arange(8) // 2)


def test_folds_that_a_table_gives_are_taken_unless_they_divide_a_group(card):
    table = tile_table()
    table["fold"] = table.group.str.split().str[1].astype(int) % 5
    assert splits.assign_folds(card, table).tolist() == table.fold.tolist()
    table.loc[0, "fold"] = (table.fold[0] + 1) % 5
    with pytest.raises(ValueError, match="the table of toy divides 1 groups"):
        splits.assign_folds(card, table)


def test_folds_are_written_once_and_then_read(card):
    table = tile_table()
    folds = splits.assign_folds(card, table)
    file = splits.splits_file("toy")
    assert file.is_relative_to(paths.output_root())
    written = pd.read_csv(file)
    assert written.path.tolist() == table.path.tolist() and written.fold.tolist() == folds.tolist()
    shuffled = table.sample(frac=0.5, random_state=0)
    again = splits.assign_folds(card, shuffled)
    assert again.tolist() == folds[shuffled.index].tolist()


def test_tiles_without_a_fold_are_divided_without_the_list_and_warned_of(card):
    table = tile_table()
    splits.assign_folds(card, table[:-3])
    before = splits.splits_file("toy").read_text()
    with pytest.warns(UserWarning, match=f"no fold for 3 of {len(table)} tiles"):
        folds = splits.assign_folds(card, table)
    assert folds.tolist() == splits.divide(table.label.values, table.group.values).tolist()
    assert splits.splits_file("toy").read_text() == before


def test_a_line_that_is_there_twice_or_gives_no_fold_is_named(card):
    table = tile_table()
    splits.assign_folds(card, table)
    file = splits.splits_file("toy")
    header, first, *others = file.read_text().splitlines()
    path = first.rpartition(",")[0]
    for wrong in (f"{path},5", f"{path},-1", f"{path},1.5", f"{path},", f"{path},one", others[0]):
        file.write_text("\n".join([header, *others, wrong]))
        line = len(others) + 2
        with case(wrong), pytest.raises(ValueError, match=rf"toy\.csv, line {line}: "):
            splits.assign_folds(card, table)


def test_a_list_of_folds_that_divides_a_group_is_named(card):
    table = tile_table()
    splits.assign_folds(card, table)
    file = splits.splits_file("toy")
    listed = pd.read_csv(file)
    listed.loc[0, "fold"] = (listed.fold[0] + 1) % 5
    listed.to_csv(file, index=False)
    message = rf"{re.escape(str(file))} divides 1 groups.*'{table.group[0]}'"
    with pytest.raises(ValueError, match=message):
        splits.assign_folds(card, table)


def test_a_division_that_comes_with_the_dataset_is_its_only_fold(card):
    own = replace(card, splits={"train": "a", "test": "b"})
    table = tile_table()
    tested = table.group.isin([f"slide {g}" for g in range(15)])
    table["part"] = np.where(tested, "test", "train")
    folds = splits.assign_folds(own, table)
    assert ((folds == 0) == tested).all() and set(folds) == {0, splits.NEVER_TESTED}
    assert not splits.splits_file("toy").exists()


def test_a_division_with_a_group_in_both_parts_or_an_empty_one_is_refused():
    table = tile_table(part="train")
    table.loc[np.flatnonzero(table.group == "slide 3")[1:], "part"] = "test"
    with pytest.raises(ValueError, match=r"own division divides 1 groups.*'slide 3'"):
        splits.own_division(table)
    for part in ("train", "test"):
        message = "leaves nothing to test or to train on"
        with case(part), pytest.raises(ValueError, match=message):
            splits.own_division(tile_table(part=part))


def test_the_tracked_folds_name_every_tile_once_and_are_five():
    files = sorted((paths.ROOT / "data" / "splits").glob("*.csv"))
    for file in files:
        listed = pd.read_csv(file)
        with case(file.name):
            assert list(listed.columns) == ["path", "fold"]
            assert not listed.path.duplicated().any() and set(listed.fold) == set(range(5))
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert cards.read_card(file.stem).splits is None
