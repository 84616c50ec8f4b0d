"""Tables over all datasets, from a record in which each dataset has one VLM."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lib.record import Record
from lib.report import active_learning, statistics
from lib.report.active_learning import (
    CURVE,
    PROBE,
    PUBLISHED,
    STRATEGIES,
    curves,
    heads,
    of_loop,
    rounds,
)
from lib.report.active_learning import OURS as OUR_LOOP
from lib.report.comparison import COMPARED, NEEDED, OURS, compared, tested
from lib.report.format import SCORES, differences, line_per_group, mean_std, pooled_std
from lib.report.statistics import Kind, pooled_score, pooled_scores

OPINIONS = ("opinions", "ours")
# All else is another method: what our filters keep, learnt plainly, and labels by lift too.
NO_OTHER = ("zero-shot", "vlm-cpl", OPINIONS[0], "full-supervision", "full-probe")
ON_TEST = "chosen on the test set"
TITLES = {
    "zero-shot": "zero-shot",
    "other": f"best other method, {ON_TEST}",
    "published": "VLM-CPL, published filters",
    "ours": "VLM-CPL, ours",
    "opinions": "ours, prompts and clusters",
    "full": "full supervision",
}
# A run has failed if it is more than this below full supervision, or finds no tile of a class.
TOLERATED = 0.05


def refuse_several_vlms(facts: pd.DataFrame) -> None:
    """Raise ValueError for a dataset with several VLMs, over which a mean says nothing."""
    for dataset, vlms in facts.groupby("dataset").vlm:
        if vlms.nunique() > 1:
            raise ValueError(f"several VLMs for {dataset}: a mean says nothing")


# --- no labels -----------------------------------------------------------------------------------


def no_labels_frame(some: Record) -> pd.DataFrame:
    """Set VLM-CPL between zero-shot and full supervision: heads on frozen features, folds pooled.

    One line per dataset and score (accuracy, balanced_accuracy). Columns: dataset, score,
    zero-shot, other and other_name (the best of all that is not VLM-CPL and that every run has,
    chosen on the test set), published, ours, opinions (NaN where it was not run), full, folds,
    seeds. Runs and datasets without the whole comparison are left out. Raises ValueError for a
    dataset with several VLMs.
    """
    needed = {*NEEDED, "zero-shot", "vlm-cpl", "full-supervision"}
    facts = compared(some).facts
    facts = facts[facts.network != "fine-tune"]
    refuse_several_vlms(facts)
    run = ["fold", "seed"]
    methods = facts.groupby(["dataset", *run]).method
    facts = facts[methods.transform(lambda names: needed <= set(names)).astype(bool)]
    lines = []
    for dataset, of_dataset in facts.groupby("dataset"):
        sizes = of_dataset.groupby(["method", "variant"]).size()
        complete = sizes.index[sizes == of_dataset.groupby(run).ngroups]
        others = [kind for kind in complete if kind[0] not in NO_OTHER]
        for score in statistics.SCORES:
            pooled = pooled_scores(of_dataset, ["method", "variant"], score)
            best = pooled[others].idxmax()
            line = {"dataset": dataset, "score": score, "zero-shot": pooled["zero-shot", ""]}
            name = COMPARED[best[0]] + f", {best[1]}" * bool(best[1])
            line |= {"other": pooled[best], "other_name": name}
            line |= {"published": pooled["vlm-cpl", "published filters"], "ours": pooled[OURS]}
            line["opinions"] = pooled[OPINIONS] if OPINIONS in complete else np.nan
            line |= {"full": pooled["full-supervision", ""]}
            lines.append(line | statistics.runs(of_dataset))
    return pd.DataFrame(lines)


def no_labels_table(some: Record) -> pd.DataFrame:
    """Show `no_labels_frame`, two lines per dataset."""
    frame = no_labels_frame(some)
    if frame.empty:
        return frame
    shown = frame.assign(score=frame.score.map(SCORES)).drop(columns="other_name")
    shown[[*TITLES]] = shown[[*TITLES]].map(shown_score)
    return shown.assign(other=shown.other + " (" + frame.other_name + ")").rename(columns=TITLES)


def shown_score(value: float) -> str:
    """A score to three digits; empty where there is none."""
    return "" if np.isnan(value) else f"{value:.3f}"


def other_encoders(all_vlms: Record, some: Record) -> Record:
    """The evaluations with another VLM than `some` has, whose datasets are named with it."""
    facts = all_vlms.facts
    own = dict(zip(some.facts.dataset, some.facts.vlm, strict=True))
    others = facts[
        (facts.vlm != facts.dataset.map(own)) & ~facts.vlm.str.contains("+", regex=False)
    ]
    return Record(others.assign(dataset=others.dataset + ", " + others.vlm), all_vlms.counts)


def vlm_table(some: Record) -> pd.DataFrame:
    """Compare the VLMs of datasets that were run with more than one, and ensembles of them.

    Over the runs (fold and seed) that all have: zero-shot on the test set, what our variant keeps,
    and VLM-CPL on the test set, heads on frozen features; accuracy and balanced accuracy. Without
    those whose clusters and networks have an encoder of their own.
    """
    facts = compared(some).facts
    facts = facts[~facts.vlm.str.contains("@", regex=False)]
    ours = (facts.method == OURS[0]) & (facts.variant == OURS[1]) & (facts.network == "frozen")
    facts = facts[ours | (facts.method == "zero-shot")]
    of_run = facts.groupby(["dataset", "fold", "seed"]).vlm.transform("nunique")
    n_vlms = facts.groupby("dataset").vlm.transform("nunique")

    def cells(of_vlm: pd.DataFrame) -> dict[str, str]:
        before, after = (of_vlm[of_vlm.method == method] for method in ("zero-shot", OURS[0]))
        return {
            "zero-shot": pooled_std(before),
            "zero-shot, balanced accuracy": pooled_std(before, "balanced_accuracy"),
            "kept": f"{after.kept.mean():.0f}",
            "pseudo-label precision": mean_std(after.precision),
            "VLM-CPL": pooled_std(after),
            "VLM-CPL, balanced accuracy": pooled_std(after, "balanced_accuracy"),
        }

    common = facts[(of_run == n_vlms) & (n_vlms > 1)]
    return line_per_group(common, {"dataset": "dataset", "vlm": "VLM"}, cells)


# --- the alarm -----------------------------------------------------------------------------------


def alarm_frame(some: Record) -> pd.DataFrame:
    """List the runs of VLM-CPL that could raise an alarm and have full supervision beside them.

    Full supervision of the same dataset, VLM, fold, seed, network and shift. Columns: dataset, vlm,
    variant, fold, seed, shifted (bool), alarms (names), raised, failed (bool).
    """
    facts = tested(some.facts)
    facts = facts[facts.varied.isin(["", "shift"])]
    run = ["dataset", "vlm", "network", "seed", "fold", "value"]
    full = facts[facts.method == "full-supervision"].set_index(run).accuracy.rename("full")
    ours = facts[(facts.method == "vlm-cpl") & facts.alarms.notna()].join(full, on=run, how="inner")
    if ours.empty:
        return ours
    n, correct = (np.stack(ours[name].tolist()) for name in ("class_n", "class_correct"))
    lost = ((n > 0) & (correct == 0)).any(axis=1)
    failed = (ours.full - ours.accuracy > TOLERATED + 1e-9) | lost
    frame = ours.assign(shifted=ours.varied != "", raised=ours.alarms.map(bool), failed=failed)
    return frame[[*run[:2], "variant", "fold", "seed", "shifted", "alarms", "raised", "failed"]]


def alarm_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Count runs per dataset, variant and whether tiles were shifted, and all per variant."""
    if frame.empty:
        return pd.DataFrame()
    raised, failed = frame.raised, frame.failed
    counts = {
        "runs": raised | True,
        "true alarms": raised & failed,
        "false alarms": raised & ~failed,
        "misses": ~raised & failed,
        "rightly silent": ~raised & ~failed,
    }
    each = pd.DataFrame({"total": False, "dataset": frame.dataset, "setting": frame.variant})
    each["tiles"] = np.where(frame.shifted, "shifted", "")
    each = each.assign(**counts)
    both = pd.concat([each, each.assign(total=True, dataset="all", tiles="")])
    sums = both.groupby(["setting", "total", "dataset", "tiles"])[[*counts]].sum().reset_index()
    return sums[["dataset", "setting", "tiles", *counts]].astype(str)


