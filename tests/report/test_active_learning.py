"""Learning curves as tables: areas, labels needed, who is better by how much."""

import numpy as np
import pandas as pd
import pytest

from lib.report import active_learning
from lib.report.active_learning import (
    GROUP_COLUMNS,
    areas,
    curve_weights,
    labels_needed,
    rounds_table,
)

SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")


def scored(method, training, seed, budget, accuracy, number=None, **params):
    """A row of a round, or without a number of full supervision."""
    labels = {"confident": 0.4, "precision": None, "disagreeing": 30, "filled": 0, "per_class": {}}
    return record.row(
        dataset="d", vlm="v", method=method, training=training, seed=seed, split="test",
        network="frozen", budget=budget, params=params, seconds=1.0,
        labels=None if number is None else labels | {"round": number, "labelled": budget},
        scores=dict.fromkeys(SCORES, 0.5) | {"accuracy": accuracy, "recall": {"a": 1.0}},
    )  # fmt: skip


def curve(method, training, seed, accuracies, **params):
    return [
        scored(method, training, seed, 10 * (r + 1), accuracy, r, **params)
        for r, accuracy in enumerate(accuracies)
    ]


def full(accuracy, seed=0):
    return scored("full-supervision", "supervised", seed, 500, accuracy)


def made_up():
    """Two strategies over two seeds, one of them in both trainings, and all labels."""
    rows = [full(0.9), full(1.0, seed=1)]
    for seed, more in ((0, 0.0), (1, 0.02)):
        rows += curve("random", "dual-view", seed, [0.51, 0.6 + more, 0.7 + more])
        rows += curve("unisal", "dual-view", seed, [0.5, 0.8 + more, 0.93 + more])
        rows += curve("random", "supervised", seed, [0.4, 0.5, 0.6])
    return rows


# --- areas ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "budgets", [[7, 9], [10, 20, 30, 40], [3, 4, 50, 51, 90], [25, 50, 60, 60], [5, 5, 8]]
)
def test_the_weights_are_those_of_the_trapezoidal_rule_over_the_width(budgets):
    accuracy = np.random.default_rng(0).random(len(budgets))
    weights = curve_weights(budgets)
    width = budgets[-1] - budgets[0]
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    assert weights @ accuracy == pytest.approx(np.trapezoid(accuracy, budgets) / width)
    assert curve_weights(pd.Series(budgets, index=range(5, 5 + len(budgets)))) == pytest.approx(
        weights
    )


@pytest.mark.parametrize("budgets", [[10], [10, 10], [4, 4, 4]])
def test_where_no_label_is_added_every_round_counts_the_same(budgets):
    assert curve_weights(budgets).tolist() == pytest.approx([1 / len(budgets)] * len(budgets))


def test_one_area_per_training_strategy_and_seed():
    found = areas(active_learning.rounds_frame(made_up()))
    assert len(found) == 6 and "full-supervision" not in set(found.method)
    of = found.set_index(["training", "method", "seed"]).area
    assert of["dual-view", "unisal", 0] == pytest.approx((0.5 / 2 + 0.8 + 0.93 / 2) / 2)
    assert of["supervised", "random", 1] == pytest.approx(0.5)


def test_the_area_under_another_score_and_rows_in_any_order():
    rows = curve("random", "dual-view", 0, [0.1, 0.9, 0.2])
    frame = active_learning.rounds_frame(rows[::-1])
    assert frame.budget.tolist() == [10, 20, 30] and frame.accuracy.tolist() == [0.1, 0.9, 0.2]
    assert areas(frame).area.tolist() == [pytest.approx((0.1 / 2 + 0.9 + 0.2 / 2) / 2)]
    assert areas(frame, "balanced_accuracy").area.tolist() == [0.5]


# --- rows ----------------------------------------------------------------------------------------


