"""Tables of learning curves of active learning, from the record."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from lib.record import Record
from lib.report import statistics
from lib.report.format import difference_cells, differences, insert_columns, score_cells
from lib.report.statistics import Kind, pooled_accuracies, pooled_score

FRACTIONS = (0.95, 0.98, 1.0)  # of full supervision, for the labels that a strategy needs
STRATEGIES = {
    "unisal": "UniSAL (DUS, CS)",
    "unisal-jsd": "UniSAL, JSD of networks and views",
    "unisal-coverage": "UniSAL, half of it coverage",
    "unisal-wide": "UniSAL, widened",
    "dus": "DUS alone",
    "cs": "CS alone",
    "random": "random",
    "entropy": "entropy",
    "margin": "margin",
    "coreset": "CoreSet",
    "badge": "BADGE",
    "typiclust": "TypiClust",
    "dropquery": "DropQuery",
    "maxherding": "MaxHerding",
    "uherding": "UHerding",
    "ppal": "PPAL-like",
}
# Ours: pseudo labels follow the labels bought so far, and half of each query covers the pool.
TRAININGS = ("dual-view-aligned", "dual-view", "supervised")
PUBLISHED, OURS = ("dual-view", "unisal"), ("dual-view-aligned", "unisal-coverage")
# Loops of `OURS` that VLM-CPL's networks begin; the last is UniSAL's own beginning.
COLD_STARTS = {
    "cold-start": "VLM-CPL",
    "cold-start-labels": "VLM-CPL, first query alone",
    "cold-start-disagreement": "VLM-CPL, first query by disagreement",
    "cold-start-doubtful": "VLM-CPL, first query in doubtful clusters",
    OURS[1]: "chance",
}
CURVE = ["training", "method"]
AREA = {"accuracy": "AULC", "balanced_accuracy": "AULC, balanced accuracy"}
END = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}


def curve_weights(budgets: Sequence[int] | pd.Series) -> np.ndarray:
    """Weight of each round in the area under the learning curve (AULC) [R]; they add up to one.

    The area between the first and the last budget by the trapezoidal rule, divided by its width.
    """
    labels = np.asarray(budgets, dtype=float)
    if len(labels) == 1 or labels[0] == labels[-1]:
        return np.full(len(labels), 1 / len(labels))
    widths = np.diff(labels) / (labels[-1] - labels[0])
    return (np.append(widths, 0) + np.append(0, widths)) / 2


# --- evaluations ---------------------------------------------------------------------------------


def loops(some: Record, *, cold_starts: bool = False) -> Record:
    """Evaluations of active learning, with training on all labels beside them.

    Without those of `30_cold_start`, which begin at another budget, unless `cold_starts`.
    """
    facts = some.facts
    begun = facts.method.isin(COLD_STARTS) & (facts.method != OURS[1]) | (facts.varied == "shift")
    return some[(facts.training != "") & (cold_starts | ~begun)]


def rounds(facts: pd.DataFrame) -> pd.DataFrame:
    """Rounds of the loops and training on all labels, whose round is NaN, in order."""
    tiles = facts[facts.unit == "tile"]
    return tiles.sort_values(["seed", "fold", "round", "budget"], ignore_index=True)


def curves(facts: pd.DataFrame) -> pd.DataFrame:
    """The means over the rounds of each loop, whose accuracy is the AULC."""
    return facts[facts.unit == "curve"]


def of_published_runs(some: Record) -> Record:
    """The evaluations of runs of a dataset (seed and fold) that published UniSAL has.

    A seed whose first query misses a class costs ten points: only the same runs are compared.
    """
    facts = some.facts
    published = facts[(facts.training == PUBLISHED[0]) & (facts.method == PUBLISHED[1])]
    return some[statistics.same_runs(facts, published)]


def heads(some: Record, network: str = "frozen") -> Record:
    """The loops in which no rule is varied, with one way to train the networks."""
    some = loops(some)
    return some[(some.facts.network == network) & (some.facts.varied == "")]


def in_order(facts: pd.DataFrame) -> list[Kind]:
    """(training, strategy) as tables and figures show them."""
    present = set(zip(facts.training, facts.method, strict=True))
    names = list(STRATEGIES)
    methods = sorted(
        {m for _, m in present if m != "full-supervision"},
        key=lambda m: (names.index(m) if m in names else len(names), m),
    )
    return [(t, m) for t in TRAININGS for m in methods if (t, m) in present]


# --- tables --------------------------------------------------------------------------------------


def rounds_table(some: Record) -> pd.DataFrame:
    """One line per training and strategy, scores pooled over folds.

    some: loops of one dataset, VLM and way to train, full supervision or not. Where the groups are
    known the AULC has its interval and the table says by how much that of UniSAL is larger: with
    the training of the line, and whatever the training as published (dual-view) and `OURS`; p
    corrected by Holm over the lines. Labels needed: see `labels_needed`.
    """
    each, areas = rounds(some.facts), curves(some.facts)
    full = each[each.method == "full-supervision"]
    groups, kinds = statistics.grouped(Record(areas, some.counts), CURVE), in_order(each)
    lines = []
    for training, method in kinds:
        curve = _loop(each, training, method)
        last = curve[curve["round"] == curve["round"].max()]
        line = {"training": training, "strategy": STRATEGIES.get(method, method)}
        line |= score_cells(_loop(areas, training, method), groups, (training, method), AREA)
        line |= _end_cells(last)
        for fraction in FRACTIONS if len(full) else ():
            line[f"labels for {fraction:.0%}"] = labels_needed(curve, fraction * pooled_score(full))
        lines.append(line | statistics.runs(curve))
    if len(full):
        line = {"training": "supervised", "strategy": "all labels"}
        lines.append(line | _end_cells(full) | statistics.runs(full))
    table = pd.DataFrame(lines).fillna("")
    if groups.kinds and len(table):
        accuracy, balanced = statistics.SCORES
        same = (lambda kind: (kind[0], PUBLISHED[1])), "UniSAL is better by"
        better = {
            same[1]: difference_cells(groups, kinds, same[0], accuracy),
            f"{same[1]}, balanced accuracy": difference_cells(groups, kinds, same[0], balanced),
            "published UniSAL is better by": difference_cells(groups, kinds, lambda _: PUBLISHED),
            "UniSAL, ours, is better by": difference_cells(groups, kinds, lambda _: OURS),
        }
        filled = {name: cells for name, cells in better.items() if any(cells)}
        insert_columns(table, "labels at the end", filled)
    return table


def _loop(facts: pd.DataFrame, training: str, method: str) -> pd.DataFrame:
    return facts[(facts.training == training) & (facts.method == method)]


def _end_cells(last: pd.DataFrame) -> dict[str, str]:
    scores = {title: f"{pooled_score(last, score):.3f}" for score, title in END.items()}
    return {"labels at the end": f"{last.budget.mean():.0f}"} | scores


def labels_needed(curve: pd.DataFrame, accuracy: float) -> str:
    """Mean budget from which on the pooled accuracy is at least that at every budget, or a dash.

    A first crossing after which the curve falls back is not enough.
    """
    reached = pooled_accuracies(curve, ["round"]) >= accuracy
    budgets = curve.groupby("round").budget.mean()[reached[::-1].cummin()[::-1].values.astype(bool)]
    return f"{budgets.iloc[0]:.0f}" if len(budgets) else "–"


def disagreement_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Size of the disagreement set before each query, and tiles filled by entropy: seeds' mean."""
    chosen = rounds(facts).query("method == 'unisal' and varied == ''").dropna(subset="disagreeing")
    return chosen.pivot_table(
        index="round", columns=["network", "training"], values=["disagreeing", "filled"]
    ).round(1)


