"""Tables over all datasets: which runs count, what is pooled, who is named the best."""

import pytest
from made_up_results import SHIFTED, comparison, full, loop, loops, made, of_folds, scored

from figures import overviews
from lib.report.active_learning import OURS

OTHER = f"best other method, {overviews.ON_TEST}"


def test_the_best_of_the_other_methods_is_named_and_unfinished_runs_are_left_out():
    lone = [scored("zero-shot", 0.1, seed=1), scored("zero-shot", 0.9, dataset="alone")]
    (line,) = overviews.no_labels_table(made(comparison(elr=0.8), lone))[:1].to_dict("records")
    assert line[OTHER] == "0.800 (zero-shot labels, early-learning regularisation)"
    names = ("zero-shot", "VLM-CPL, published filters", "VLM-CPL, ours", "full supervision")
    assert [line[name] for name in names] == ["0.600", "0.800", "0.900", "0.990"]
    assert (line["folds"], line["seeds"]) == ("1", "1")
    assert overviews.no_labels_table(made(lone)).empty


def test_scores_are_pooled_over_folds_and_a_best_other_is_one_that_all_runs_have():
    runs = ((0, 0, 30, 1.0), (1, 0, 10, 0.6), (0, 1, 30, 0.8), (1, 1, 10, 0.6))
    rows = [e for f, s, n, a in runs for e in comparison(fold=f, seed=s, n=n, ours=a, elr=0.8)]
    rows += [scored("source-only", 0.95, fold=f, seed=s, n=n) for f, s, n, _ in runs[1:]]
    line = overviews.no_labels_frame(made(rows)).iloc[0]
    assert line.ours == pytest.approx((0.9 * 30 + 0.6 * 10) / 40)
    assert (line.folds, line.seeds) == ("2", "2")
    assert line.other_name.endswith("early-learning regularisation")
    rows.append(scored("source-only", 0.95, n=30))
    assert overviews.no_labels_frame(made(rows)).other_name[0] == "source-only supervision"
    kept = [scored("ce-pfc", 0.97, fold=f, seed=s, n=n, variant="ours") for f, s, n, _ in runs]
    full = [scored("full-probe", 0.99, fold=f, seed=s, n=n) for f, s, n, _ in runs]
    other = overviews.no_labels_frame(made(rows, kept, full)).other_name[0]
    assert other == "PFC, CE, ours", "what is no VLM-CPL is another method, all labels are none"
    with pytest.raises(ValueError, match="several VLMs for d"):
        overviews.no_labels_frame(made(rows, scored("zero-shot", 0.1, vlm="w")))


def test_vlms_are_compared_over_the_seeds_that_all_have():
    def of_vlm(vlm, seed, before, ours, kept=10, **fields):
        labels, common = {"kept": kept, "precision": 0.9}, {"vlm": vlm, "seed": seed} | fields
        return [
            scored("zero-shot", before, **common),
            scored("vlm-cpl", ours, variant="ours", labels=labels, **common),
            scored("vlm-cpl", 0.2, variant="published filters", **common),
        ]

    rows = of_vlm("a", 0, 0.5, 0.8) + of_vlm("a", 1, 0.7, 0.9, 20) + of_vlm("a", 2, 0.0, 0.0)
    rows += of_vlm("a+b", 0, 0.6, 0.9) + of_vlm("a+b", 1, 0.8, 1.0)
    table = overviews.vlm_table(made(rows, of_vlm("a", 0, 0.4, 0.4, dataset="lc25k")))
    assert table.VLM.tolist() == ["a", "a+b"] and set(table.dataset) == {"d"}
    assert table["zero-shot"].tolist() == ["0.600 ± 0.141", "0.700 ± 0.141"]
    assert table["VLM-CPL"].tolist() == ["0.850 ± 0.071", "0.950 ± 0.071"]
    assert table.kept.tolist() == ["15", "10"] and table.seeds.tolist() == ["2", "2"]
    assert overviews.vlm_table(made(rows[:3])).empty


def test_another_encoder_has_the_whole_comparison_to_itself():
    own, other = comparison(ours=0.8), comparison(ours=0.9)
    pair = [row | {"vlm": "v+w"} for row in other]
    some, other = made(own), [row | {"vlm": "w"} for row in other]
    table = overviews.no_labels_table(overviews.other_encoders(made(own, other, pair), some))
    assert table.dataset.tolist() == ["d, w"] * 2 and table["VLM-CPL, ours"][0] == "0.900"
    assert overviews.no_labels_table(overviews.other_encoders(some, some)).empty


# --- the alarm -----------------------------------------------------------------------------------


def run(accuracy, alarms=(), full=0.9, **fields):
    labels = {"alarms": list(alarms)}
    ours = scored("vlm-cpl", accuracy, variant="ours", labels=labels, **fields)
    return [ours, scored("full-supervision", full, **fields)]


