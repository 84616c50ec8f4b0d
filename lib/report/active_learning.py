"""Learning curves of active learning: from rows of the record to tables."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.report import statistics
from lib.report.format import differences, with_interval
from lib.report.statistics import Groups

GROUP_COLUMNS = [
    *("vlm", "seed", "fold", "training", "method", "network", "label", "group"),
    *("n", "right"),
]
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
OF_ROUNDS = ("round", "disagreeing", "filled")  # what full supervision does not have


def curve_weights(budgets: Sequence[int] | pd.Series) -> np.ndarray:
    """Weight of each round in the area under the learning curve (AULC) [R]; they add up to one.

    The area between the first and the last budget by the trapezoidal rule, divided by its width.
    """
    labels = np.asarray(budgets, dtype=float)
    if len(labels) == 1 or labels[0] == labels[-1]:
        return np.full(len(labels), 1 / len(labels))
    widths = np.diff(labels) / (labels[-1] - labels[0])
    return (np.append(widths, 0) + np.append(0, widths)) / 2


def rounds_frame(rows: Sequence[Mapping[str, Any]], *, cold_starts: bool = False) -> pd.DataFrame:
    """One line per round: what was trained how on how many labels, and its scores.

    Without the lines of `30_cold_start`, which begin at another budget and are shown by themselves,
    unless `cold_starts`.

    Columns: dataset, vlm, seed, fold, training, method, network, budget, n, seconds, varied (names
    of the parameters in which an ablation differs, else ()), all parameters, accuracy,
    balanced_accuracy, macro_f1, auroc, ece, recall, support, and of the labels confident,
    precision, disagreeing and filled.
    """
    names = ("dataset", "vlm", "seed", "training", "method", "network", "budget", "n", "seconds")
    lines = [
        row["params"]
        | {name: row[name] for name in names}
        | {"fold": statistics.fold_of(row), "varied": tuple(row["params"].get("varied", ()))}
        | row["scores"]
        | {n: v for n, v in (row["labels"] or {}).items() if n not in ("labelled", "per_class")}
        for row in rows
        if row["training"] is not None and (cold_starts or not _of_cold_start(row))
    ]
    if not lines:
        return pd.DataFrame(columns=[*names, "fold", "varied", *OF_ROUNDS])
    frame = pd.DataFrame(lines)
    frame = frame.reindex(columns=[*frame, *(name for name in OF_ROUNDS if name not in frame)])
    return frame.sort_values(["seed", "fold", "round", "budget"], ignore_index=True)


def _of_cold_start(row: Mapping[str, Any]) -> bool:
    """Whether a row of a training is one of `30_cold_start`, which alone has shifted tiles."""
    begun = row["method"] in COLD_STARTS and row["method"] != OURS[1]
    return begun or "shift" in row["params"].get("varied", ())


def groups_of_runs(runs: Path) -> pd.DataFrame:
    """What `22_active_learning_rounds` and `30_cold_start` wrote of every fold and seed."""
    files = sorted(runs.glob("seed*/fold*/learning*.parquet"))
    counted = [pd.read_parquet(file) for file in files]
    return pd.concat(counted, ignore_index=True) if counted else pd.DataFrame(columns=GROUP_COLUMNS)


def by_network(frame: pd.DataFrame, dataset: str) -> dict[str, pd.DataFrame]:
    """Lines of `rounds_frame` in which no rule is varied: "dataset, network" → lines."""
    plain = frame[frame.varied == ()]
    return {f"{dataset}, {network}": df for network, df in plain.groupby("network", sort=False)}


def curve_means(curves: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Scores averaged over each learning curve by `curve_weights`, a line per run.

    curves: lines of `rounds_frame` with a round; names: columns that tell curves of a run apart.
    Columns: the names, seed, fold, n, accuracy and balanced_accuracy (the areas, AULC), recall and
    support, as `statistics.pooled_rows` wants them.
    """
    lines = []
    for key, curve in curves.groupby([*names, "seed", "fold"], sort=False):
        weights = curve_weights(curve.budget)
        line = dict(zip([*names, "seed", "fold"], key, strict=True)) | {"n": curve.n.iloc[0]}
        line |= {score: float(weights @ curve[score]) for score in statistics.SCORES}
        if statistics.has_support(curve):
            recall = pd.DataFrame(curve.recall.tolist()).astype(float)
            areas = (recall * weights[:, None]).sum(min_count=len(curve))  # absent stays absent
            line |= {"recall": areas.to_dict(), "support": curve.support.iloc[0]}
        lines.append(line)
    columns = [*names, "seed", "fold", "n", *statistics.SCORES]
    return pd.DataFrame(lines) if lines else pd.DataFrame(columns=columns)


