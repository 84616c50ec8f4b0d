"""Tables of quality with few labels or none, over all datasets of the record."""

import pandas as pd

from lib.quality.estimate_tables import (
    AUDIT,
    RUN,
    STOPPING,
    errors,
    errors_table,
    points,
    quality_frame,
    range_of,
)
from lib.quality.estimates import ESTIMATES
from lib.quality.stopping import LAST
from lib.report.format import line_per_group

EXPLANATION = (
    "The true accuracy of VLM-CPL on the test sets beside what can be known of it. *Audit*: tiles "
    "drawn by chance in proportion to the predicted classes and labelled from the table; the "
    "interval holds with at least 95 %, whatever the accuracy. *Coverage*: how often it did, over "
    "200 audits of the same predictions. All other estimates need no label. Errors are in points "
    "of accuracy, mean / largest over folds and seeds; a run is a fold, a seed, a shift and a "
    "setting. *Warned*: runs in which an estimate without labels was below two thirds. Hollow "
    "points of the figure: shifted tiles."
)
BY = dict(zip(RUN, ("dataset", "shift", "setting"), strict=True))


def all_tables(facts: pd.DataFrame) -> list[pd.DataFrame]:
    """Make every table of the facts of a record that has lines."""
    frame = quality_frame(facts)
    tables = [errors_table(frame), by_dataset(frame), audit_table(frame), stopping_table(facts)]
    return [table for table in tables if len(table)]


def by_dataset(frame: pd.DataFrame) -> pd.DataFrame:
    """Give mean / largest error of each estimate per dataset, shift and variant, in points.

    accuracy: mean over the runs; warned: runs in which a label-free estimate was below two thirds.
    """
    made = [name for name in ESTIMATES if (frame.estimate == name).any()]

    def cells(runs: pd.DataFrame) -> dict[str, str]:
        off, each = errors(runs).abs(), runs.groupby(["fold", "seed"])
        line = {"accuracy": f"{each.truth.first().mean():.3f}"}
        for name in made:
            line[ESTIMATES[name]] = _mean_and_largest(off[runs.estimate == name])
        return line | {"warned": str(int(each.raised.any().sum()))}

    return line_per_group(frame, BY, cells)


def audit_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Say per dataset, shift and variant what audits of the same predictions would say.

    coverage: share of audits, drawn again and again, whose interval held the true accuracy;
    ± points: half the width of their intervals, on the average; error: of the one audit of each
    run, mean / largest.
    """
    return line_per_group(
        frame[frame.estimate == AUDIT],
        BY,
        lambda runs: {
            "labels": range_of(runs.labels),
            "coverage": f"{runs.coverage.mean():.3f}",
            "lowest coverage of a run": f"{runs.coverage.min():.3f}",
            "± points": points(runs.half_width.mean()),
            "error": _mean_and_largest(errors(runs).abs()),
        },
    )


def stopping_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Say per dataset and loop what the last rounds changed and gained, means over runs.

    recent: share of predictions that the last three rounds changed; gained: by how much the true
    accuracy rose from three rounds before the end to the end, in points.
    """
    facts = facts[facts.method == STOPPING]
    if facts.empty:
        return pd.DataFrame()
    truths = [rounds["truth"] for rounds in facts.rounds]
    facts = facts.assign(
        recent=[rounds["recent"][-1] for rounds in facts.rounds],
        gained=[truth[-1] - truth[max(0, len(truth) - 1 - LAST)] for truth in truths],
    )
    return line_per_group(
        facts,
        {"dataset": "dataset", "followed": "loop"},
        lambda runs: {
            "labels": f"{runs.budget.mean():.0f}",
            "changed by the last three rounds": f"{runs.recent.mean():.1%}",
            "accuracy gained in them, points": f"{100 * runs.gained.mean():+.1f}",
        },
    )


def _mean_and_largest(off: pd.Series) -> str:
    return f"{points(off.mean())} / {points(off.max())}" if len(off) else ""
