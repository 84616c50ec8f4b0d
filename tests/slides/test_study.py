"""Tiles that count, what a study says of them, and its tables."""

import numpy as np
import pandas as pd
import pytest
from slides.made_up_slides import textured_slide

from apps.slide_viewer import page
from figures import results
from lib import record
from lib.alarm import Alarm
from lib.figures import plots, slide_plots
from lib.learning.pooling import Bags
from lib.slides import open_set, scores, study
from lib.slides.features_file import write_features

TEST = pd.DataFrame({"slide": [1, 3, 4], "label": [0, 1, 1], "group": ["a", "b", "b"]})


def outcomes(right: dict[tuple[str, str], list[bool]]) -> list[study.SlideOutcome]:
    """Mean pooling of two classes: method and setting → whether each slide of TEST is right."""
    found = []
    for (method, setting), is_right in right.items():
        probs = np.full((5, 2), 0.5)
        for slide, label, ok in zip(TEST.slide, TEST.label, is_right, strict=True):
            probs[slide] = np.eye(2)[label if ok else 1 - label] * 0.6 + 0.2
        found.append(study.SlideOutcome(method, "mean", setting, probs))
    return found


RIGHT = {
    ("zero-shot", open_set.OPEN_SET): [True, True, False],
    ("zero-shot", open_set.ALL_TISSUE): [False, True, False],
    ("vlm-cpl", open_set.OPEN_SET): [True, True, True],
    ("vlm-cpl", open_set.ALL_TISSUE): [True, True, True],
}

HALF = {("vlm-cpl", open_set.OPEN_SET): [True, True, False],
        ("vlm-cpl", open_set.ALL_TISSUE): [False, True, False]}  # fmt: skip


def test_tiles_are_drawn_by_chance_and_no_more_than_asked_for_of_a_slide():
    slide_of = np.repeat(np.arange(4), [3, 50, 0, 80])[np.random.default_rng(0).permutation(133)]
    rows = np.flatnonzero(np.random.default_rng(1).random(133) < 0.8)
    drawn = study.draw_tiles(rows, slide_of, 10, seed=0)
    assert set(drawn) <= set(rows) and (np.diff(drawn) > 0).all()
    for slide in (0, 1, 3):
        of_slide = (slide_of[rows] == slide).sum()
        assert (slide_of[drawn] == slide).sum() == min(10, of_slide)
    assert np.array_equal(study.draw_tiles(rows[::-1], slide_of, 10, seed=0), drawn)
    assert not np.array_equal(study.draw_tiles(rows, slide_of, 10, seed=1), drawn)


def test_in_our_setting_slides_teach_the_class_that_gains_most():
    """Prompts that favour class 1 name it for every slide; what differs between slides is right."""
    probs = np.array([[0.45, 0.55], [0.40, 0.60], [0.10, 0.90], [0.05, 0.95], [0.30, 0.70]])
    trained_on = np.array([True, True, True, True, False])
    for setting in (open_set.ALL_TISSUE, open_set.OPEN_SET):
        assert study.pseudo_labels_of_slides(setting, probs, trained_on).tolist() == [1] * 5
    ours = study.pseudo_labels_of_slides(open_set.LEARNT, probs, trained_on)
    assert ours.tolist() == [0, 0, 1, 1, 0]
    probs[-1] = 1, 0  # a slide that is not learnt from moves nothing
    assert np.array_equal(study.pseudo_labels_of_slides(open_set.LEARNT, probs, trained_on), ours)


def test_a_study_says_nothing_of_tiles_that_do_not_count():
    attention = [np.array([0.7, 0.3]), np.array([]), np.array([1.0])]
    tile_probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    rows = np.array([1, 2, 5])
    found = study.SlideStudy(outcomes(RIGHT), rows, tile_probs, attention, 0.3, [])
    probs, looked = found.of_tiles(7)
    assert np.array_equal(probs[[1, 2, 5]], tile_probs)
    assert looked[[1, 2, 5]].tolist() == [0.7, 0.3, 1.0]
    assert np.isnan(probs[[0, 3, 4, 6]]).all() and np.isnan(looked[[0, 3, 4, 6]]).all()