def test_a_run_has_failed_far_below_its_own_full_supervision_or_without_a_class():
    for accuracy, failed in {0.80: True, 0.849: True, 0.85: False, 0.95: False}.items():
        assert overviews.alarm_frame(made(run(accuracy))).failed.tolist() == [failed], accuracy
    lost = run(0.9)
    lost[0]["counts"] = lost[0]["counts"].assign(n=[1, 19], correct=[0, 18])
    assert overviews.alarm_frame(made(lost)).failed.tolist() == [True]
    frame = overviews.alarm_frame(made(run(0.5), run(0.5, full=0.52, params=SHIFTED)))
    assert frame.set_index("shifted").failed.to_dict() == {False: True, True: False}


def test_runs_are_counted_in_four_ways_per_dataset_and_in_all():
    rows = run(0.5, ["flat"]) + run(0.9, ["flat", "lost"], seed=1) + run(0.5, fold=1)
    rows += run(0.9, fold=1, seed=1) + run(0.5, ["lost"], full=0.6, params=SHIFTED)
    frame = overviews.alarm_frame(made(rows))
    table = overviews.alarm_table(frame)
    assert table.tiles.tolist() == ["", "shifted", ""] and table.dataset.tolist()[-1] == "all"
    counts = table[["runs", "true alarms", "false alarms", "misses", "rightly silent"]]
    assert counts.values.tolist() == [list("41111"), list("11000"), list("52111")]
    by_name = overviews.alarms_by_name(frame).set_index("alarm")
    assert by_name.raised.to_dict() == {"flat": "2", "lost": "2"}
    assert by_name.right.to_dict() == {"flat": "1", "lost": "1"}


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
    frame = overviews.alarm_frame(made(rows))
    assert frame.empty and overviews.alarm_table(frame).empty
    assert overviews.alarms_by_name(frame).empty


# --- few labels ----------------------------------------------------------------------------------


def test_unisal_stands_beside_the_best_other_strategy_of_its_training():
    (line,) = overviews.few_labels_table(made(loops())).to_dict("records")
    assert (line["dataset"], line["all labels"], line["labels"]) == ("d", "0.950", "30 of 500")
    assert (line["UniSAL"], line["UniSAL, of all labels"]) == ("0.940", "98.9%")
    best = "AULC, best other, same training as UniSAL"
    assert line[best] == "0.610 (random)" and not [name for name in line if "ours" in name]
    assert (line["AULC, random, supervised"], line["seeds"], line["folds"]) == ("0.500", "2", "1")
    assert "AULC, entropy, supervised" not in line
    margin = loop("margin", "dual-view", [0.7, 0.8, 0.9])
    compared = overviews.few_labels_table(made(loops(), margin))
    assert compared[best].tolist() == ["0.610 (random)"], "margin has fewer seeds"
    others = [row for row in loops() if "random" not in str(row)]
    fewer = overviews.few_labels_table(made(others, margin))
    assert fewer[best].tolist() == ["0.800 (margin, 1 of 2 seeds)"]
    more = loop(*OURS[::-1], [0.7, 0.8, 0.95]) + loop("margin", OURS[0], [0.7, 0.8, 0.9])
    more += loop("unisal-jsd", OURS[0], [0.9] * 3) + loop("cold-start", OURS[0], [0.99] * 3)
    (line,) = overviews.few_labels_table(made(loops(), more)).to_dict("records")
    assert (line["UniSAL, ours"], line["UniSAL, ours, of all labels"]) == ("0.950", "100.0%")
    assert line[f"{best}, ours"] == "0.800 (margin)" and line[best] == "0.610 (random)"
    for rows in ([], loops()[2:], [full(0.9), *loop("random", "dual-view", [0.5])]):
        assert overviews.few_labels_table(made(rows)).empty


def test_strategies_are_compared_under_equal_training_and_in_the_mean_over_datasets():
    training, ours = OURS
    some = made(
        of_folds(training, ours, 0.8, dataset="a"),
        of_folds(training, "unisal", 0.7, dataset="a"),
        of_folds(training, "badge", 0.9, seeds=(0,), dataset="a"),
        of_folds("supervised", "margin", 0.1, dataset="a"),
        of_folds(training, "cold-start", 1.0, dataset="a"),
        of_folds(training, ours, 0.6, dataset="b"),
        of_folds(training, "unisal", 0.3, dataset="b"),
        of_folds(training, "unisal", 0.9, network="fine-tune", dataset="b"),
        of_folds(training, "unisal", 0.5, dataset="c"),
        of_folds(training, ours, 0.9, dataset="e"),
    )
    table = overviews.equal_training_table(some)
    assert list(table) == ["strategy", "a", "b", "mean", "seeds"]
    unisal, badge = table.to_dict("records")
    differences = [unisal[name].split()[0] for name in ("a", "b", "mean")]
    assert differences == ["+0.100", "+0.300", "+0.200"]
    assert (badge["a"].split()[0], badge["b"], badge["seeds"]) == ("-0.100", "", "1")
    assert unisal["seeds"] == "3" and badge["mean"] == badge["a"]
    assert overviews.equal_training_table(made()).empty
