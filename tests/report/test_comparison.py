"""VLM-CPL beside other methods: which evaluations count, what is pooled, who is named."""

import pytest
from made_up_results import SHIFTED, comparison, made, scored

from lib.report import comparison as tables

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
    assert better["zero-shot labels, CE"] == "+0.500 [+0.500, +0.500], p = 0.002"  # of two lines
    assert better["zero-shot"] == "+0.000 [+0.000, +0.000]", "a single seed has no p"
    assert better["VLM-CPL"] == ""
    assert better["full supervision"] == "+0.000 [+0.000, +0.000], p = 1.000"
    assert table["ours is better by, balanced accuracy"].tolist() == better.tolist()
    column = table["not inferior to full supervision"]
    assert column["VLM-CPL"] == "accuracy, balanced accuracy" and column["full supervision"] == ""
    assert column["zero-shot labels, CE"] == "no"
    assert set(table.folds) == {"5"} and table.seeds.tolist() == ["1", "2", "2", "2"]


def test_one_fold_and_one_seed_give_a_table_without_p():
    one = {"seeds": (0,), "folds": 1}
    ours, other = of_folds("vlm-cpl", 1.0, variant="ours", **one), of_folds("ce-all", 0.5, **one)
    table = tables.scores_table(made(ours, other, scored("zero-shot", 0.5))).set_index("method")
    assert table["ours is better by"].tolist() == ["", "+0.500 [+0.500, +0.500]", ""]
    assert table.accuracy["zero-shot"] == "0.500", "without groups there is no interval"
    assert set(table["not inferior to full supervision"]) == {""}


# --- all datasets --------------------------------------------------------------------------------

OTHER = f"best other method, {tables.ON_TEST}"


def test_the_summary_names_the_best_of_the_other_methods_and_leaves_out_unfinished_runs():
    lone = [scored("zero-shot", 0.1, seed=1), scored("zero-shot", 0.9, dataset="alone")]
    (line,) = tables.summary_table(made(comparison(elr=0.8), lone))[:1].to_dict("records")
    assert line[OTHER] == "0.800 (zero-shot labels, early-learning regularisation)"
    names = ("zero-shot", "VLM-CPL, published filters", "VLM-CPL, ours", "full supervision")
    assert [line[name] for name in names] == ["0.600", "0.800", "0.900", "0.990"]
    assert (line["folds"], line["seeds"]) == ("1", "1")
    assert tables.summary_table(made(lone)).empty


def test_the_summary_is_pooled_over_folds():
    runs = ((0, 0, 30, 1.0), (1, 0, 10, 0.6), (0, 1, 30, 0.8), (1, 1, 10, 0.6))
    some = made(*(comparison(fold=f, seed=s, n=n, ours=a) for f, s, n, a in runs))
    line = tables.summary_frame(some).iloc[0]
    assert line.ours == pytest.approx((0.9 * 30 + 0.6 * 10) / 40)
    assert (line.folds, line.seeds) == ("2", "2")


def test_a_method_that_some_runs_lack_is_no_best_other():
    rows = [*comparison(elr=0.8), *comparison(elr=0.8, seed=1), scored("source-only", 0.95)]
    best = tables.summary_frame(made(rows)).other_name[0]
    assert best.endswith("early-learning regularisation")
    rows.append(scored("source-only", 0.95, seed=1))
    assert tables.summary_frame(made(rows)).other_name[0] == "source-only supervision"


def test_vlms_are_not_averaged_and_each_dataset_is_shown_with_its_own():
    some = made(comparison(), scored("zero-shot", 0.1, vlm="w"))
    with pytest.raises(ValueError, match="several VLMs for d"):
        tables.summary_frame(some)
    assert set(tables.with_vlms(some, {"d": "w"}).facts.vlm) == {"w"}


