"""Quality of pseudo labels: which lines, averaged over what, in which order."""

import pytest
from made_up_results import made

from lib import consensus
from lib.report import pseudo_labels

COUNTS = {"a": {"kept": 6, "correct": 5}, "b": {"kept": 2, "correct": 2}}
OURS = {"tie_break": "probability", "quota": "class"}
PUBLISHED = {"tie_break": "random", "quota": "global"}


def labels(method, precision, seed=0, keep_ratio=0.3, main=0.3, split="train", **params):
    """main: the keep ratio of the run, beside which others are varied."""
    quality = {"kept": 8, "share": 0.2, "precision": precision, "per_class": COUNTS}
    variant = consensus.variant_of(params) if params else None
    if "mvc" in method:
        params |= {"keep_ratio": keep_ratio}
        params |= {} if keep_ratio == main else {"varied": ["keep_ratio"]}
    fixed = {"dataset": "d", "vlm": "v", "seed": seed, "split": split, "n": 40}
    quality |= {"lost_classes": []}
    return fixed | {"method": method, "variant": variant, "params": params, "labels": quality}


def frame_of(*evaluations):
    return pseudo_labels.pseudo_label_frame(made(*evaluations).facts)


@pytest.fixture
def frame():
    rows = [labels("mvc", p, s, **OURS) for s, p in enumerate((0.9, 1.0))]
    rows += [labels("mvc", p, s, **PUBLISHED) for s, p in enumerate((0.8, 0.7))]
    rows += [labels("mvc", 0.5, keep_ratio=0.9, **PUBLISHED)]
    rows += [labels("mvc", 0.4, tie_break="random", quota="class")]
    rows += [labels("mvc+pfc", 0.95, cluster_on="unprojected", **OURS)]
    rows += [labels("zero-shot", 0.6), labels("zero-shot", 0.1, split="test")]
    return frame_of(rows)


def test_the_table_has_a_line_per_way_the_papers_first_and_means_over_seeds(frame):
    table = pseudo_labels.consensus_table(frame).set_index("labels")
    assert table.index.tolist() == [
        "zero-shot, all tiles",
        "MVC, random ties, global quota",
        "MVC, random ties, class quota",
        "MVC, probability ties, class quota",
        "MVC → PFC, probability ties, class quota, unprojected features",
    ]
    assert table.setting.tolist() == ["", "published filters", "", "ours", "ours"]
    line = table.loc["MVC, random ties, global quota"]
    assert line["pseudo-label precision"] == "0.750 ± 0.071" and line["worst run"] == "0.700"
    assert line.seeds == "2" and line["smallest class kept"] == "2"
    assert table.loc["zero-shot, all tiles", "pseudo-label precision"] == "0.600"


def test_figures_show_the_named_variants(frame):
    per_class = pseudo_labels.per_class_frame(frame)
    assert set(per_class.method) == {"MVC\npublished filters", "MVC\nours", "MVC → PFC\nours"}
    assert per_class[per_class["class"] == "a"].correct.tolist() == [5, 5, 5]
    overview = pseudo_labels.overview_frame(frame)
    assert 0.4 not in overview.precision.tolist(), "of no variant"
    assert set(overview.method) == {"zero-shot, all tiles", "MVC", "MVC → PFC"}


def test_a_run_with_another_keep_ratio_has_complete_tables_at_that_ratio():
    rows = []
    for rules in (OURS, PUBLISHED):
        rows += [labels("mvc", r, keep_ratio=r, main=0.2, **rules) for r in (0.1, 0.2, 0.3)]
        orders = ("mvc+pfc", "pfc+mvc")
        rows += [labels(order, 0.9, keep_ratio=0.2, main=0.2, **rules) for order in orders]
    main = pseudo_labels.at_main_keep_ratio(frame_of(rows))
    assert len(main) == 6 and set(main.keep_ratio) == {0.2}
    assert main[main.method == "mvc"].precision.tolist() == [0.2, 0.2]
