"""Learning curves as tables: areas, labels needed, who is better by how much."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from cases import case
from made_up_curves import counted, curve, full, made_up, scored

from lib import record
from lib.figures import active_plots
from lib.report import active_learning, metrics
from lib.report.active_evaluation import right_per_group
from lib.report.active_learning import (
    GROUP_COLUMNS,
    OURS,
    STRATEGIES,
    curve_means,
    curve_weights,
    labels_needed,
    rounds_table,
)

# --- area under the learning curve ---------------------------------------------------------------


def test_the_weights_are_those_of_the_trapezoidal_rule_over_the_width():
    for budgets in ([7, 9], [10, 20, 30, 40], [3, 4, 50, 51, 90], [25, 50, 60, 60], [5, 5, 8]):
        with case(budgets):
            accuracy = np.random.default_rng(0).random(len(budgets))
            weights = curve_weights(budgets)
            width = budgets[-1] - budgets[0]
            assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
            assert weights @ accuracy == pytest.approx(np.trapezoid(accuracy, budgets) / width)
            column = pd.Series(budgets, index=range(5, 5 + len(budgets)))
            assert curve_weights(column) == pytest.approx(weights)


def test_where_no_label_is_added_every_round_counts_the_same():
    for budgets in ([10], [10, 10], [4, 4, 4]):
        equal = [1 / len(budgets)] * len(budgets)
        assert curve_weights(budgets).tolist() == pytest.approx(equal), budgets


def test_one_area_per_training_strategy_and_run():
    frame = active_learning.rounds_frame(made_up())
    areas = curve_means(active_learning.of_rounds(frame), "training", "method")
    assert len(areas) == 6 and set(areas.n) == {20}
    area = areas.set_index(["training", "method", "seed"]).accuracy
    assert area["dual-view", "unisal", 0] == pytest.approx((0.5 / 2 + 0.8 + 0.93 / 2) / 2)
    assert area["supervised", "random", 1] == pytest.approx(0.5)


def test_areas_of_both_scores_and_rows_in_any_order():
    rows = curve("random", "dual-view", 0, [0.1, 0.9, 0.2])
    frame = active_learning.rounds_frame(rows[::-1])
    assert frame.budget.tolist() == [10, 20, 30] and frame.accuracy.tolist() == [0.1, 0.9, 0.2]
    (area,) = curve_means(frame).itertuples()
    assert area.accuracy == pytest.approx((0.1 / 2 + 0.9 + 0.2 / 2) / 2)
    assert area.balanced_accuracy == 0.5


def test_areas_from_rows_are_those_from_groups():
    """Two folds, of which the second holds no tile of class b."""
    rows, counted, names = [], [], ["a", "b"]
    for fold, labels in enumerate((np.array([0, 0, 1, 1, 1, 0]), np.zeros(4, int))):
        for seed in (0, 1):
            chance = np.random.default_rng(10 * fold + seed)
            probs = chance.dirichlet([1, 1], (3, len(labels)))
            rounds = pd.DataFrame({"labelled": [10, 20, 40]})
            history = SimpleNamespace(probs=probs, rounds=rounds)
            test = pd.DataFrame({"label": labels, "group": [f"{fold}.{i // 2}" for i in labels]})
            counted.append(right_per_group({("dual-view", "unisal"): history}, test, vlm="v",
                                           seed=seed, fold=fold, network="frozen"))  # fmt: skip
            of_run = curve("unisal", "dual-view", seed, [0, 0, 0], fold=fold)
            for row, p, budget in zip(of_run, probs, rounds.labelled, strict=True):
                scored = {"scores": metrics.scores(p, labels, names), "n": len(labels)}
                rows.append(row | scored | {"budget": budget})
    table = rounds_table(active_learning.rounds_frame(rows), pd.concat(counted))
    plain = rounds_table(active_learning.rounds_frame(rows))
    for name in ("AULC", "AULC, balanced accuracy"):
        assert table[name][0].startswith(plain[name][0] + " ["), name
    assert table.folds[0] == table.seeds[0] == "2"


# --- rows ----------------------------------------------------------------------------------------


def test_a_line_per_round_with_scores_labels_and_parameters():
    rows = [
        *curve("unisal", "dual-view", 0, [0.5, 0.6], threshold=0.7, varied=["threshold"]),
        full(0.9),
    ]
    untrained = record.row(method="zero-shot", params={}, scores={"accuracy": 0.1})
    frame = active_learning.rounds_frame([*rows, untrained])
    assert frame.method.tolist() == ["unisal", "unisal", "full-supervision"]
    assert frame.varied.tolist() == [("threshold",), ("threshold",), ()]
    assert frame["round"].tolist()[:2] == [0, 1] and pd.isna(frame["round"][2])
    assert frame.threshold[0] == 0.7 and frame.disagreeing[0] == 30
    assert not {"per_class", "labelled"} & set(frame) and set(frame.fold) == {0}


# --- labels needed -------------------------------------------------------------------------------


def test_labels_needed_are_enough_at_every_later_budget_too():
    frame = active_learning.rounds_frame(
        curve("unisal", "dual-view", 0, [0.5, 0.9, 0.7])
        + curve("unisal", "dual-view", 1, [0.7] * 3)
    )
    assert labels_needed(frame, 0.6) == "10"
    assert labels_needed(frame, 0.7) == "20"
    assert labels_needed(frame, 0.75) == "–", "0.8 at 20 labels, but 0.7 at 30"
    assert labels_needed(frame, 0.9) == "–"


def test_labels_needed_are_pooled_over_folds():
    rows = curve("unisal", "dual-view", 0, [0.5, 1.0]) + curve(
        "unisal", "dual-view", 0, [0.5, 0.4], fold=1
    )
    rows[2]["n"] = rows[3]["n"] = 60  # three times as many test tiles
    frame = active_learning.rounds_frame(rows)
    assert (labels_needed(frame, 0.55), labels_needed(frame, 0.56)) == ("20", "–")


# --- tables --------------------------------------------------------------------------------------


def test_the_table_has_a_line_per_training_and_strategy_in_their_order():
    table = rounds_table(active_learning.rounds_frame(made_up()))
    lines = list(zip(table.training, table.strategy, strict=True))
    assert lines == [
        ("dual-view", "UniSAL (DUS, CS)"), ("dual-view", "random"), ("supervised", "random"),
        ("supervised", "all labels"),
    ]  # fmt: skip
    ours = table.iloc[0]
    assert ours.accuracy == "0.940" and ours["labels at the end"] == "30"
    area = (0.25 + 0.8 + 0.465) / 2, (0.25 + 0.82 + 0.475) / 2
    assert ours.AULC == f"{np.mean(area):.3f}"
    # All labels: 0.95 on average, of which 95% are 0.9025 and 98% 0.931.
    needed = [ours[f"labels for {fraction}"] for fraction in ("95%", "98%", "100%")]
    assert needed == ["30", "30", "–"]
    assert table.seeds.tolist() == ["2"] * 4 and "UniSAL is better by" not in table
    last = table.iloc[-1]
    assert (last.accuracy, last["labels at the end"], last.AULC) == ("0.950", "500", "")


def test_without_full_supervision_nobody_says_how_many_labels_it_takes():
    frame = active_learning.rounds_frame(curve("my-own", "supervised", 0, [0.5, 0.6]))
    table = rounds_table(frame)
    assert table.strategy.tolist() == ["my-own"] and table.accuracy.tolist() == ["0.600"]
    assert not [name for name in table if "labels for" in name]


def test_differences_are_to_unisal_of_the_same_training_and_as_published():
    rows = made_up() + curve("unisal", "dual-view-aligned", 0, [0.6, 0.7])
    rows += curve("random", "dual-view-aligned", 0, [0.6, 0.7]) + curve(*OURS[::-1], 0, [0.7, 0.8])
    groups = pd.concat([
        counted("dual-view", "unisal", 9.0), counted("dual-view", "random", 7.0),
        counted("supervised", "random", 6.0), counted("dual-view-aligned", "unisal", 9.5),
        counted("dual-view-aligned", "random", 8.5, seeds=(0,)),
        counted(*OURS, 9.6),
    ])  # fmt: skip
    table = rounds_table(active_learning.rounds_frame(rows), groups)
    lines = table.set_index(["training", "strategy"])
    aligned, random = ("dual-view-aligned", "UniSAL (DUS, CS)"), ("dual-view", "random")
    assert lines.index[0] == aligned, "ours before the published"
    assert lines.loc[aligned, "AULC"] == "0.950 [0.950, 0.950]"
    same, published = lines["UniSAL is better by"], lines["published UniSAL is better by"]
    ours, mine = lines["UniSAL, ours, is better by"], (OURS[0], STRATEGIES[OURS[1]])
    assert same[random] == "+0.200 [+0.200, +0.200], p = 0.002", "two lines with a p"
    assert same["dual-view-aligned", "random"] == "+0.100 [+0.100, +0.100]", "a single seed"
    assert same[aligned] == "" and same["supervised", "random"] == ""
    assert published["supervised", "random"].startswith("+0.300")
    assert published[aligned] == "-0.050 [-0.050, -0.050], p = 0.004", "of four lines"
    assert ours[aligned].startswith("+0.010") and ours["supervised", "random"].startswith("+0.360")
    assert ours[mine] == "" and same[mine].startswith("-0.010")
    assert published["dual-view", "UniSAL (DUS, CS)"] == "" == published["supervised", "all labels"]
    assert lines.loc[random, "UniSAL is better by, balanced accuracy"] == same[random]


def test_groups_are_those_of_all_folds_and_seeds(tmp_path):
    assert list(active_learning.groups_of_runs(tmp_path)) == GROUP_COLUMNS
    for seed in (0, 1):
        folder = tmp_path / f"seed{seed}" / "fold3"
        folder.mkdir(parents=True)
        counts = counted("dual-view", "unisal", 1.0, seeds=(seed,), folds=(3,))
        counts.to_parquet(folder / "learning.parquet")
    assert active_learning.groups_of_runs(tmp_path).seed.tolist() == [0] * 8 + [1] * 8


def test_the_summary_compares_unisal_with_the_best_other_strategy_of_its_training():
    table = active_learning.summary_table(active_learning.rounds_frame(made_up()))
    (line,) = table.to_dict("records")
    assert (line["dataset"], line["all labels"], line["labels"]) == ("d", "0.950", "30 of 500")
    assert (line["UniSAL"], line["UniSAL, of all labels"]) == ("0.940", "98.9%")
    assert line["AULC, best other, same training as UniSAL"] == "0.610 (random)"
    rows = made_up() + curve("margin", "dual-view", 0, [0.7, 0.8, 0.9])
    (fewer,) = active_learning.summary_table(active_learning.rounds_frame(rows)).to_dict("records")
    best = fewer["AULC, best other, same training as UniSAL"]
    assert best == "0.800 (margin, 1 of 2 seeds)"
    assert not [name for name in line if "ours" in name]
    assert (line["AULC, random, supervised"], line["seeds"]) == ("0.500", "2")
    assert "AULC, entropy, supervised" not in line and line["folds"] == "1"


def test_the_summary_has_our_training_where_it_was_run():
    rows = made_up() + curve(*OURS[::-1], 0, [0.7, 0.8, 0.95])
    rows += curve("margin", "dual-view-aligned", 0, [0.7, 0.8, 0.9])
    rows += curve("unisal-jsd", "dual-view-aligned", 0, [0.9, 0.9, 0.9])
    (line,) = active_learning.summary_table(active_learning.rounds_frame(rows)).to_dict("records")
    assert (line["UniSAL, ours"], line["UniSAL, ours, of all labels"]) == ("0.950", "100.0%")
    assert line["AULC, best other, same training as UniSAL, ours"] == "0.800 (margin)"
    assert line["AULC, best other, same training as UniSAL"] == "0.610 (random)"


def test_there_is_no_summary_of_what_was_not_run():
    for rows in ([], made_up()[2:], [full(0.9), *curve("random", "dual-view", 0, [0.5])]):
        assert active_learning.summary_table(active_learning.rounds_frame(rows)).empty


# --- what the notebooks show ---------------------------------------------------------------------


def test_networks_have_tables_and_groups_of_their_own():
    frame = active_learning.rounds_frame(made_up())
    both = pd.concat([frame, frame.assign(network="fine-tune")])
    groups = pd.DataFrame(columns=GROUP_COLUMNS)
    curves = active_learning.by_network(both, "d")
    tables = dict(active_learning.rounds_tables(curves, groups))
    assert list(tables) == list(curves) == ["d, frozen", "d, fine-tune"]
    assert all(len(table) == 4 for table in tables.values())
    assert active_learning.by_network(active_learning.rounds_frame([]), "d") == {}


def test_the_disagreement_set_is_averaged_over_seeds():
    frame = active_learning.rounds_frame(made_up())
    frame.loc[frame.seed == 1, "disagreeing"] = 20
    table = active_learning.disagreement_table(frame)
    assert table["disagreeing", "frozen", "dual-view"].tolist() == [25.0] * 3
    assert active_learning.disagreement_table(active_learning.rounds_frame([])).empty


# --- from zero labels on -------------------------------------------------------------------------


def from_zero(method, accuracies, zero=None, **params):
    rows = curve(method, OURS[0], 0, accuracies, **params)
    if zero is not None:
        rows.append(scored(method, OURS[0], 0, 0, zero, -1, **params))
    return rows


def test_a_cold_start_is_shown_from_zero_labels_on_and_beside_chance():
    shifted = {"varied": ["shift"], "shift": "stain+1.0"}
    rows = [full(0.9), *curve("random", "supervised", 0, [0.5] * 3)]
    rows += from_zero("cold-start", [0.86, 0.84, 0.9], zero=0.87)
    rows += from_zero("cold-start-labels", [0.7, 0.86, 0.88])
    rows += from_zero(OURS[1], [0.5, 0.7, 0.89])
    rows += from_zero("cold-start", [0.6, 0.7, 0.8], zero=0.3, **shifted)
    rows += from_zero(OURS[1], [0.5, 0.7, 0.8], **shifted)
    rows.append(full(0.8) | {"params": shifted})
    frame = active_learning.rounds_frame(rows, cold_starts=True)
    table = active_learning.cold_start_table(frame)
    assert table["shift"].tolist() == ["none"] * 3 + ["stain+1.0"] * 2
    assert table["begins with"].tolist()[:3] == ["VLM-CPL", "VLM-CPL, first query alone", "chance"]
    assert table["at 0 labels"].tolist() == ["0.870", "0.870", "", "0.300", ""]
    assert table["AULC"].tolist() == ["0.860", "0.825", "0.698", "0.700", "0.675"]
    assert table["labels for 95%"].tolist() == ["30", "20", "30", "30", "30"], "0 is not enough"
    assert table["labels for all labels − 0.02"].tolist() == ["30", "30", "30", "30", "30"]
    others = active_learning.rounds_frame(rows)
    assert set(others.method) == {"full-supervision", "random", OURS[1]} and len(others) == 7
    figure = active_plots.cold_start_curves(frame, "made up")
    assert [ax.get_title("left") for ax in figure.axes] == ["no shift", "stain+1.0"]
    first = figure.axes[0].lines[0]
    assert first.get_xdata().tolist() == [0, 10, 20, 30]
    assert first.get_ydata() == pytest.approx([0.87, 0.86, 0.84, 0.9])


def test_intervals_of_a_cold_start_are_of_its_own_runs_and_of_heads():
    rows = [full(0.9), full(0.9, seed=1), *from_zero("cold-start", [0.8, 0.9], zero=0.7)]
    rows += from_zero(OURS[1], [0.5, 0.5]) + curve(*OURS[::-1], 1, [0.1, 0.1])
    shares = {("cold-start", 0, "frozen"): 0.85, (OURS[1], 0, "frozen"): 0.5,
              (OURS[1], 1, "frozen"): 0.1, (OURS[1], 0, "fine-tune"): 0.0}  # fmt: skip
    columns = ("method", "seed", "network", "right", "group")
    lines = [(*kind, 10 * share, str(g)) for kind, share in shares.items() for g in range(6)]
    groups = pd.DataFrame(lines, columns=columns).assign(
        vlm="v", fold=0, training=OURS[0], label=0, n=10
    )
    frame = active_learning.rounds_frame(rows, cold_starts=True)
    table = active_learning.cold_start_table(frame, groups)
    assert table["AULC"].tolist() == ["0.850 [0.850, 0.850]", "0.500 [0.500, 0.500]"]
    assert table["by"].tolist() == ["+0.350 [+0.350, +0.350]", ""]
    assert table["seeds"].tolist() == ["1", "1"]
    begun_elsewhere = groups[groups.method == OURS[1]]
    plain = active_learning.cold_start_table(frame, begun_elsewhere)
    assert plain["AULC"].tolist() == ["0.850", "0.500"], "rows alone have no interval"


def test_a_beginning_that_few_runs_have_is_of_these_runs_alone():
    rows = [full(0.9), full(0.9, seed=1), *from_zero("cold-start", [0.8, 0.9], zero=0.7)]
    again = [row | {"seed": 1} for row in from_zero("cold-start", [0.8, 0.9], zero=0.5)]
    frame = active_learning.rounds_frame(
        rows + again + from_zero("cold-start-doubtful", [0.8, 0.9]), cold_starts=True
    )
    table = active_learning.cold_start_table(frame)
    assert table["at 0 labels"].tolist() == ["0.600", "0.700"]
    assert table["seeds"].tolist() == ["2", "1"]
    (ax,) = active_plots.cold_start_curves(frame, "made up").axes
    dashed = [line.get_label() for line in ax.lines[:-2] if line.get_linestyle() == "--"]
    assert dashed == ["VLM-CPL, first query in doubtful clusters (1 of 2 seeds)"]
    legend = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert legend == ["VLM-CPL", *dashed, "VLM-CPL alone", "all labels"]
    shifted = {"varied": ["shift"], "shift": "stain+1.0"}
    again += from_zero("cold-start", [0.6, 0.8], zero=0.3, **shifted)
    frame = active_learning.rounds_frame(rows + again, cold_starts=True)
    panels = [ax.get_title("left") for ax in active_plots.cold_start_curves(frame, "made up").axes]
    assert panels == ["no shift", "stain+1.0 (1 of 2 seeds)"]


def test_there_is_no_cold_start_where_none_was_run():
    frame = active_learning.rounds_frame(made_up())
    assert active_learning.cold_start_table(frame).empty


def test_what_is_compared_with_published_unisal_is_of_its_runs_alone():
    lines = [("a", 0, "dual-view", "unisal"), ("a", 0, "supervised", "random"),
             ("a", 1, "dual-view-aligned", "unisal"), ("b", 1, "dual-view", "unisal"),
             ("b", 0, "dual-view", "random"), ("c", 0, "dual-view-aligned", "unisal")]  # fmt: skip
    frame = pd.DataFrame(lines, columns=["dataset", "seed", "training", "method"]).assign(fold=0)
    kept = active_learning.of_published_runs(frame)
    assert list(kept[["dataset", "seed"]].itertuples(index=False)) == [("a", 0), ("a", 0), ("b", 1)]
    assert active_learning.of_published_runs(frame[:0]).empty