def test_a_line_per_round_with_scores_labels_and_parameters():
    rows = [*curve("unisal", "dual-view", 0, [0.5, 0.6], tau=0.7, varied=["tau"]), full(0.9)]
    untrained = record.row(method="zero-shot", params={}, scores={"accuracy": 0.1})
    frame = active_learning.rounds_frame([*rows, untrained])
    assert frame.method.tolist() == ["unisal", "unisal", "full-supervision"]
    assert frame.varied.tolist() == [("tau",), ("tau",), ()]
    assert frame["round"].tolist()[:2] == [0, 1] and pd.isna(frame["round"][2])
    assert frame.tau[0] == 0.7 and frame.disagreeing[0] == 30
    assert not {"recall", "per_class", "labelled"} & set(frame)


# --- labels needed -------------------------------------------------------------------------------


def test_labels_needed_are_those_of_the_first_round_that_is_good_enough_on_average():
    frame = active_learning.rounds_frame(
        curve("unisal", "dual-view", 0, [0.5, 0.9, 0.7])
        + curve("unisal", "dual-view", 1, [0.7] * 3)
    )
    assert labels_needed(frame, 0.6) == "10"
    assert labels_needed(frame, 0.75) == "20"  # though the round after it falls back
    assert labels_needed(frame, 0.9) == "–"


# --- tables --------------------------------------------------------------------------------------


def test_the_table_has_a_line_per_training_and_strategy_in_their_order():
    table = rounds_table(active_learning.rounds_frame(made_up()))
    lines = list(zip(table.training, table.strategy, strict=True))
    assert lines == [
        ("dual-view", "UniSAL (DUS, CS)"), ("dual-view", "random"), ("supervised", "random"),
        ("supervised", "all labels"),
    ]  # fmt: skip
    ours = table.iloc[0]
    assert ours.accuracy == "0.940 ± 0.014" and ours["labels at the end"] == "30"
    area = pd.Series([(0.25 + 0.8 + 0.465) / 2, (0.25 + 0.82 + 0.475) / 2])
    assert ours.area == f"{area.mean():.3f} ± {area.std():.3f}"
    # All labels: 0.95 on average, of which 95% are 0.9025 and 98% 0.931.
    wanted = [ours[f"labels for {share}"] for share in ("95%", "98%", "100%")]
    assert wanted == ["30", "30", "–"]
    assert table.seeds.tolist() == ["2"] * 4 and "UniSAL is better by" not in table
    last = table.iloc[-1]
    assert (last.accuracy, last["labels at the end"], last.area) == ("0.950 ± 0.071", "500", "")


def test_without_full_supervision_nobody_says_how_many_labels_it_takes():
    frame = active_learning.rounds_frame(curve("my-own", "supervised", 0, [0.5, 0.6]))
    table = rounds_table(frame)
    assert table.strategy.tolist() == ["my-own"] and table.accuracy.tolist() == ["0.600"]
    assert not [name for name in table if "labels for" in name]


def test_the_difference_is_per_tile_and_its_test_over_groups():
    groups = pd.DataFrame(
        [
            ("v", seed, training, method, "frozen", group, 10, 9.0 - wrong)
            for training, method, wrong in (("dual-view", "unisal", 0), ("dual-view", "random", 2))
            for seed in range(3)
            for group in range(8)
        ],
        columns=GROUP_COLUMNS,
    )
    table = rounds_table(active_learning.rounds_frame(made_up()), groups)
    assert table["UniSAL is better by"].tolist() == ["", "+0.200 (p < 0.001)", "", ""]
    swapped = groups.assign(right=18 - 2 - groups.right)
    table = rounds_table(active_learning.rounds_frame(made_up()), swapped)
    assert table["UniSAL is better by"][1] == "-0.200 (p < 0.001)"


def test_groups_are_those_of_all_seeds(tmp_path):
    assert list(active_learning.groups_of_runs(tmp_path)) == GROUP_COLUMNS
    for seed in (0, 1):
        (tmp_path / f"seed{seed}").mkdir()
        part = pd.DataFrame([["v", seed, "dual-view", "unisal", "frozen", "g", 1, 1.0]])
        part.set_axis(GROUP_COLUMNS, axis=1).to_parquet(tmp_path / f"seed{seed}/learning.parquet")
    assert active_learning.groups_of_runs(tmp_path).seed.tolist() == [0, 1]