def test_scores_and_counts_are_of_the_slides_of_the_fold():
    evaluations = scores.evaluate_slides(
        outcomes(RIGHT), TEST.slide.values, TEST.label.values, ["a", "b"], {}, device="cpu"
    )
    rows = [record.row(dataset="d", vlm="v", seed=0, fold=0, **e) for e in evaluations]
    right = scores.right_per_slide(outcomes(RIGHT), TEST, vlm="v", seed=0, fold=0)
    table = scores.slides_table(rows, right).set_index("method")
    open_set, better = table["open set"], table["open set: better by"]
    assert open_set["zero-shot tiles"].startswith("0.667")
    assert open_set["zero-shot tiles"].endswith(" / 0.750")
    assert table["all tissue"]["zero-shot tiles"].startswith("0.333")
    assert better["zero-shot tiles"].startswith("+0.333")
    assert better["MVC → PFC, HCS"].startswith("+0.000")
    assert table.folds.tolist() == table.seeds.tolist() == ["1", "1"]
    without = scores.slides_table(rows)
    assert without["open set"].tolist() == ["0.667 / 0.750", "1.000 / 1.000"]
    assert scores.slides_table([]).empty


def test_lines_are_in_the_order_of_the_poolings():
    names = ("top-100", "mean", "top-5", "share", "top-10")
    probs = np.full((5, 2), 0.5)
    found = [study.SlideOutcome("vlm-cpl", name, open_set.OPEN_SET, probs) for name in names]
    given = TEST.slide.values, TEST.label.values, ["a", "b"], {}
    rows = [record.row(dataset="d", vlm="v", seed=0, fold=0, **e)
            for e in scores.evaluate_slides(found, *given, device="cpu")]  # fmt: skip
    assert scores.slides_table(rows).pooling.tolist() == [
        "mean", "share", "top-5", "top-10", "top-100",
    ]  # fmt: skip


def test_slides_are_published_with_their_counts_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT_ROOT", str(tmp_path))
    fold = tmp_path / "runs" / "seed0" / "fold0"
    (fold / "slides").mkdir(parents=True)
    (fold / "slides" / "heat_map.png").write_bytes(b"a picture")
    right = scores.right_per_slide(outcomes(RIGHT), TEST, vlm="v", seed=0, fold=0)
    right.to_parquet(fold / "slides.parquet")
    given = TEST.slide.values, TEST.label.values, ["a", "b"], {}
    rows = [record.row(dataset="d", vlm="v", seed=0, fold=0, **e)
            for e in scores.evaluate_slides(outcomes(RIGHT), *given, device="cpu")]  # fmt: skip
    results.publish("d", "v", rows, tmp_path / "runs")
    published = pd.read_parquet(tmp_path / "data" / "record" / "d.slides.parquet")
    pd.testing.assert_frame_equal(published, right)
    assert (tmp_path / "figures" / "d_heat_map.png").read_bytes() == b"a picture"
    page = results.of_record(rows, {"d": "Made up."}, rows, tmp_path / "data" / "record")
    assert "open set: better by" in page.text()


def test_a_slide_is_one_unit_of_the_bootstrap():
    right = scores.right_per_slide(outcomes(RIGHT), TEST, vlm="v", seed=0, fold=0)
    assert len(right) == 4 * len(TEST) and set(right.n) == {1}
    zero = right[(right.method == "zero-shot") & (right.setting == open_set.OPEN_SET)]
    assert zero.right.tolist() == [1, 1, 0] and zero.group.tolist() == ["a", "b", "b"]


def test_classes_of_slides_are_written(tmp_path):
    table = pd.DataFrame({"path": [f"{n}.tif" for n in range(5)]})
    ours = {kind: right for kind, right in RIGHT.items() if kind[1] == open_set.OPEN_SET}
    found = study.SlideStudy(outcomes(ours), np.empty(0, int), np.empty((0, 2)), [], 0.3, [])
    written = page.slides_csv(tmp_path / "slides.csv", table, found, ["a", "b"])
    assert written["class"].tolist()[1] == "a" and written["class"].tolist()[3:] == ["b", "b"]
    again = pd.read_csv(tmp_path / "slides.csv")
    assert list(again) == ["path", "class", "prob a", "prob b"]
    assert again["prob b"].values == pytest.approx(written["prob b"].values)