def summary_table(some: Record) -> pd.DataFrame:
    """One line per dataset with heads on frozen features, pooled over folds.

    The best of the other strategies is that with the largest AULC on the test set among those with
    the same training; variants of UniSAL are none. Of runs that published UniSAL has.
    """
    lines = []
    for dataset, facts in of_published_runs(heads(some)).facts.groupby("dataset"):
        each, areas = rounds(facts), curves(facts)
        full = each[each.method == "full-supervision"]
        values, seeds = area_of(areas)
        if PUBLISHED not in values or not len(full):
            continue
        last = each[each["round"] == each["round"].max()]
        accuracy = pooled_score(full)
        line = {"dataset": dataset, "all labels": f"{accuracy:.3f}"}
        for title, kind in (("UniSAL", PUBLISHED), ("UniSAL, ours", OURS)):
            end = _loop(last, *kind)
            if kind == PUBLISHED:
                line["labels"] = f"{end.budget.mean():.0f} of {full.budget.mean():.0f}"
            if len(end):
                value = pooled_score(end)
                line |= {
                    title: f"{value:.3f}",
                    f"{title}, of all labels": f"{value / accuracy:.1%}",
                }
                line[f"AULC, {title}"] = f"{values[kind]:.3f}"
                line[f"AULC, best other, same training as {title}"] = best_other(
                    values, seeds, [kind]
                )
        for method in ("random", "entropy"):
            if ("supervised", method) in values:
                line[f"AULC, {method}, supervised"] = f"{values['supervised', method]:.3f}"
        lines.append(line | statistics.runs(_loop(each, *PUBLISHED)))
    return pd.DataFrame(lines).fillna("")