def cold_start_table(curves: pd.DataFrame, groups: pd.DataFrame | None = None) -> pd.DataFrame:
    """Active learning from zero labels on: a line per shift of the tiles and way to begin.

    curves: lines of `rounds_frame` with `cold_starts`, of one dataset and VLM. The AULC is
    from the first to the last query, which all have; *by*: how much it is above that of a first
    query by chance, paired, p by Holm. Labels needed: as in `rounds_table`, from 0 labels on.
    groups: `groups_of_runs` of the same, for intervals where no tile is shifted. All lines are of
    the folds and seeds that have a cold start.
    """
    lines, better = [], []
    groups = None if groups is None else _of_runs_with(groups, "cold-start")
    counted = None if groups is None or groups.empty else statistics.grouped(groups, CURVE)
    for shift, df in cold_start_curves(curves):
        full = df[df.method == "full-supervision"]
        goal = statistics.pooled_rows(full) if len(full) else np.nan
        for method in [name for name in COLD_STARTS if name in set(df.method)]:
            curve, kinds = df[df.method == method], ((OURS[0], method), OURS)
            known = counted if counted and not shift and counted.tested(kinds[0]).any() else None
            zero, rounds = curve[curve["round"] < 0], curve[curve["round"] >= 0]
            line = {"shift": shift or "none", "begins with": COLD_STARTS[method]}
            line["at 0 labels"] = f"{statistics.pooled_rows(zero):.3f}" if len(zero) else ""
            line |= _area_cells(curve_means(rounds, *CURVE), known, kinds[0])
            compared = (
                {} if method == OURS[1] or not known else statistics.differences(known, *kinds)
            )
            better.append(compared.get("accuracy"))
            line |= {
                f"labels for {share:.0%}": labels_needed(curve, share * goal) for share in FRACTIONS
            }
            line["labels for all labels − 0.02"] = labels_needed(curve, goal - 0.02)
            lines.append(
                line
                | _end_cells(rounds[rounds["round"] == rounds["round"].max()])
                | {"all labels": f"{goal:.3f}"}
                | statistics.runs(curve)
            )
    table = pd.DataFrame(lines)
    if counted is not None and len(table):
        table.insert(table.columns.get_loc("AULC") + 1, "by", differences(better))
    return table


def _of_runs_with(groups: pd.DataFrame, method: str) -> pd.DataFrame:
    """Heads on frozen features, of the folds and seeds that have a method."""
    heads = groups[groups.network == "frozen"]
    runs = heads.loc[heads.method == method, ["vlm", "seed", "fold"]].drop_duplicates()
    return heads.merge(runs)


