"""Tables of learning curves of active learning, from the record."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lib.record import Record
from lib.report import statistics
from lib.report.format import difference_cells, differences, insert_columns, score_cells
from lib.report.statistics import Kind, pooled_score, pooled_scores

FRACTIONS = (0.95, 0.98, 1.0)  # of full supervision, for the labels that a strategy needs
STRATEGIES = {
    "unisal": "UniSAL (DUS, CS)",
    "unisal-jsd": "UniSAL, JSD of networks and views",
    "unisal-coverage": "UniSAL, half of it coverage",
    "typical-first": "typical tiles first, half coverage",
    "unisal-wide": "UniSAL, widened",
    "dus": "DUS alone",
    "cs": "CS alone",
    "random": "random",
    "entropy": "entropy",
    "margin": "margin",
    "margin-coverage": "half margin, half MaxHerding",
    "coreset": "CoreSet",
    "badge": "BADGE",
    "typiclust": "TypiClust",
    "dropquery": "DropQuery",
    "maxherding": "MaxHerding",
    "uherding": "UHerding",
    "ppal": "PPAL-like",
    "openpath": "OpenPath",
    "unisal-coverage-open": "half coverage, called a target",
    "random-open": "random, called a target",
}
# Ours: pseudo labels follow the labels bought so far, half of each query covers the pool, and the
# first tiles are typical of its clusters.
TRAININGS = ("dual-view-aligned", "dual-view", "supervised")
PROBE = "linear-probe"  # in place of networks
ALL_LABELS = {"full-supervision": "supervised", "full-probe": PROBE}
PUBLISHED, OURS = ("dual-view", "unisal"), ("dual-view-aligned", "typical-first")
BY_CHANCE = "unisal-coverage"  # ours, but for its first tiles
# Loops of `OURS` that VLM-CPL's networks begin; the last is UniSAL's own beginning.
COLD_STARTS = {
    "cold-start": "VLM-CPL",
    "cold-start-labels": "VLM-CPL, first query alone",
    "cold-start-disagreement": "VLM-CPL, first query by disagreement",
    "cold-start-doubtful": "VLM-CPL, first query in doubtful clusters",
    BY_CHANCE: "chance",
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
    begun = facts.method.isin(COLD_STARTS) & (facts.method != BY_CHANCE) | (facts.varied == "shift")
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

    A seed whose first query misses a class costs ten points: only the same runs are compared. All,
    where no run has it, as in an open set.
    """
    if of_loop(some.facts, PUBLISHED).empty:
        return some
    return some[statistics.same_runs(some.facts, of_loop(some.facts, PUBLISHED))]


def heads(some: Record, network: str = "frozen") -> Record:
    """The loops in which no rule is varied, with one way to train the networks."""
    some = loops(some)
    return some[(some.facts.network == network) & (some.facts.varied == "")]


def of_loop(facts: pd.DataFrame, kind: Kind) -> pd.DataFrame:
    """The lines of one training and strategy."""
    return facts[(facts.training == kind[0]) & (facts.method == kind[1])]


def in_order(facts: pd.DataFrame) -> list[Kind]:
    """(training, strategy) as tables and figures show them."""
    present = set(facts[CURVE].itertuples(index=False, name=None))
    named = dict.fromkeys([*STRATEGIES, *sorted(facts.method.unique())])
    methods = [method for method in named if method not in ALL_LABELS]
    return [(t, m) for t in (*TRAININGS, PROBE) for m in methods if (t, m) in present]


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
        curve, area = (of_loop(facts, (training, method)) for facts in (each, areas))
        line = {"training": training, "strategy": STRATEGIES.get(method, method)}
        line |= score_cells(area, groups, (training, method), AREA) | _end_cells(curve)
        for fraction in FRACTIONS if len(full) else ():
            line[f"labels for {fraction:.0%}"] = labels_needed(curve, fraction * pooled_score(full))
        lines.append(line | statistics.runs(curve))
    for method, training in ALL_LABELS.items():
        if len(bound := each[each.method == method]):
            line = {"training": training, "strategy": "all labels"}
            lines.append(line | _end_cells(bound) | statistics.runs(bound))
    table = pd.DataFrame(lines).fillna("")
    if groups.kinds and len(table):
        better = {
            title: difference_cells(groups, kinds, reference, score)
            for title, reference, score in (
                ("UniSAL is better by", _unisal_alike, "accuracy"),
                ("UniSAL is better by, balanced accuracy", _unisal_alike, "balanced_accuracy"),
                ("published UniSAL is better by", lambda _: PUBLISHED, "accuracy"),
                ("UniSAL, ours, is better by", lambda _: OURS, "accuracy"),
            )
        }
        filled = {name: cells for name, cells in better.items() if any(cells)}
        insert_columns(table, "labels at the end", filled)
    return table


