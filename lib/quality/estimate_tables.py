"""Quality with few labels or none: from the estimates of a run to rows, and from rows to tables."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lib.quality.audit import audited_accuracy, draw_audit, label_audit, repeat_audits
from lib.quality.estimates import ESTIMATES, PredictionSources, label_free_estimates, low_estimates
from lib.report import statistics

AUDIT, LABEL_FREE, STOPPING = "audit", "label-free", "stopping"
FEWEST_RANKED = 5  # runs that a rank correlation says something of
TOLERANCE = 0.03  # of an estimate that could stand in for an audit
EXPLANATION = (
    "The true accuracy of VLM-CPL on the test sets beside what can be known of it. *Audit*: tiles "
    "drawn by chance in proportion to the predicted classes and labelled from the table; the "
    "interval holds with at least 95 %, whatever the accuracy. *Coverage*: how often it did, over "
    "200 audits of the same predictions. All other estimates need no label. Errors are in points "
    "of accuracy, mean / largest over folds and seeds; a run is a fold, a seed, a shift and a "
    "setting. *Warned*: runs in which an estimate without labels was below two thirds. Hollow "
    "points of the figure: shifted tiles."
)
COLUMNS = [
    *("dataset", "vlm", "variant", "fold", "seed", "shift", "estimate"),
    *("value", "truth", "low", "high", "labels", "coverage", "half_width", "raised"),
]
RUN = ["dataset", "shift", "variant"]
TITLES = ("dataset", "shift", "setting")  # of the tables


# --- from a run to rows --------------------------------------------------------------------------


def evaluate_quality(
    sources: Mapping[str, PredictionSources],
    test: pd.DataFrame,
    *,
    audit_size: int,
    seed: int,
    other_vlm: pd.DataFrame | None = None,
    **fields: Any,
) -> list[dict[str, Any]]:
    """Audit the predictions of each variant, and estimate without labels, for `Run.record`.

    The labels of an audit come from the table; as all are known, `repeat_audits` tells how often
    its interval covers. The scores of the rows are null: the true accuracy is under labels.

    Parameters
    ----------
    sources : by variant.
    test : columns tile and label.
    other_vlm : of `prediction_sources.read_predictions`.
    fields : further fields of the rows, such as params.
    """
    tiles, labels = test.tile.values, test.label.values
    answers = dict(zip(tiles.tolist(), labels.tolist(), strict=True))
    evaluations = []
    for variant, predictions in sources.items():
        predicted = predictions.predicted
        truth = float((predicted == labels).mean())
        sample = label_audit(draw_audit(tiles, predicted, audit_size, seed=seed), answers)
        audited = audited_accuracy(sample, len(tiles))
        repeats = repeat_audits(tiles, predicted, labels, audit_size, seed=seed)
        other = None if other_vlm is None else other_vlm[variant].values
        estimated = label_free_estimates(predictions, other)
        audit = {"truth": truth, "estimates": {AUDIT: audited.value}}
        audit |= {"interval": [audited.low, audited.high]}
        audit |= {"coverage": float(repeats.covers.mean())}
        audit |= {"half_width": float((repeats.high - repeats.low).mean() / 2)}
        label_free = {"truth": truth, "estimates": estimated, "raised": low_estimates(estimated)}
        common = {"variant": variant, "split": "test", "n": len(tiles), "network": "frozen"}
        common |= fields
        evaluations += [
            {"method": AUDIT, "budget": len(sample), "labels": audit} | common,
            {"method": LABEL_FREE, "budget": 0, "labels": label_free} | common,
        ]
    return evaluations


def evaluate_stopping(rounds: pd.DataFrame, n: int, **fields: Any) -> dict[str, Any]:
    """Make the row of a loop, for `Run.record`. rounds: of `stopping.follow_rounds`; n: tiles."""
    columns = rounds[["budget", "changed", "recent", "value", "low", "high", "truth"]]
    columns = columns.astype(object).where(columns.notna(), None)
    row = {"method": STOPPING, "split": "test", "n": n, "network": "frozen"}
    row |= {"budget": int(rounds.budget.iloc[-1]), "labels": {"rounds": columns.to_dict("list")}}
    return row | fields


# --- from rows to tables -------------------------------------------------------------------------


def quality_frame(facts: pd.DataFrame) -> pd.DataFrame:
    """Make one line per run and estimate: `COLUMNS`.

    shift: "" for tiles as they are; low and high of the audit alone, as well as its labels, how
    often the interval of such audits covered (coverage) and how wide it was (half_width); raised:
    whether a label-free estimate was so low that it warned.
    """
    facts = facts[facts.method.isin([AUDIT, LABEL_FREE])]
    lines = []
    for line in facts.rename(columns={"budget": "labels", "raised": "warned"}).to_dict("records"):
        line["shift"] = line["value"]
        line["low"], line["high"] = line["interval"] or (np.nan, np.nan)
        for name, value in line["estimates"].items():
            raised = name in (line["warned"] or ())
            lines.append(line | {"estimate": name, "value": value, "raised": raised})
    return pd.DataFrame(lines, columns=COLUMNS).astype({"labels": int})


def estimates_table(
    estimated: Mapping[str, Mapping[str, float]], truth: Mapping[str, float], recorded: pd.DataFrame
) -> pd.DataFrame:
    """Set the estimates of each variant beside the truth and their error in the record.

    estimated: variant → estimate → value; truth: variant → accuracy; recorded: `quality_frame` of
    other runs, of which the last two columns give the mean and the largest error.
    """
    off = _errors(recorded).abs().astype(float).groupby(recorded.estimate)
    table = pd.DataFrame(estimated)
    table["mean error in the record"], table["largest error in the record"] = off.mean(), off.max()
    table = table.reindex([name for name in ESTIMATES if name in table.index])
    truths = pd.DataFrame(truth, index=["true accuracy"])
    return pd.concat([truths, table.rename(ESTIMATES)]).dropna(axis=1, how="all").astype(float)


def errors_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Say of each estimate, over all datasets, folds and shifts, how far off it was, in points.

    frame: of `quality_frame`. Columns: estimate; mean error (without its sign), largest error and
    where; mean bias (too high is positive); share of runs within `TOLERANCE`; rank correlation
    (Spearman) with the true accuracy, from `FEWEST_RANKED` runs on; runs.
    """
    audit = f"audit of {_range(frame.labels[frame.estimate == AUDIT])} labels"
    lines = []
    for name, title in {AUDIT: audit, **ESTIMATES}.items():
        runs = frame[frame.estimate == name]
        if runs.empty:
            continue
        off = _errors(runs)
        worst = runs.loc[off.abs().idxmax()]
        where = " ".join(filter(None, (worst.dataset, worst["shift"])))
        varying = len(runs) >= FEWEST_RANKED and min(runs.value.nunique(), runs.truth.nunique()) > 1
        rank = f"{runs.value.corr(runs.truth, method='spearman'):.2f}" if varying else ""
        lines.append(
            {
                "estimate": title,
                "mean error": _points(off.abs().mean()),
                "largest error": f"{_points(off.abs().max())} ({where}, {worst.variant})",
                "bias": f"{100 * off.mean():+.1f}",
                f"within ± {100 * TOLERANCE:g} points": f"{(off.abs() <= TOLERANCE).mean():.0%}",
                "rank correlation": rank,
                "runs": str(len(runs)),
            }
        )
    return pd.DataFrame(lines)