def test_a_slide_of_which_nothing_is_known_has_no_class(tmp_path):
    ours = outcomes({("vlm-cpl", open_set.LEARNT): [True, True, True]})
    table = pd.DataFrame({"path": [f"{n}.tif" for n in range(5)]})
    attention = [np.ones(n) for n in (1, 2, 0, 1, 3)]
    lacking = [Alarm("class without labels", f"{name}: 0 of 9") for name in ("a", "b")]

    def classes(*alarms):
        found = study.SlideStudy(ours, np.empty(0, int), np.empty((0, 2)), attention, 0, alarms)
        written = page.slides_csv(tmp_path / "slides.csv", table, found, ["a", "b"])
        assert (written["prob a"].isna() == (written["class"] == "")).all()
        return pd.read_csv(tmp_path / "slides.csv", keep_default_na=False)["class"].tolist()

    assert classes() == ["a", "a", "", "b", "b"] == classes(lacking[0])
    assert classes(*lacking) == [""] * 5


def test_without_a_tile_that_counts_nothing_is_learnt_and_nothing_known(tmp_path):
    bags = Bags(tmp_path / "none.npy", (np.empty(0, int),) * 3)
    given = bags, np.arange(3), np.zeros(3, int), ["a", "b"], tmp_path
    probs, attention = study.learn_slides(*given, steps=1, seed=0)
    assert (probs == 0.5).all() and [*map(len, attention)] == [0, 0, 0]


def test_files_of_features_of_another_program_are_refused_by_name(tmp_path):
    slide, _ = textured_slide(tmp_path)
    coords, features = np.zeros((2, 2), np.int64), np.zeros((2, 3), np.float16)
    write_features(tmp_path / "a.h5", coords, features, slide=slide, pixels=16, mpp=1.0)
    with pytest.raises(ValueError, match=r"a\.h5 is of another program"):
        study.gather(pd.DataFrame({"name": ["a"], "slide": [0]}), tmp_path)


def test_a_heat_map_shows_its_values(tmp_path):
    """Tiles that count have the colour of their value, the others none."""
    line = pd.Series({"path": textured_slide(tmp_path)[0].path.name, "mpp": np.nan, "name": "a"})
    coords = np.array([[0, 0], [64, 0], [0, 64]])
    figure = slide_plots.heat_maps(tmp_path, line, coords, 64.0, {"p": np.array([0, 1, np.nan])})
    figure.savefig(tmp_path / "map.png")
    (squares,) = figure.axes[1].collections
    low, high = squares.get_facecolor()[:, :3]
    assert low[2] > low[0] and high[0] > high[2]  # from violet to yellow


def rows_of(dataset, share, found):
    quality = {
        setting: {"irrelevant": share, "irrelevant_dropped": drop, "relevant_dropped": None}
        for setting, drop in ((open_set.ALL_TISSUE, 0.0), (open_set.OPEN_SET, 0.75))
    }
    given = TEST.slide.values, TEST.label.values, ["a", "b"], quality
    return [record.row(dataset=dataset, vlm="v", seed=0, fold=0, **e)
            for e in scores.evaluate_slides(found, *given, device="cpu")]  # fmt: skip


def test_accuracy_stands_beside_the_share_of_other_tissue():
    half, all_right = outcomes(HALF), outcomes(RIGHT)
    rows = rows_of("d_90", 0.9, half) + rows_of("d", 0.0, all_right)
    right = scores.right_per_slide(half, TEST, vlm="v", seed=0, fold=0)
    frame = scores.share_frame(rows, {"d_90": right})
    assert frame.dataset.tolist() == ["d", "d", "d_90", "d_90"]
    assert frame.irrelevant.tolist() == [0.0, 0.0, 0.9, 0.9]
    assert frame.irrelevant_dropped.tolist() == [0.0, 0.75, 0.0, 0.75]
    assert [e.value for e in frame.accuracy] == pytest.approx([1, 1, 1 / 3, 2 / 3])
    assert frame.better[3].value == pytest.approx(1 / 3) and frame.better[2] is None
    shown = scores.share_table(frame)
    assert shown["relevant dropped"].tolist() == [""] * 4 and len(shown) == 4
    figure = plots.accuracy_against_share(frame, "made up")
    assert [line.get_label() for line in figure.axes[0].containers] == [
        open_set.ALL_TISSUE, open_set.OPEN_SET,
    ]  # fmt: skip
    assert scores.share_frame([]).empty
    unknown = [row | {"labels": None} for row in rows]
    assert scores.share_frame(unknown).empty