def area_of(areas: pd.DataFrame) -> tuple[dict[Kind, float], dict[Kind, int]]:
    """Pooled AULC, and the number of seeds, by training and strategy."""
    each = dict(list(areas.groupby(CURVE)))
    values = {kind: pooled_score(lines) for kind, lines in each.items()}
    return values, {kind: lines.seed.nunique() for kind, lines in each.items()}


def best_other(
    values: Mapping[Kind, float], seeds: Mapping[Kind, int], kinds: Sequence[Kind]
) -> str:
    """The highest value of the other strategies with the training of one of `kinds`, and which.

    values, seeds: by (training, strategy); kinds: of UniSAL, whose variants are no others. A
    strategy with fewer seeds than the first of `kinds` is named with them. Empty without others.
    """
    trainings = [training for training, _ in kinds]
    others = {
        kind: value
        for kind, value in values.items()
        if kind[0] in trainings and not kind[1].startswith("unisal")
    }
    if not others:
        return ""
    best = max(others, key=lambda kind: others[kind])
    about = [STRATEGIES.get(best[1], best[1])]
    about += [best[0]] if best[0] != trainings[0] else []
    of_best, of_all = seeds[best], seeds[kinds[0]]
    about += [f"{of_best} of {of_all} seeds"] if of_best < of_all else []
    return f"{others[best]:.3f} ({', '.join(about)})"


def equal_training_table(some: Record) -> pd.DataFrame:
    """By how much UniSAL in our variant has a larger AULC than strategies with its training.

    some: all datasets, each with one VLM. A line per strategy: the paired difference in each
    dataset with such strategies, over the folds and seeds that both have, and its mean over the
    datasets. Heads on frozen features; intervals of 95 %.
    """
    some = heads(some)
    facts = curves(some.facts)
    facts = facts[(facts.training == OURS[0]) & facts.method.isin(STRATEGIES)]
    counted = {
        dataset: statistics.grouped(Record(of_dataset, some.counts), ["method"])
        for dataset, of_dataset in facts.groupby("dataset")
        if OURS[1] in set(of_dataset.method)
    }
    mine, lines = (OURS[1],), []
    for method, title in STRATEGIES.items():
        drawn = {
            dataset: statistics.drawn_differences(groups, mine, (method,), "accuracy")
            for dataset, groups in counted.items()
        }
        drawn = {dataset: values for dataset, values in drawn.items() if len(values)}
        if method == OURS[1] or not drawn:
            continue
        cells = {dataset: statistics.mean_difference([values]) for dataset, values in drawn.items()}
        cells["mean"] = statistics.mean_difference(list(drawn.values()))
        texts = dict(zip(cells, differences(list(cells.values())), strict=True))
        seeds = min(
            statistics.fewest_seeds(groups, groups.tested(mine) & groups.tested((method,)))
            for groups in map(counted.__getitem__, drawn)
        )
        lines.append({"strategy": title} | texts | {"seeds": str(seeds)})
    table = pd.DataFrame(lines)
    named = [dataset for dataset in counted if dataset in table]
    return table.reindex(columns=["strategy", *named, "mean", "seeds"]).fillna("")