def alarms_by_name(frame: pd.DataFrame) -> pd.DataFrame:
    """Count per alarm in how many runs it was raised, and how many of these failed."""
    if frame.empty or not frame.raised.any():
        return pd.DataFrame()
    each = frame.assign(alarms=frame.alarms.map(lambda names: sorted(set(names))))
    failed = each.explode("alarms").groupby(["alarms", "variant"]).failed.agg(["size", "sum"])
    return (
        failed.astype(str).reset_index().set_axis(["alarm", "setting", "raised", "right"], axis=1)
    )


# --- few labels ----------------------------------------------------------------------------------


def few_labels_table(some: Record) -> pd.DataFrame:
    """Show the end and the AULC of UniSAL per dataset: heads on frozen features, folds pooled.

    The best of the other strategies is that with the largest AULC on the test set among those with
    the same training; variants of UniSAL are none. Of runs that published UniSAL has.
    """
    lines = []
    for dataset, facts in active_learning.of_published_runs(heads(some)).facts.groupby("dataset"):
        each = rounds(facts)
        full = each[each.method == "full-supervision"]
        values, seeds = areas(curves(facts))
        if PUBLISHED not in values or not len(full):
            continue
        ends = dict(list(each[each["round"] == each["round"].max()].groupby(CURVE)))
        accuracy, published = pooled_score(full), ends[PUBLISHED]
        line = {"dataset": dataset, "all labels": f"{accuracy:.3f}"}
        line["labels"] = f"{published.budget.mean():.0f} of {full.budget.mean():.0f}"
        for title, kind in (("UniSAL", PUBLISHED), ("UniSAL, ours", OUR_LOOP)):
            if kind in ends:
                value, beside = pooled_score(ends[kind]), best_other(values, seeds, kind)
                line |= {
                    title: f"{value:.3f}",
                    f"{title}, of all labels": f"{value / accuracy:.1%}",
                }
                line[f"AULC, {title}"] = f"{values[kind]:.3f}"
                line[f"AULC, best other, same training as {title}"] = beside
        if probe := best_other(values, seeds, PUBLISHED, [PROBE]):
            line[f"AULC, {PROBE}, best strategy"] = probe.replace(f", {PROBE}", "")
        for method in ("random", "entropy"):
            if ("supervised", method) in values:
                line[f"AULC, {method}, supervised"] = f"{values['supervised', method]:.3f}"
        lines.append(line | statistics.runs(of_loop(each, PUBLISHED)))
    return pd.DataFrame(lines).fillna("")