def verdict(frame: pd.DataFrame) -> str:
    """Say whether an estimate without labels is within `TOLERANCE` everywhere."""
    guesses = frame[frame.estimate.isin(ESTIMATES)]
    if guesses.empty:
        return "No estimate was made without a label."
    worst = _errors(guesses).abs().groupby(guesses.estimate).max()
    worst = worst[[name for name in ESTIMATES if name in worst]]
    n = len(guesses.drop_duplicates([*RUN, "fold", "seed"]))
    good = [ESTIMATES[name] for name in worst.index[worst <= TOLERANCE]]
    where = f"{n} runs of {', '.join(sorted(guesses.dataset.unique()))}"
    within = f"within ± {100 * TOLERANCE:g} points of the true accuracy in all of {where}"
    if good:
        return f"{', '.join(good).capitalize()}: {within}."
    best = worst.idxmin()
    return (
        f"No label-free estimate is {within}: the one that is off least, {ESTIMATES[best]}, is off "
        f"by up to {_points(worst[best])} points."
    )


def by_dataset(frame: pd.DataFrame) -> pd.DataFrame:
    """Give mean / largest error of each estimate per dataset, shift and variant, in points.

    accuracy: mean over the runs; warned: runs in which a label-free estimate was below two thirds.
    """
    lines = []
    for idx, runs in frame.groupby(RUN):
        off, each = _errors(runs).abs().groupby(runs.estimate), runs.groupby(["fold", "seed"])
        line = dict(zip(TITLES, idx, strict=True)) | {
            "accuracy": f"{each.truth.first().mean():.3f}"
        }
        for name in ESTIMATES:
            if (frame.estimate == name).any():
                found = name in off.groups
                line[ESTIMATES[name]] = _mean_and_largest(off.get_group(name)) if found else ""
        line["warned"] = str(int(each.raised.any().sum()))
        lines.append(line | statistics.runs(runs))
    return pd.DataFrame(lines)


