"""The published record uses today's names, is complete, and the notebooks show it."""

import json

import numpy as np
import pandas as pd
import pytest

from figures import publish
from lib import paths, record, runner
from lib.slides import open_set

RECORD = paths.ROOT / "data" / "record"
STEMS = record.stems(RECORD)
OF_SLIDES = {open_set.ALL_TISSUE, open_set.OPEN_SET, open_set.LEARNT}


@pytest.mark.parametrize("stem", STEMS, ids=lambda stem: stem.name)
def test_the_record_uses_todays_names_and_no_evaluation_is_there_twice(stem):
    facts = pd.read_parquet(RECORD / f"{stem.name}.facts.parquet")
    some = record.read(stem)
    known = [name for name in record.FIELDS if name in facts]  # of later ones there are none
    assert list(facts) == known and len(facts) == len(some.facts)
    assert set(facts.dataset) == {stem.name} and facts.commit.all()
    settings = json.loads((RECORD / f"{stem.name}.settings.json").read_text())
    assert 0 < len(settings) <= 20, "settings stand once per run, not per evaluation"
    slides = some.facts.unit == "slide"
    assert {*some.facts.variant[slides]} <= OF_SLIDES
    assert {*some.facts.variant[~slides]} <= {"", "published filters", "ours"}
    for varied in some.facts.varied.unique():
        assert {*varied.split(", ")} - {""} <= {*some.facts}
    scored = some.facts.accuracy.notna()
    counted = some.facts.class_n[scored].map(sum) == some.facts.n[scored]
    assert counted.all() and (some.counts.correct <= some.counts.n + 1e-9).all()


@pytest.mark.parametrize("stem", STEMS, ids=lambda stem: stem.name)
def test_a_fold_is_of_one_build_and_its_lines_agree_with_each_other(stem):
    some = record.read(stem)
    facts = some.facts
    publish.check_builds(facts)
    kept = facts[facts.kept.notna()]
    of_classes = pd.DataFrame(
        [pd.DataFrame(own.values()).sum() for own in kept.per_class],
        index=kept.index,
        columns=["kept", "correct"],
        dtype=float,
    )
    assert (of_classes.kept == kept.kept).all()
    found = kept.precision.fillna(0) * kept.kept
    np.testing.assert_allclose(of_classes.correct, found, atol=1e-6)
    judged = kept[(kept.kept == kept.n) & (kept.method == "zero-shot")]
    correct = judged.class_correct.map(sum).astype(float)
    np.testing.assert_allclose(correct, of_classes.correct[judged.index], atol=1e-6)
    scored = facts[facts.accuracy.notna() & (facts.unit == "tile")]
    if (facts.query_precision < 1).any():  # an open set: the loops are judged on its targets alone
        scored = scored[scored.training != ""]
    for _, of_set in scored.groupby(["vlm", "seed", "fold", "split"]):
        sizes = {tuple(n) for n in of_set.class_n}
        assert len(sizes) == 1, "methods were tested on different tiles"


# What they show of the record needs nothing else; the smoke chain sees an empty record.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["15_ablations", "16_robustness", "23_unisal_tables", "24_unisal_ablations"]
)
def test_notebooks_show_the_record_as_it_is(name, monkeypatch):
    monkeypatch.setattr(paths, "record_folder", lambda: RECORD)
    code = [cell for cell in runner.cells(paths.notebook_file(name)) if cell.cell_type == "code"]
    cells = [cell.source for cell in code]
    (start,) = [idx for idx, cell in enumerate(cells) if "record.published()" in cell]
    shown = {}
    exec(cells[0], shown)
    shown["display"] = lambda *shown: None
    for cell in cells[start:]:
        exec(cell, shown)