def areas(curves: pd.DataFrame) -> tuple[dict[Kind, float], dict[Kind, int]]:
    """Pool the AULC, and count the seeds, by training and strategy."""
    if curves.empty:
        return {}, {}
    return pooled_scores(curves, CURVE).to_dict(), curves.groupby(CURVE).seed.nunique().to_dict()


def best_other(
    values: Mapping[Kind, float],
    seeds: Mapping[Kind, int],
    kind: Kind,
    trainings: Sequence[str] = (),
) -> str:
    """Give the highest value of the other strategies, and which it is.

    values, seeds: by (training, strategy); kind: of UniSAL, whose variants are no others, nor is
    training on all labels; trainings: of the others, by default that of `kind`. Of those with the
    most seeds; where these are fewer than of `kind`, they are named. Empty without others.
    """
    trainings = trainings or [kind[0]]
    left_out = ("unisal", "full-", "cold-start")
    others = [
        k for k in values if k[0] in trainings and k != OUR_LOOP and not k[1].startswith(left_out)
    ]
    if not others:
        return ""
    best = max(others, key=lambda kind: (seeds[kind], values[kind]))
    about = [STRATEGIES.get(best[1], best[1])]
    about += [best[0]] if best[0] != kind[0] else []
    of_best, of_all = seeds[best], seeds[kind]
    about += [f"{of_best} of {of_all} seeds"] if of_best < of_all else []
    return f"{values[best]:.3f} ({', '.join(about)})"


def equal_training_table(some: Record) -> pd.DataFrame:
    """Say by how much UniSAL in our variant has a larger AULC than strategies with its training.

    A line per strategy: the paired difference in each dataset with such strategies, over the folds
    and seeds that both have, and its mean over the datasets. Heads on frozen features; intervals of
    95 %.
    """
    some = heads(some)
    facts = curves(some.facts)
    facts = facts[(facts.training == OUR_LOOP[0]) & facts.method.isin(STRATEGIES)]
    counted = {
        dataset: statistics.grouped(Record(of_dataset, some.counts), ["method"])
        for dataset, of_dataset in facts.groupby("dataset")
        if OUR_LOOP[1] in set(of_dataset.method)
    }
    mine, lines = (OUR_LOOP[1],), []
    for method, title in STRATEGIES.items():
        drawn, seeds = {}, []
        for dataset, groups in counted.items() if method != mine[0] else ():
            values = statistics.drawn_differences(groups, mine, (method,), "accuracy")
            if len(values):
                both = groups.tested(mine) & groups.tested((method,))
                drawn[dataset] = values
                seeds.append(statistics.fewest_seeds(groups, both))
        if drawn:
            means = [statistics.mean_difference([values]) for values in drawn.values()]
            means.append(statistics.mean_difference(list(drawn.values())))
            cells = dict(zip([*drawn, "mean"], differences(means), strict=True))
            lines.append({"strategy": title} | cells | {"seeds": str(min(seeds))})
    table = pd.DataFrame(lines)
    named = [dataset for dataset in counted if dataset in table]
    return table.reindex(columns=["strategy", *named, "mean", "seeds"]).fillna("")