# --- from zero labels on -------------------------------------------------------------------------


def cold_start_table(some: Record) -> pd.DataFrame:
    """Active learning from zero labels on: a line per shift of the tiles and first query.

    some: of one dataset and VLM. The AULC is from the first to the last query, which all have;
    *by*: how much it is above that of a first query by chance, paired, p by Holm. Labels needed: as
    in `rounds_table`, from 0 labels on. All lines are of the folds and seeds with a cold start.
    """
    lines, better, counted = [], [], False
    for shift, facts in cold_start_curves(some.facts):
        each, areas = rounds(facts), curves(facts)
        goal = (
            pooled_score(full) if len(full := each[each.method == "full-supervision"]) else np.nan
        )
        groups = statistics.grouped(Record(areas, some.counts), CURVE)
        counted |= bool(groups.kinds)
        for method in [name for name in COLD_STARTS if name in set(each.method)]:
            curve, kind = each[each.method == method], (OURS[0], method)
            zero, later = curve[curve["round"] < 0], curve[curve["round"] >= 0]
            line = {"shift": shift or "none", "begins with": COLD_STARTS[method]}
            line["at 0 labels"] = f"{pooled_score(zero):.3f}" if len(zero) else ""
            line |= score_cells(areas[areas.method == method], groups, kind, AREA)
            differing = {} if kind == OURS else statistics.differences(groups, kind, OURS)
            better.append(differing.get("accuracy"))
            wanted = {f"labels for {share:.0%}": share * goal for share in FRACTIONS}
            wanted["labels for all labels − 0.02"] = goal - 0.02
            line |= {title: labels_needed(curve, accuracy) for title, accuracy in wanted.items()}
            end = _end_cells(later[later["round"] == later["round"].max()])
            line |= {title: end[title] for title in END.values()} | {"all labels": f"{goal:.3f}"}
            lines.append(line | statistics.runs(curve))
    table = pd.DataFrame(lines)
    if counted:
        insert_columns(table, "AULC, balanced accuracy", {"by": differences(better)})
    return table


def cold_start_curves(facts: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Loops of `30_cold_start` and what they are compared with, by shift ("" for none)."""
    facts = facts[(facts.network == "frozen") & facts.varied.isin(["", "shift"])]
    named = facts.method.isin(COLD_STARTS) & facts.training.eq(OURS[0])
    facts = facts[named | (facts.method.eq("full-supervision") & facts.training.ne(""))]
    run = ["seed", "fold"]
    for shift in sorted({*facts.value[facts.method == "cold-start"]}):
        same = facts[facts.value == shift]
        runs = dict(list(same[[*run, "method"]].drop_duplicates().groupby("method")[run]))
        zero = same[same["round"] < 0]  # what all loops that VLM-CPL begins have in common
        others = sorted({*runs} & {*COLD_STARTS} - {"cold-start", OURS[1]})
        zeros = [
            zero[
                pd.MultiIndex.from_frame(zero[run]).isin(pd.MultiIndex.from_frame(runs[name]))
            ].assign(method=name)
            for name in others
        ]
        begun = pd.MultiIndex.from_frame(runs["cold-start"])
        together = pd.concat([*zeros, same])
        yield shift, together[pd.MultiIndex.from_frame(together[run]).isin(begun)]
