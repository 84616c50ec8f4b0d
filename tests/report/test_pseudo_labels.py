"""Quality of pseudo labels: which rows, averaged over what, in which order."""

from dataclasses import asdict

import pandas as pd
import pytest

from lib import consensus, record
from lib.report import pseudo_labels

COUNTS = {"a": {"kept": 6, "right": 5}, "b": {"kept": 2, "right": 2}}


def label_row(method, seed, precision, keep_ratio=0.3, own=0.3, split="train", **params):
    """own: the keep ratio of the run, beside which others are varied."""
    labels = {"kept": 8, "share": 0.2, "precision": precision, "per_class": COUNTS}
    setting = consensus.variant_of(params) if params else None
    if "mvc" in method:
        params |= {"keep_ratio": keep_ratio}
        params |= {} if keep_ratio == own else {"varied": ["keep_ratio"]}
    return record.row(
        dataset="d", vlm="v", method=method, setting=setting, seed=seed, split=split,
        params=params, labels=labels | {"lost_classes": []},
    )  # fmt: skip


@pytest.fixture
def frame():
    ours = {"tie_break": "probability", "quota": "class"}
    published = {"tie_break": "random", "quota": "global"}
    rows = [label_row("mvc", s, p, **ours) for s, p in enumerate((0.9, 1.0))]
    rows += [label_row("mvc", s, p, **published) for s, p in enumerate((0.8, 0.7))]
    rows += [label_row("mvc", 0, 0.5, keep_ratio=0.9, **published)]
    rows += [label_row("mvc+pfc", 0, 0.95, cluster_on="unprojected", **ours)]
    rows += [label_row("zero-shot", 0, 0.6), label_row("zero-shot", 0, 0.1, split="test")]
    return pseudo_labels.pseudo_label_frame(rows)


def test_rows_of_the_test_set_are_left_out(frame):
    assert len(frame) == 7
    assert frame[frame.method == "zero-shot"].precision.tolist() == [0.6]


def test_one_line_per_way_in_the_order_of_the_method_and_the_paper_first(frame):
    table = pseudo_labels.consensus_table(frame)
    assert table.labels.tolist() == [
        "zero-shot, all tiles",
        "MVC, random ties, global quota",
        "MVC, probability ties, class quota",
        "MVC → PFC, probability ties, class quota, unprojected features",
    ]
    assert table.setting.tolist() == ["", "published filters", "ours", "ours"]


def test_means_are_over_seeds_at_the_main_keep_ratio(frame):
    table = pseudo_labels.consensus_table(frame).set_index("labels")
    line = table.loc["MVC, random ties, global quota"]
    assert line["pseudo-label precision"] == "0.750 ± 0.071"
    assert line["worst run"] == "0.700" and line.seeds == "2"
    assert line["smallest class kept"] == "2"
    assert table.loc["zero-shot, all tiles", "pseudo-label precision"] == "0.600"


def test_per_class_counts_are_those_of_the_named_settings(frame):
    per_class = pseudo_labels.per_class_frame(frame)
    assert set(per_class.method) == {"MVC\npublished filters", "MVC\nours", "MVC → PFC\nours"}
    assert per_class[per_class["class"] == "a"].kept.tolist() == [6, 6, 6]


def test_the_overview_has_no_line_of_neither_setting(frame):
    mixed = label_row("mvc", 0, 0.4, tie_break="random", quota="class")
    more = pd.concat([frame, pseudo_labels.pseudo_label_frame([mixed])], ignore_index=True)
    overview = pseudo_labels.overview_frame(more)
    assert 0.4 not in overview.precision.tolist()
    assert set(overview.method) == {"zero-shot, all tiles", "MVC", "MVC → PFC"}


def test_a_run_with_another_keep_ratio_has_complete_tables_at_that_ratio():
    rules = [asdict(rules) for rules in consensus.VARIANTS.values()]
    mvc = [{name: r[name] for name in ("tie_break", "quota")} for r in rules]
    rows = [label_row("mvc", 0, ratio, keep_ratio=ratio, own=0.2, **r)
            for r in mvc for ratio in (0.1, 0.2, 0.3)]  # fmt: skip
    rows += [label_row(order, 0, 0.9, keep_ratio=0.2, own=0.2, **r)
             for r in rules for order in ("mvc+pfc", "pfc+mvc")]  # fmt: skip
    frame = pseudo_labels.pseudo_label_frame(rows)
    main = pseudo_labels.at_main_keep_ratio(frame)
    assert len(main) == 6 and set(main.keep_ratio) == {0.2}
    assert main[main.method == "mvc"].precision.tolist() == [0.2, 0.2]
    table = pseudo_labels.consensus_table(frame)
    assert table.setting.tolist() == ["published filters", "ours"] * 3
    assert set(pseudo_labels.overview_frame(frame).setting) == {"published filters", "ours"}
