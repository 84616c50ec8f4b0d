"""Quality with few labels or none: from the estimates of a run to rows, and from rows to tables."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lib.quality.audit import audited_accuracy, draw_audit, label_audit, repeat_audits
from lib.quality.estimates import ESTIMATES, PredictionSources, label_free_estimates, low_estimates

AUDIT, LABEL_FREE, STOPPING = "audit", "label-free", "stopping"
FEWEST_RANKED = 5  # runs that a rank correlation says something of
TOLERANCE = 0.03  # of an estimate that could stand in for an audit
COLUMNS = [
    *("dataset", "vlm", "variant", "fold", "seed", "shift", "estimate"),
    *("value", "truth", "low", "high", "labels", "coverage", "half_width", "raised"),
]
RUN = ["dataset", "shift", "variant"]


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
        audit = {
            "truth": truth,
            "estimates": {AUDIT: audited.value},
            "interval": [audited.low, audited.high],
            "coverage": float(repeats.covers.mean()),
            "half_width": float((repeats.high - repeats.low).mean() / 2),
        }
        label_free = {"truth": truth, "estimates": estimated, "raised": low_estimates(estimated)}
        common = {"variant": variant, "split": "test", "n": len(tiles), "network": "frozen"}
        for method, budget, known in ((AUDIT, len(sample), audit), (LABEL_FREE, 0, label_free)):
            own = {"method": method, "budget": budget, "labels": known}
            evaluations.append(own | common | fields)
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
    off = errors(recorded).abs().astype(float).groupby(recorded.estimate)
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
    audit = f"audit of {range_of(frame.labels[frame.estimate == AUDIT])} labels"
    lines = []
    for name, title in {AUDIT: audit, **ESTIMATES}.items():
        runs = frame[frame.estimate == name]
        if runs.empty:
            continue
        off = errors(runs)
        worst = runs.loc[off.abs().idxmax()]
        where = " ".join(filter(None, (worst.dataset, worst["shift"])))
        varying = len(runs) >= FEWEST_RANKED and min(runs.value.nunique(), runs.truth.nunique()) > 1
        rank = f"{runs.value.corr(runs.truth, method='spearman'):.2f}" if varying else ""
        lines.append(
            {
                "estimate": title,
                "mean error": points(off.abs().mean()),
                "largest error": f"{points(off.abs().max())} ({where}, {worst.variant})",
                "bias": f"{100 * off.mean():+.1f}",
                f"within ± {100 * TOLERANCE:g} points": f"{(off.abs() <= TOLERANCE).mean():.0%}",
                "rank correlation": rank,
                "runs": str(len(runs)),
            }
        )
    return pd.DataFrame(lines)


def errors_beside_alarms(facts: pd.DataFrame, variant: str = "ours") -> pd.DataFrame:
    """Say of each estimate how far off it was where no alarm rang, and where one did.

    The alarms are those of the same run's VLM-CPL, on tiles that are not shifted. A line per
    estimate (by its name in `ESTIMATES`) and rang (bool): runs, mean and largest error without its
    sign, the lowest true accuracy, and datasets.
    """
    facts = facts[facts.variant == variant]
    run = ["dataset", "vlm", "seed", "fold"]
    alarms = facts[(facts.method == "vlm-cpl") & (facts.varied == "") & facts.alarms.notna()]
    rang = alarms.drop_duplicates(run).set_index(run).alarms.map(len).gt(0).rename("rang")
    frame = quality_frame(facts)
    frame = frame[(frame["shift"] == "") & frame.estimate.isin(ESTIMATES)]
    keys = pd.MultiIndex.from_frame(frame[run])
    frame = frame.assign(off=errors(frame).abs().astype(float), rang=rang.reindex(keys).values)
    frame = frame[frame.rang.notna()].astype({"rang": bool})
    lines = frame.groupby(["estimate", "rang"])
    return lines.agg(
        runs=("off", "size"),
        mean=("off", "mean"),
        largest=("off", "max"),
        lowest=("truth", "min"),
        datasets=("dataset", lambda names: ", ".join(sorted(set(names)))),
    )


def verdict(frame: pd.DataFrame) -> str:
    """Say whether an estimate without labels is within `TOLERANCE` everywhere."""
    guesses = frame[frame.estimate.isin(ESTIMATES)]
    if guesses.empty:
        return "No estimate was made without a label."
    worst = errors(guesses).abs().groupby(guesses.estimate).max()
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
        f"by up to {points(worst[best])} points."
    )


def errors(frame: pd.DataFrame) -> pd.Series:
    """Subtract the true accuracy from each estimate of a `quality_frame`."""
    return frame.value - frame.truth


def points(share: float) -> str:
    """Show a share of accuracy in points."""
    return f"{100 * share:.1f}"


def range_of(labels: pd.Series) -> str:
    """From the fewest to the most: a test set may hold fewer tiles than an audit asks for."""
    low, high = labels.min(), labels.max()
    return str(low) if low == high else f"{low} to {high}"