def test_vlms_are_compared_over_the_seeds_that_all_have():
    def of_vlm(vlm, seed, before, ours, kept=10, **fields):
        labels = {"kept": kept, "precision": 0.9}
        common = {"vlm": vlm, "seed": seed} | fields
        return [
            scored("zero-shot", before, **common),
            scored("vlm-cpl", ours, variant="ours", labels=labels, **common),
            scored("vlm-cpl", 0.2, variant="published filters", **common),
        ]

    rows = of_vlm("a", 0, 0.5, 0.8) + of_vlm("a", 1, 0.7, 0.9, 20) + of_vlm("a", 2, 0.0, 0.0)
    rows += of_vlm("a+b", 0, 0.6, 0.9) + of_vlm("a+b", 1, 0.8, 1.0)
    table = tables.vlm_table(made(rows, of_vlm("a", 0, 0.4, 0.4, dataset="lc25k")))
    assert table.VLM.tolist() == ["a", "a+b"] and set(table.dataset) == {"d"}
    assert table["zero-shot"].tolist() == ["0.600 ± 0.141", "0.700 ± 0.141"]
    assert table["VLM-CPL"].tolist() == ["0.850 ± 0.071", "0.950 ± 0.071"]
    assert table.kept.tolist() == ["15", "10"] and table.seeds.tolist() == ["2", "2"]
    assert tables.vlm_table(made(rows[:3])).empty


# --- the alarm -----------------------------------------------------------------------------------


def run(accuracy, alarms, full=0.9, **fields):
    ours = scored("vlm-cpl", accuracy, variant="ours", labels={"alarms": alarms}, **fields)
    return [ours, scored("full-supervision", full, **fields)]


def test_an_alarm_is_correct_where_a_run_is_far_below_full_supervision_or_loses_a_class():
    for accuracy, failed in {0.80: True, 0.849: True, 0.85: False, 0.95: False}.items():
        assert tables.alarm_frame(made(run(accuracy, []))).failed.tolist() == [failed], accuracy
    lost = run(0.9, [])
    lost[0]["counts"] = lost[0]["counts"].assign(n=[1, 19], correct=[0, 18])
    assert tables.alarm_frame(made(lost)).failed.tolist() == [True]


def test_runs_are_counted_in_four_ways_per_dataset_and_in_all():
    rows = run(0.5, ["flat"]) + run(0.9, ["flat", "lost"], seed=1) + run(0.5, [], fold=1)
    rows += run(0.9, [], fold=1, seed=1) + run(0.5, ["lost"], full=0.6, params=SHIFTED)
    frame = tables.alarm_frame(made(rows))
    table = tables.alarm_table(frame)
    assert table.tiles.tolist() == ["", "shifted", ""] and table.dataset.tolist()[-1] == "all"
    counts = table[["runs", "true alarms", "false alarms", "misses", "rightly silent"]]
    assert counts.values.tolist() == [list("41111"), list("11000"), list("52111")]
    by_name = tables.alarms_by_name(frame).set_index("alarm")
    assert by_name.raised.to_dict() == {"flat": "2", "lost": "2"}
    assert by_name.right.to_dict() == {"flat": "1", "lost": "1"}


def test_each_shift_has_its_own_full_supervision():
    rows = run(0.5, [], full=0.9) + run(0.5, [], full=0.52, params=SHIFTED)
    frame = tables.alarm_frame(made(rows)).set_index("shifted")
    assert frame.failed.to_dict() == {False: True, True: False}


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [scored("vlm-cpl", 0.5), scored("full-supervision", 0.9)],
        run(0.5, ["flat"])[:1],
        run(0.5, ["flat"], params={"hue": 0.2, "varied": ["hue"]}),
        [run(0.5, ["flat"], fold=1)[0], scored("full-supervision", 0.9)],
    ],
)
def test_runs_without_an_alarm_or_without_full_supervision_are_left_out(rows):
    frame = tables.alarm_frame(made(rows))
    assert frame.empty and tables.alarm_table(frame).empty and tables.alarms_by_name(frame).empty