def cold_start_curves(curves: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Curves of `30_cold_start` and what they are held against, by shift ("" for none)."""
    heads = curves[curves.network == "frozen"]
    shifts = heads["shift"].fillna("") if "shift" in heads else pd.Series("", heads.index)
    shifts = shifts.where(heads.varied.map(lambda names: "shift" in names), "")
    for shift in sorted({*shifts[heads.method == "cold-start"]}):
        own = heads[(shifts == shift) & heads.varied.map(lambda names: set(names) <= {"shift"})]
        compared = own.method.isin(COLD_STARTS) & own.training.eq(OURS[0])
        own = own[compared | own.method.eq("full-supervision")]
        run = ["seed", "fold"]
        runs = dict(list(own[[*run, "method"]].drop_duplicates().groupby("method")[run]))
        zero = own[own["round"] < 0]  # what all loops that VLM-CPL begins have in common
        others = sorted({*runs} & {*COLD_STARTS} - {"cold-start", OURS[1]})
        zeros = [zero.assign(method=name).merge(runs[name], on=run) for name in others]
        yield shift, pd.concat([*zeros, own]).merge(runs["cold-start"], on=run)


def of_rounds(curves: pd.DataFrame) -> pd.DataFrame:
    """Lines of `rounds_frame` without full supervision."""
    return curves[curves.method != "full-supervision"]


def rounds_table(curves: pd.DataFrame, groups: pd.DataFrame | None = None) -> pd.DataFrame:
    """One line per training and strategy, scores pooled over folds.

    curves: lines of `rounds_frame` of one dataset, VLM and way to train, full supervision or not;
    groups: `groups_of_runs` of the same, with which the AULC has its interval and the table says by
    how much that of UniSAL is larger: with the training of the line, and whatever the training as
    published (dual-view) and `OURS`; p corrected by Holm over the lines. Labels needed: see
    `labels_needed`.
    """
    full = curves[curves.method == "full-supervision"]
    areas = dict(list(curve_means(of_rounds(curves), *CURVE).groupby(CURVE)))
    counted = None if groups is None else statistics.grouped(groups, CURVE)
    kinds = in_order(curves)
    lines = []
    for training, method in kinds:
        curve = curves[(curves.training == training) & (curves.method == method)]
        last = curve[curve["round"] == curve["round"].max()]
        line = {"training": training, "strategy": STRATEGIES.get(method, method)}
        line |= _area_cells(areas[training, method], counted, (training, method))
        line |= {"labels at the end": f"{last.budget.mean():.0f}"} | _end_cells(last)
        for fraction in FRACTIONS if len(full) else ():
            needed = labels_needed(curve, fraction * statistics.pooled_rows(full))
            line[f"labels for {fraction:.0%}"] = needed
        lines.append(line | statistics.runs(curve))
    if len(full):
        ends = {"labels at the end": f"{full.budget.mean():.0f}"} | _end_cells(full)
        all_labels = {"training": "supervised", "strategy": "all labels"}
        lines.append(all_labels | ends | statistics.runs(full))
    table = pd.DataFrame(lines).fillna("")
    if counted is not None and len(table):
        place = table.columns.get_loc("labels at the end")
        for name, cells in reversed(_comparisons(counted, kinds).items()):
            table.insert(place, name, cells + [""] * (len(table) - len(kinds)))
    return table


def _area_cells(area: pd.DataFrame, groups: Groups | None, kind: tuple[str, str]) -> dict[str, str]:
    known = statistics.estimates(groups, kind) if groups else {}
    titles = dict(zip(statistics.SCORES, ("AULC", "AULC, balanced accuracy"), strict=True))
    return {
        title: with_interval(known[score])
        if known
        else f"{statistics.pooled_rows(area, score):.3f}"
        for score, title in titles.items()
    }


def _end_cells(last: pd.DataFrame) -> dict[str, str]:
    titles = ("accuracy", "balanced accuracy")
    values = (f"{statistics.pooled_rows(last, score):.3f}" for score in statistics.SCORES)
    return dict(zip(titles, values, strict=True))


def _comparisons(groups: Groups, kinds: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Columns of `rounds_table` that compare two curves; kinds: training and method of each."""
    accuracy, balanced = statistics.SCORES
    same, published, ours = (
        [{} if mine(kind) == kind else statistics.differences(groups, mine(kind), kind)
         for kind in kinds]
        for mine in (lambda kind: (kind[0], PUBLISHED[1]), lambda _: PUBLISHED, lambda _: OURS)
    )  # fmt: skip
    columns = {
        "UniSAL is better by": differences([line.get(accuracy) for line in same]),
        "UniSAL is better by, balanced accuracy": differences(
            [line.get(balanced) for line in same]
        ),
        "published UniSAL is better by": differences([line.get(accuracy) for line in published]),
        "UniSAL, ours, is better by": differences([line.get(accuracy) for line in ours]),
    }
    return {name: cells for name, cells in columns.items() if any(cells)}


def _of(groups: pd.DataFrame, training: str, method: str) -> pd.DataFrame:
    return groups[groups.training.eq(training) & groups.method.eq(method)]


def rounds_tables(
    curves: Mapping[str, pd.DataFrame], groups: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Titles and tables of several networks; curves: see `by_network`."""
    for title, curve in curves.items():
        of_network = groups[groups.network == curve.network.iloc[0]]
        yield title, rounds_table(curve, of_network)


def disagreement_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Size of the disagreement set before each query, and tiles filled by entropy: seeds' mean."""
    chosen = frame[(frame.method == "unisal") & frame.disagreeing.notna() & (frame.varied == ())]
    numbers = chosen.astype({"disagreeing": float, "filled": float})
    return numbers.pivot_table(
        index="round", columns=["network", "training"], values=["disagreeing", "filled"]
    ).round(1)


def of_published_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """Lines of `rounds_frame` of the seeds and folds of a dataset that published UniSAL has.

    A seed whose first query misses a class costs ten points: only the same runs are compared.
    """
    run = ["dataset", "seed", "fold"]
    published = frame[(frame.training == PUBLISHED[0]) & (frame.method == PUBLISHED[1])]
    return frame.merge(published[run].drop_duplicates())


def summary_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One line per dataset with heads on frozen features, pooled over folds.

    frame: `rounds_frame`. The best of the other strategies is that with the largest AULC on the
    test set among those with the same training; variants of UniSAL are none. Of runs that published
    UniSAL has.
    """
    lines = []
    heads = of_published_runs(frame[(frame.network == "frozen") & (frame.varied == ())])
    for dataset, curves in heads.groupby("dataset"):
        full = curves[curves.method == "full-supervision"]
        areas = dict(list(curve_means(of_rounds(curves), *CURVE).groupby(CURVE)))
        if PUBLISHED not in areas or not len(full):
            continue
        means = {kind: statistics.pooled_rows(area) for kind, area in areas.items()}
        seeds = {kind: area.seed.nunique() for kind, area in areas.items()}
        last = curves[curves["round"] == curves["round"].max()]
        accuracy = statistics.pooled_rows(full)
        line = {"dataset": dataset, "all labels": f"{accuracy:.3f}"}
        for title, kind in (("UniSAL", PUBLISHED), ("UniSAL, ours", OURS)):
            end = _of(last, *kind)
            if kind == PUBLISHED:
                line["labels"] = f"{end.budget.mean():.0f} of {full.budget.mean():.0f}"
            if len(end):
                value = statistics.pooled_rows(end)
                line |= {
                    title: f"{value:.3f}",
                    f"{title}, of all labels": f"{value / accuracy:.1%}",
                }
                line[f"AULC, {title}"] = f"{means[kind]:.3f}"
                beside = best_other(means, seeds, [kind])
                line[f"AULC, best other, same training as {title}"] = beside
        for method in ("random", "entropy"):
            if ("supervised", method) in means:
                line[f"AULC, {method}, supervised"] = f"{means['supervised', method]:.3f}"
        lines.append(line | statistics.runs(_of(curves, *PUBLISHED)))
    return pd.DataFrame(lines).fillna("")


def best_other(
    values: Mapping[tuple[str, str], float],
    seeds: Mapping[tuple[str, str], int],
    kinds: Sequence[tuple[str, str]],
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


def labels_needed(curve: pd.DataFrame, accuracy: float) -> str:
    """Mean budget from which on the pooled accuracy is at least that at every budget, or a dash.

    A first crossing after which the curve falls back is not enough.
    """
    reached = statistics.pooled_accuracies(curve, ["round"]) >= accuracy
    stays = reached[::-1].cummin()[::-1]
    budgets = curve.groupby("round").budget.mean()[stays.values.astype(bool)]
    return f"{budgets.iloc[0]:.0f}" if len(budgets) else "–"


def in_order(curves: pd.DataFrame) -> list[tuple[str, str]]:
    """(training, strategy) as tables and figures show them."""
    present = set(zip(curves.training, curves.method, strict=True))
    known = list(STRATEGIES)
    methods = sorted({m for _, m in present if m != "full-supervision"},
                     key=lambda m: (known.index(m) if m in known else len(known), m))  # fmt: skip
    return [(t, m) for t in TRAININGS for m in methods if (t, m) in present]
