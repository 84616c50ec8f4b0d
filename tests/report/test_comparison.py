"""VLM-CPL beside other methods: which evaluations count, what is pooled, who is named."""

import numpy as np
from made_up_results import comparison, made, scored

from lib.report import comparison as tables
from lib.report import statistics

GROUPS = tuple(f"g{n}" for n in range(8))


def of_folds(method, accuracy, seeds=(0, 1), folds=5, **fields):
    return [
        scored(method, accuracy, seed=s, fold=f, groups=tuple(f"{f}.{g}" for g in GROUPS), **fields)
        for s in seeds
        for f in range(folds)
    ]


def test_scores_are_those_of_the_test_set_in_the_order_of_the_methods():
    rows = [scored("vlm-cpl", a, variant="ours", seed=s) for s, a in enumerate((0.9, 1.0))]
    rows += [scored("vlm-cpl", 0.8, variant="published filters"), scored("mvc", 0.2)]
    rows += [scored("vlm-cpl", 0.3, params={"varied": ["keep_ratio"], "keep_ratio": 0.1})]
    rows += [scored("zero-shot", 0.7), scored("zero-shot", 0.1, split="train")]
    rows += [scored("full-supervision", 0.6, training="supervised")]  # of active learning
    table = tables.scores_table(made(rows))
    assert table.method.tolist() == ["zero-shot", "VLM-CPL", "VLM-CPL"]
    assert table.setting.tolist() == ["", "published filters", "ours"]
    assert table.accuracy.tolist() == ["0.700", "0.800", "0.950"]
    assert table.seeds.tolist() == ["1", "1", "2"] and "ours is better by" not in table
    assert tables.scores_table(made()).empty


def test_the_papers_numbers_stand_where_they_belong_and_nowhere_else():
    for dataset, expected in (("hph", "0.871"), ("lc25k", "0.951"), ("d", "")):
        table = tables.scores_table(made(comparison(dataset=dataset)))
        assert table.paper[table.method == "VLM-CPL"].tolist() == [expected, ""]
        assert set(table.paper[table.method != "VLM-CPL"]) == {""}


def test_scores_are_pooled_and_compared_over_folds_and_groups():
    some = made(
        of_folds("vlm-cpl", 1.0, variant="ours"),
        of_folds("ce-all", 0.5),
        of_folds("zero-shot", 1.0, seeds=(0,)),
        of_folds("full-supervision", 1.0),
    )
    table = tables.scores_table(some).set_index("method")
    assert table.loc["zero-shot labels, CE", "accuracy"] == "0.500 [0.500, 0.500]"
    better = table["ours is better by"]
    assert better["zero-shot labels, CE"] == "+0.500 [+0.500, +0.500], p < 0.001"  # of two lines
    assert better["zero-shot"] == "+0.000 [+0.000, +0.000]", "a single seed has no p"
    assert better["VLM-CPL"] == ""
    assert better["full supervision"] == "+0.000 [+0.000, +0.000], p = 1.000"
    assert table["ours is better by, balanced accuracy"].tolist() == better.tolist()
    column = table["not inferior to full supervision"]
    assert column["VLM-CPL"] == "accuracy, balanced accuracy" and column["full supervision"] == ""
    assert column["zero-shot labels, CE"] == "no"
    assert statistics.MARGINS == {"accuracy": 0.01, "balanced_accuracy": 0.02}
    assert set(table.folds) == {"5"} and table.seeds.tolist() == ["1", "2", "2", "2"]


def test_even_classes_have_one_margin():
    def margins_of(*tiles):
        n = np.zeros((2, 1, 3, len(tiles)))
        n[0, 0] = [np.array(tiles) - 2, np.ones(len(tiles)), np.ones(len(tiles))]
        return statistics.margins(statistics.Groups({}, np.zeros(3), n, n))

    one = {"accuracy": 0.01, "balanced_accuracy": 0.01}
    assert margins_of(100, 100, 100) == one == margins_of(100, 110)
    assert margins_of(100, 111) == statistics.MARGINS


def test_one_fold_and_one_seed_give_a_table_without_p():
    one = {"seeds": (0,), "folds": 1}
    ours, other = of_folds("vlm-cpl", 1.0, variant="ours", **one), of_folds("ce-all", 0.5, **one)
    table = tables.scores_table(made(ours, other, scored("zero-shot", 0.5))).set_index("method")
    assert table["ours is better by"].tolist() == ["", "+0.500 [+0.500, +0.500]", ""]
    assert table.accuracy["zero-shot"] == "0.500", "without groups there is no interval"
    assert set(table["not inferior to full supervision"]) == {""}
