"""Tiles that count, what a study says of them, and its tables."""

import numpy as np
import pandas as pd
import pytest
from slides.made_up_slides import textured_slide

from figures import publish, slide_shares
from lib import paths, record
from lib.alarm import Alarm
from lib.figures import plots, slide_plots
from lib.labels import UNLABELLED
from lib.learning.pooling import Bags
from lib.slides import open_set, scores, study
from lib.slides.cohort import Cohort

TEST = pd.DataFrame({"slide": [1, 3, 4], "label": [0, 1, 1], "group": ["a", "b", "b"]})
OPEN, ALL = open_set.OPEN_SET, open_set.ALL_TISSUE
CORRECT = {
    ("zero-shot", OPEN): [True, True, False],
    ("zero-shot", ALL): [False, True, False],
    ("vlm-cpl", OPEN): [True, True, True],
    ("vlm-cpl", ALL): [True, True, True],
}
HALF = {("vlm-cpl", OPEN): [True, True, False], ("vlm-cpl", ALL): [False, True, False]}


def made_study(probs, attention=(), alarms=(), rows=(), tile_probs=None):
    return study.SlideStudy(probs, np.array(rows, int), tile_probs, attention, 0.3, alarms)


def studies(correct):
    """Mean pooling of two classes: method and setting → whether each slide of TEST is correct."""
    probs = {}
    for (method, setting), is_correct in correct.items():
        of_slides = np.full((5, 2), 0.5)
        for slide, label, ok in zip(TEST.slide, TEST.label, is_correct, strict=True):
            of_slides[slide] = np.eye(2)[label if ok else 1 - label] * 0.6 + 0.2
        probs.setdefault(setting, {})[method, "mean"] = of_slides
    return {setting: made_study(of_setting) for setting, of_setting in probs.items()}


def made_slides(found, quality=None, test=TEST, dataset="d"):
    """A record of what studies found."""
    evaluations = scores.evaluate_slides(found, test, quality or {}, device="cpu")
    return record.make(evaluations, dataset=dataset, vlm="v", seed=0, fold=0)


def test_tiles_are_sampled_by_chance_and_no_more_than_asked_for_of_a_slide():
    slide_of = np.repeat(np.arange(4), [3, 50, 0, 80])[np.random.default_rng(0).permutation(133)]
    rows = np.flatnonzero(np.random.default_rng(1).random(133) < 0.8)
    sampled = study.sample_tiles(rows, slide_of, 10, seed=0)
    assert set(sampled) <= set(rows) and (np.diff(sampled) > 0).all()
    for slide in (0, 1, 3):
        of_slide = (slide_of[rows] == slide).sum()
        assert (slide_of[sampled] == slide).sum() == min(10, of_slide)
    assert np.array_equal(study.sample_tiles(rows[::-1], slide_of, 10, seed=0), sampled)
    assert not np.array_equal(study.sample_tiles(rows, slide_of, 10, seed=1), sampled)


def test_in_our_setting_the_attention_learns_the_class_that_gains_most():
    """Prompts that favour class 1 name it for all slides; what differs between slides is right."""
    probs = np.array([[0.45, 0.55], [0.40, 0.60], [0.10, 0.90], [0.05, 0.95], [0.30, 0.70]])
    learnt_from = np.array([True, True, True, True, False])
    for setting in (ALL, OPEN):
        assert study.pseudo_labels_of_slides(setting, probs, learnt_from).tolist() == [1] * 5
    ours = study.pseudo_labels_of_slides(open_set.LEARNT, probs, learnt_from)
    assert ours.tolist() == [0, 0, 1, 1, 0]
    probs[-1] = 1, 0  # a slide that is not learnt from moves nothing
    assert np.array_equal(study.pseudo_labels_of_slides(open_set.LEARNT, probs, learnt_from), ours)


def test_a_study_says_nothing_of_tiles_that_do_not_count():
    attention = [np.array([0.7, 0.3]), np.array([]), np.array([1.0])]
    tile_probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    probs, looked = made_study({}, attention, (), [1, 2, 5], tile_probs).of_tiles(7)
    assert np.array_equal(probs[[1, 2, 5]], tile_probs)
    assert looked[[1, 2, 5]].tolist() == [0.7, 0.3, 1.0]
    assert np.isnan(probs[[0, 3, 4, 6]]).all() and np.isnan(looked[[0, 3, 4, 6]]).all()


def test_a_slide_of_which_nothing_is_known_has_no_class():
    probs = studies({("vlm-cpl", OPEN): [True, True, True]})[OPEN].probs
    attention = [np.ones(n) for n in (1, 2, 0, 1, 3)]
    lacking = [Alarm("class without labels", f"{name}: 0 of 9") for name in ("a", "b")]
    for alarms, expected in (
        ([], ["a", "a", "", "b", "b"]),
        (lacking[:1], ["a", "a", "", "b", "b"]),
        (lacking, [""] * 5),
    ):
        classes, shown = made_study(probs, attention, alarms).classes(["a", "b"])
        assert classes == expected
        assert np.isnan(shown[:, 0]).tolist() == [name == "" for name in classes]