def test_the_summary_compares_unisal_with_the_best_other_strategy_of_its_training():
    table = active_learning.summary_table(active_learning.rounds_frame(made_up()))
    (line,) = table.to_dict("records")
    assert (line["dataset"], line["all labels"], line["labels"]) == ("d", "0.950", "30 of 500")
    assert (line["UniSAL"], line["of all labels"]) == ("0.940", "98.9%")
    assert line["area, best other, same training"] == "0.610 (random)"
    assert (line["area, random, supervised"], line["seeds"]) == ("0.500", "2")
    assert "area, entropy, supervised" not in line


def test_there_is_no_summary_of_what_was_not_run():
    for rows in ([], made_up()[2:], [full(0.9), *curve("random", "dual-view", 0, [0.5])]):
        assert active_learning.summary_table(active_learning.rounds_frame(rows)).empty


# --- ablations -----------------------------------------------------------------------------------

OURS = {"strategy": "unisal", "tau": 0.7, "weight": 0.5, "contrast": 0.1, "restart": True}


def ablated():
    """UniSAL over two seeds, of which the first has other thresholds and parts left out."""
    rows = []
    for seed in (0, 1):
        rows += curve("unisal", "dual-view", seed, [0.5, 0.9], **OURS)
        rows += curve("random", "dual-view", seed, [0.5, 0.6], **OURS | {"strategy": "random"})
        rows += curve("unisal", "supervised", seed, [0.4, 0.5], **OURS)
    others = [{"tau": 0.5}, {"tau": 0.9}, {"weight": 0.0}, {"weight": 1.0}, {"strategy": "cs"}]
    for number, other in enumerate(others):
        rules = OURS | other | {"varied": list(other)}
        rows += curve(rules["strategy"], "dual-view", 0, [0.5, float(f"0.8{number + 1}")], **rules)
    return active_learning.rounds_frame(rows)


def test_an_ablation_is_of_one_rule_and_of_the_seeds_in_which_it_was_varied():
    part = active_learning.ablation(ablated(), "tau")
    assert part.groupby("tau").accuracy.max().to_dict() == {0.5: 0.81, 0.7: 0.9, 0.9: 0.82}
    assert set(part.seed) == {0} and set(part.training) == {"dual-view"} and len(part) == 6
    assert active_learning.ablation(ablated(), "contrast").empty


def test_the_ends_of_curves_are_areas_and_last_accuracies():
    found = active_learning.ends(active_learning.ablation(ablated(), "tau"), "tau")
    assert found.tau.tolist() == [0.5, 0.7, 0.9]
    assert found.area.tolist() == pytest.approx([0.655, 0.7, 0.66])
    assert found.accuracy.tolist() == [0.81, 0.9, 0.82]


def test_our_value_is_marked_in_the_table_of_an_ablation():
    table = active_learning.ablation_table(ablated(), "tau")
    assert table.tau.tolist() == ["0.5", "0.7", "0.9"] and table.ours.tolist() == ["", "ours", ""]
    assert table["accuracy at the end"].tolist() == ["0.810", "0.900", "0.820"]


def test_parts_are_switched_off_one_by_one():
    table = active_learning.on_off_table(ablated())
    parts = ["cross supervision", "contrast", "DUS", "CS"]
    found = {
        "".join("01"[bool(on)] for on in line[parts]): line["accuracy at the end"]
        for _, line in table.iterrows()
    }
    expected = {"1111": "0.900", "0111": "0.830", "1101": "0.850", "1100": "0.600", "0011": "0.500"}
    assert found == expected


def test_what_is_drawn_are_rules_that_are_numbers():
    found = active_learning.ablation_lines(ablated())
    assert list(found) == ["threshold τ", "weight w of cross supervision"]
    weight = found["weight w of cross supervision"]
    assert weight.x.tolist() == [0.0, 0.5, 1.0] and set(weight.ours) == {0.5}