def _unisal_alike(kind: Kind) -> Kind:
    return kind[0], PUBLISHED[1]


def _end_cells(curve: pd.DataFrame) -> dict[str, str]:
    """Budget and pooled scores of the last round, or of training on all labels."""
    last = curve[curve["round"].fillna(0) == curve["round"].fillna(0).max()]
    scores = {title: f"{pooled_score(last, score):.3f}" for score, title in END.items()}
    asked = last.query_precision.astype(float)
    open_set = {"query precision": f"{asked.mean():.3f}"} if (asked < 1).any() else {}
    return {"labels at the end": f"{last.budget.mean():.0f}"} | open_set | scores


def labels_needed(curve: pd.DataFrame, accuracy: float) -> str:
    """Mean budget from which on the pooled accuracy is at least that at every budget, or a dash.

    A first crossing after which the curve falls back is not enough.
    """
    reached = pooled_scores(curve, ["round"]) >= accuracy
    budgets = curve.groupby("round").budget.mean()[reached[::-1].cummin()[::-1].values.astype(bool)]
    return f"{budgets.iloc[0]:.0f}" if len(budgets) else "–"


def disagreement_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Size of the disagreement set before each query, and tiles filled by entropy: seeds' mean."""
    chosen = rounds(facts).query("method == 'unisal' and varied == ''").dropna(subset="disagreeing")
    return chosen.pivot_table(
        index="round", columns=["network", "training"], values=["disagreeing", "filled"]
    ).round(1)


# --- from zero labels on -------------------------------------------------------------------------


def cold_start_table(some: Record) -> pd.DataFrame:
    """Active learning from zero labels on: a line per shift of the tiles and first query.

    some: of one dataset and VLM. The AULC is from the first to the last query, which all have;
    *gain over chance*: how much it is above that of a first query by chance, paired, p by Holm.
    Labels needed: as in `rounds_table`, from 0 labels on. All lines are of the folds and seeds with
    a cold start.
    """
    lines, better, counted = [], [], False
    for shift, facts in cold_start_curves(some.facts):
        each, areas = rounds(facts), curves(facts)
        full = each[each.method == "full-supervision"]
        goal = pooled_score(full) if len(full) else np.nan
        wanted = {f"labels for {share:.0%}": share * goal for share in FRACTIONS}
        wanted["labels for all labels − 0.02"] = goal - 0.02
        groups = statistics.grouped(Record(areas, some.counts), CURVE)
        counted |= bool(groups.kinds)
        for method in [name for name in COLD_STARTS if name in set(each.method)]:
            curve, kind = each[each.method == method], (OURS[0], method)
            zero = curve[curve["round"] < 0]
            line = {"shift": shift or "none", "begins with": COLD_STARTS[method]}
            line["at 0 labels"] = f"{pooled_score(zero):.3f}" if len(zero) else ""
            line |= score_cells(areas[areas.method == method], groups, kind, AREA)
            chance = OURS[0], BY_CHANCE
            differing = {} if kind == chance else statistics.differences(groups, kind, chance)
            better.append(differing.get("accuracy"))
            line |= {title: labels_needed(curve, accuracy) for title, accuracy in wanted.items()}
            end = _end_cells(curve)
            line |= {title: end[title] for title in END.values()} | {"all labels": f"{goal:.3f}"}
            lines.append(line | statistics.runs(curve))
    table = pd.DataFrame(lines)
    if counted:
        insert_columns(table, "AULC, balanced accuracy", {"gain over chance": differences(better)})
    return table


def cold_start_curves(facts: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Loops of `30_cold_start` and what they are compared with, by shift ("" for none).

    The predictions without a label are those of all loops that VLM-CPL begins.
    """
    facts = facts[(facts.network == "frozen") & facts.varied.isin(["", "shift"])]
    named = facts.method.isin(COLD_STARTS) & facts.training.eq(OURS[0])
    facts = facts[named | (facts.method.eq("full-supervision") & facts.training.ne(""))]
    for shift, same in facts.groupby("value"):
        begun = same[same.method == "cold-start"]
        if begun.empty:
            continue
        same = same[statistics.same_runs(same, begun)]
        zeros = [
            begun[(begun["round"] < 0) & statistics.same_runs(begun, loop)].assign(method=method)
            for method, loop in same.groupby("method")
            if method in COLD_STARTS and method not in ("cold-start", BY_CHANCE)
        ]
        yield str(shift), pd.concat([*zeros, same])
