"""Learning curves: areas, labels needed, and which loops are compared with which."""

import numpy as np
import pandas as pd
import pytest
from made_up_results import SHIFTED, from_zero, full, loop, loops, made, of_folds

from lib.report import active_learning
from lib.report.active_learning import (
    BY_CHANCE,
    OURS,
    STRATEGIES,
    cold_start_table,
    curve_weights,
    labels_needed,
    rounds,
    rounds_table,
)

GROUPS = tuple(f"g{n}" for n in range(8))


def test_weights_are_those_of_the_trapezoidal_rule():
    chance = np.random.default_rng(0)
    for n in (2, 3, 10):
        budgets, accuracies = np.sort(chance.permutation(100)[:n]), chance.random(n)
        weights = curve_weights(budgets)
        area = np.trapezoid(accuracies, budgets) / (budgets[-1] - budgets[0])
        assert weights @ accuracies == pytest.approx(area) and weights.sum() == pytest.approx(1)
    assert curve_weights([5]).tolist() == [1] and curve_weights([5, 5]).tolist() == [0.5, 0.5]


# --- which evaluations ---------------------------------------------------------------------------


def test_loops_leave_out_cold_starts_and_what_is_no_active_learning():
    begun = loop("cold-start", OURS[0], [0.8]) + loop(OURS[1], OURS[0], [0.5], params=SHIFTED)
    some = made(
        loops(),
        begun,
        loop("unisal", "dual-view", [0.9], params={"varied": ["threshold"], "threshold": 0.5}),
    )
    assert set(active_learning.loops(some).facts.varied) == {"", "threshold"}
    assert len(active_learning.loops(some, cold_starts=True).facts) == len(some.facts)
    heads = active_learning.heads(some).facts
    assert set(heads.varied) == {""} and set(heads.unit) == {"tile", "curve"}
    assert active_learning.heads(some, "fine-tune").facts.empty
    each = rounds(heads)
    assert each["round"].isna().sum() == 2 and set(each.unit) == {"tile"}


def test_what_is_compared_with_published_unisal_is_of_its_runs_alone():
    lines = [
        ("a", 0, "dual-view", "unisal"),
        ("a", 0, "supervised", "random"),
        ("a", 1, "dual-view-aligned", "unisal"),
        ("b", 1, "dual-view", "unisal"),
        ("b", 0, "dual-view", "random"),
        ("c", 0, "dual-view-aligned", "unisal"),
    ]
    some = made(*(loop(m, t, [0.5], dataset=d, seed=s) for d, s, t, m in lines))
    kept = active_learning.of_published_runs(some).facts.query("unit == 'curve'")
    assert list(kept[["dataset", "seed"]].itertuples(index=False)) == [("a", 0), ("a", 0), ("b", 1)]


def test_labels_needed_are_enough_at_every_later_budget_too_and_pooled_over_folds():
    rising = loop("unisal", "dual-view", [0.5, 0.9, 0.7])
    frame = rounds(made(rising, loop("unisal", "dual-view", [0.7] * 3, seed=1)).facts)
    assert labels_needed(frame, 0.6) == "10" and labels_needed(frame, 0.7) == "20"
    assert labels_needed(frame, 0.75) == "–", "0.8 at 20 labels, but 0.7 at 30"
    two = loop("unisal", "dual-view", [0.5, 0.4], fold=1, n=30)
    frame = rounds(made(loop("unisal", "dual-view", [0.5, 1.0]), two).facts)
    assert (labels_needed(frame, 0.55), labels_needed(frame, 0.56)) == ("20", "–")


# --- tables --------------------------------------------------------------------------------------


def test_the_table_has_a_line_per_training_and_strategy_in_their_order():
    table = rounds_table(made(loops()))
    assert list(zip(table.training, table.strategy, strict=True)) == [
        ("dual-view", "UniSAL (DUS, CS)"),
        ("dual-view", "random"),
        ("supervised", "random"),
        ("supervised", "all labels"),
    ]
    unisal, *_, last = table.to_dict("records")
    assert unisal["accuracy"] == "0.940" and unisal["labels at the end"] == "30"
    area = (0.25 + 0.8 + 0.465) / 2, (0.25 + 0.82 + 0.475) / 2
    assert unisal["AULC"] == f"{np.mean(area):.3f}"
    # All labels: 0.95 on average, of which 95% are 0.9025 and 98% 0.931.
    needed = [unisal[f"labels for {fraction}"] for fraction in ("95%", "98%", "100%")]
    assert needed == ["30", "30", "–"]
    assert table.seeds.tolist() == ["2"] * 4 and "UniSAL is better by" not in table
    assert (last["accuracy"], last["labels at the end"], last["AULC"]) == ("0.950", "500", "")


def test_without_full_supervision_nobody_says_how_many_labels_it_takes():
    table = rounds_table(made(loop("my-own", "supervised", [0.5, 0.6])))
    assert table.strategy.tolist() == ["my-own"] and table.accuracy.tolist() == ["0.600"]
    assert not [name for name in table if "labels for" in name]