def test_without_a_tile_that_counts_nothing_is_learnt_and_nothing_known(tmp_path):
    bags = Bags(tmp_path / "none.npy", (np.empty(0, int),) * 3)
    labels = np.array([0, 1, UNLABELLED])
    probs, attention = study.learn_slides(bags, labels, ["a", "b"], tmp_path, steps=1, seed=0)
    assert (probs == 0.5).all() and [*map(len, attention)] == [0, 0, 0]


def test_scores_and_counts_are_of_the_slides_of_the_fold():
    some = made_slides(studies(CORRECT))
    table = scores.slides_table(some).set_index("method")
    shown, better = table["open set"], table["open set: better by"]
    assert shown["zero-shot tiles"].startswith("0.667")
    assert shown["zero-shot tiles"].endswith(" / 0.750")
    assert table["all tissue"]["zero-shot tiles"].startswith("0.333")
    assert better["zero-shot tiles"].startswith("+0.333")
    assert better["MVC → PFC, HCS"].startswith("+0.000")
    assert table.folds.tolist() == table.seeds.tolist() == ["1", "1"]
    without = scores.slides_table(made_slides(studies(CORRECT), test=TEST.drop(columns="group")))
    assert without["open set"].tolist() == ["0.667 / 0.750", "1.000 / 1.000"]
    assert scores.slides_table(record.make([])).empty
    zero = (some.facts.method == "zero-shot") & (some.facts.variant == OPEN)
    counts = some.counts[some.counts.evaluation.isin(some.facts.index[zero])]
    counts = counts.set_index(["group", "label"])
    assert counts.correct.to_dict() == {("a", 0): 1, ("b", 1): 1}
    assert counts.n.to_dict() == {("a", 0): 1, ("b", 1): 2}


def test_slides_are_published_with_their_counts_and_a_picture(monkeypatch):
    built = record.provenance() | {"commit": "0123"}
    monkeypatch.setattr(record, "provenance", lambda: dict(built))
    fold = paths.runs_folder("demo_slides", "v") / "seed0" / "fold0"
    (fold / "slides").mkdir(parents=True)
    (fold / "slides" / "heat_map.png").write_bytes(b"a picture")
    made_slides(studies(CORRECT), dataset="demo_slides").write(fold / "results" / "17_slides")
    publish.add_to_record("demo_slides", "v")
    page = publish.page_of(record.published("demo_slides"))
    assert (paths.figures_folder() / "demo_slides_heat_map.png").read_bytes() == b"a picture"
    assert "open set: better by" in page.text()


def test_lines_are_in_the_order_of_the_poolings():
    names = ("top-100", "mean", "top-5", "share", "top-10")
    found = {OPEN: made_study({("vlm-cpl", name): np.full((5, 2), 0.5) for name in names})}
    expected = ["mean", "share", "top-5", "top-10", "top-100"]
    assert scores.slides_table(made_slides(found)).pooling.tolist() == expected


def test_accuracy_stands_beside_the_share_of_other_tissue():
    quality = {
        share: {
            setting: {"irrelevant": share, "irrelevant_dropped": drop, "relevant_dropped": None}
            for setting, drop in ((ALL, 0.0), (OPEN, 0.75))
        }
        for share in (0.0, 0.9)
    }
    half = made_slides(studies(HALF), quality[0.9], dataset="d_90")
    frame = slide_shares.share_frame(
        record.concat([half, made_slides(studies(CORRECT), quality[0.0])])
    )
    assert frame.dataset.tolist() == ["d", "d", "d_90", "d_90"]
    assert frame.irrelevant.tolist() == [0.0, 0.0, 0.9, 0.9]
    assert frame.irrelevant_dropped.tolist() == [0.0, 0.75, 0.0, 0.75]
    assert [e.value for e in frame.accuracy] == pytest.approx([1, 1, 1 / 3, 2 / 3])
    assert frame.better[3].value == pytest.approx(1 / 3) and frame.better[2] is None
    shown = slide_shares.share_table(frame)
    assert shown["relevant dropped"].tolist() == [""] * 4 and len(shown) == 4
    figure = plots.accuracy_against_share(frame, "made up")
    assert [line.get_label() for line in figure.axes[0].containers] == [ALL, OPEN]
    assert slide_shares.share_frame(made_slides(studies(CORRECT))).empty


def test_a_heat_map_shows_its_values(tmp_path):
    """Tiles that count have the colour of their value, the others none."""
    line = pd.Series({"path": textured_slide(tmp_path)[0].path.name, "mpp": np.nan, "name": "a"})
    tiles = pd.DataFrame({"x": [0, 64, 0], "y": [0, 0, 64], "side": 64.0})
    cohort = Cohort(tmp_path, pd.DataFrame([line]), tmp_path, 32, 1.0)
    figure = slide_plots.heat_maps(cohort, line, tiles, {"p": np.array([0, 1, np.nan])})
    figure.savefig(tmp_path / "map.png")
    (squares,) = figure.axes[1].collections
    low, high = squares.get_facecolor()[:, :3]
    assert low[2] > low[0] and high[0] > high[2]  # from violet to yellow
