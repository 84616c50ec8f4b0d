"""Worlds on which defaults are chosen: they differ as they say, and prompts are spoilt as named."""

import numpy as np
import torch
from cases import case
from torch.nn import functional as F

from data.prepare import worlds
from data.prepare.synthetic import KINDS
from lib.labels import UNLABELLED


def test_a_larger_family_begins_with_a_smaller_one_and_has_all_numbers_of_classes():
    family = worlds.family(16)
    assert worlds.family(5) == family[:5]
    assert {world.n_classes for world in family} == set(range(2, 10))
    assert min(w.imbalance for w in family) == 1 and max(w.imbalance for w in family) <= 30
    assert set(worlds.WORDS) > set(KINDS)


def test_both_parts_of_a_world_have_each_class_and_share_no_slide():
    for world in worlds.family(16):
        table = worlds.draw_table(world)
        with case(world.name):
            assert len(table) == world.n_tiles
            assert not set(table.group[table.test]) & set(table.group[~table.test])
            of_class = table[table.label != UNLABELLED]
            assert (len(of_class) < len(table)) == (world.other > 0)
            kinds = of_class.groupby("label").kind.unique()
            assert all(len(own) == 1 for own in kinds) and kinds.map(tuple).is_unique
            for part in (of_class[of_class.test], of_class[~of_class.test]):
                assert set(part.label) == set(range(world.n_classes))
            assert table.equals(worlds.draw_table(world))


def test_prompts_are_spoilt_as_they_are_called():
    text = F.normalize(torch.randn(4, 512, generator=torch.Generator().manual_seed(0)), dim=-1)
    sets = worlds.prompt_sets(text, seed=3)
    alike = {name: (own @ text.T).numpy() for name, own in sets.items()}
    changed = {name: (np.diag(cosines) < 0.99).sum() for name, cosines in alike.items()}
    assert changed == {"fair": 0, "biased": 1, "swapped": 2, "ignorant": 4}
    assert sorted(alike["swapped"].argmax(1)) == [0, 1, 2, 3]
    assert (alike["biased"] > 0.6).sum() == 5, "one class reads like another as well"
    assert np.abs(alike["ignorant"]).max() < 0.3