def test_differences_are_to_unisal_of_the_same_training_and_as_published():
    aligned, random = ("dual-view-aligned", "unisal"), ("dual-view", "random")
    some = made(
        of_folds("dual-view", "unisal", 0.9),
        of_folds(*random, 0.7),
        of_folds("supervised", "random", 0.6),
        of_folds(*aligned, 0.95),
        of_folds("dual-view-aligned", "random", 0.85, seeds=(0,)),
        of_folds(*OURS, 0.96),
    )
    lines = rounds_table(some)
    kinds = {title: name for name, title in STRATEGIES.items()}
    lines.index = pd.MultiIndex.from_arrays([lines.training, lines.strategy.map(kinds)])
    assert lines.index[0] == aligned, "ours before the published"
    assert lines.loc[aligned, "AULC"] == "0.950 [0.950, 0.950]"
    same, published = lines["UniSAL is better by"], lines["published UniSAL is better by"]
    ours = lines["UniSAL, ours, is better by"]
    assert same[random] == "+0.200 [+0.200, +0.200], p < 0.001", "two lines with a p"
    assert same["dual-view-aligned", "random"] == "+0.100 [+0.100, +0.100]", "a single seed"
    assert same[aligned] == "" and same["supervised", "random"] == ""
    assert published["supervised", "random"].startswith("+0.300")
    assert published[aligned] == "-0.050 [-0.050, -0.050], p < 0.001", "of four lines"
    assert ours[aligned].startswith("+0.010") and ours["supervised", "random"].startswith("+0.360")
    assert ours[OURS] == "" and same[OURS].startswith("-0.010")
    assert published["dual-view", "unisal"] == ""
    assert lines.loc[random, "UniSAL is better by, balanced accuracy"] == same[random]


def test_the_disagreement_set_is_averaged_over_seeds():
    some = made(loops())
    some.facts.loc[some.facts.seed == 1, "disagreeing"] = 20
    table = active_learning.disagreement_table(some.facts)
    assert table["disagreeing", "frozen", "dual-view"].tolist() == [25.0] * 3


# --- from zero labels on -------------------------------------------------------------------------


def test_a_cold_start_is_shown_from_zero_labels_on_and_beside_chance():
    some = made(
        full(0.9),
        loop("random", "supervised", [0.5] * 3),
        from_zero("cold-start", [0.86, 0.84, 0.9], zero=0.87),
        from_zero("cold-start-labels", [0.7, 0.86, 0.88]),
        from_zero(BY_CHANCE, [0.5, 0.7, 0.89]),
        from_zero("cold-start", [0.6, 0.7, 0.8], zero=0.3, params=SHIFTED),
        from_zero(BY_CHANCE, [0.5, 0.7, 0.8], params=SHIFTED),
        full(0.8, params=SHIFTED),
    )
    table = cold_start_table(some)
    assert table["shift"].tolist() == ["none"] * 3 + ["stain+1.0"] * 2
    assert table["begins with"].tolist()[:3] == ["VLM-CPL", "VLM-CPL, first query alone", "chance"]
    assert table["at 0 labels"].tolist() == ["0.870", "0.870", "", "0.300", ""]
    assert table["AULC"].tolist() == ["0.860", "0.825", "0.698", "0.700", "0.675"]
    assert table["labels for 95%"].tolist() == ["30", "20", "30", "30", "30"], "0 is not enough"
    assert table["labels for all labels − 0.02"].tolist() == ["30"] * 5


def test_intervals_of_a_cold_start_are_of_its_own_runs_and_of_heads():
    groups = {"groups": GROUPS}
    begun = from_zero("cold-start", [0.85, 0.85], zero=0.7, **groups)
    some = made(
        full(0.9),
        full(0.9, seed=1),
        begun,
        from_zero(BY_CHANCE, [0.5, 0.5], **groups),
        from_zero(BY_CHANCE, [0.1, 0.1], seed=1, **groups),
        from_zero(BY_CHANCE, [0.0, 0.0], network="fine-tune", **groups),
    )
    table = cold_start_table(some)
    assert table["AULC"].tolist() == ["0.850 [0.850, 0.850]", "0.500 [0.500, 0.500]"]
    assert table["gain over chance"].tolist() == ["+0.350 [+0.350, +0.350]", ""]
    assert table["seeds"].tolist() == ["1", "1"]


def test_a_first_query_that_few_runs_have_is_of_these_runs_alone():
    begun = from_zero("cold-start", [0.8, 0.9], zero=0.7)
    begun += from_zero("cold-start", [0.8, 0.9], zero=0.5, seed=1)
    begun += [full(0.9), full(0.9, seed=1), *from_zero("cold-start-doubtful", [0.8, 0.9])]
    table = cold_start_table(made(begun))
    assert table["at 0 labels"].tolist() == ["0.600", "0.700"]
    assert table["seeds"].tolist() == ["2", "1"] and "gain over chance" not in table
    assert cold_start_table(made(loops())).empty