def audit_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Say per dataset, shift and variant what audits of the same predictions would say.

    coverage: share of audits, drawn again and again, whose interval held the true accuracy;
    ± points: half the width of their intervals, on the average; error: of the one audit of each
    run, mean / largest.
    """
    return pd.DataFrame(
        dict(zip(TITLES, idx, strict=True))
        | {
            "labels": _range(runs.labels),
            "coverage": f"{runs.coverage.mean():.3f}",
            "lowest coverage of a run": f"{runs.coverage.min():.3f}",
            "± points": _points(runs.half_width.mean()),
            "error": _mean_and_largest(_errors(runs).abs()),
        }
        | statistics.runs(runs)
        for idx, runs in frame[frame.estimate == AUDIT].groupby(RUN)
    )


def stopping_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Say per dataset and loop what the last rounds changed and gained, means over runs.

    recent: share of predictions that the last three rounds changed; gained: by how much the true
    accuracy rose from three rounds before the end to the end, in points.
    """
    lines = []
    for line in facts[facts.method == STOPPING].itertuples():
        rounds = pd.DataFrame(line.rounds)
        gained = rounds.truth.iloc[-1] - rounds.truth.iloc[max(0, len(rounds) - 4)]
        run = {"dataset": line.dataset, "loop": line.followed, "fold": line.fold}
        run |= {"seed": line.seed, "labels": line.budget, "gained": gained}
        lines.append(run | {"recent": float(rounds.recent.iloc[-1])})
    groups = pd.DataFrame(lines).groupby(["dataset", "loop"]) if lines else ()
    return pd.DataFrame(
        {
            "dataset": dataset,
            "loop": loop,
            "labels": f"{runs.labels.mean():.0f}",
            "changed by the last three rounds": f"{runs.recent.mean():.1%}",
            "accuracy gained in them, points": f"{100 * runs.gained.mean():+.1f}",
        }
        | statistics.runs(runs)
        for (dataset, loop), runs in groups
    )


def all_tables(facts: pd.DataFrame) -> list[pd.DataFrame]:
    """Make every table of the rows of a record that has lines."""
    frame = quality_frame(facts)
    tables = [errors_table(frame), by_dataset(frame), audit_table(frame), stopping_table(facts)]
    return [table for table in tables if len(table)]


def _errors(frame: pd.DataFrame) -> pd.Series:
    return frame.value - frame.truth


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _mean_and_largest(errors: pd.Series) -> str:
    return f"{_points(errors.mean())} / {_points(errors.max())}"


def _range(labels: pd.Series) -> str:
    """From the fewest to the most: a test set may hold fewer tiles than an audit asks for."""
    low, high = labels.min(), labels.max()
    return str(low) if low == high else f"{low} to {high}"
