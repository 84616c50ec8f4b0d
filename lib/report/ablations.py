"""Ablations of both methods: what is varied, and tables and curves of it from the record."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from lib.consensus import CLUSTER_RULES, LABEL_RULES, QUOTAS, TIE_BREAKS, VARIANTS
from lib.report import comparison, statistics
from lib.report.active_learning import STRATEGIES, TRAININGS, curves, rounds
from lib.report.format import line_per_group, mean_std, pooled_std

# One rule at a time, but for those that are in one dictionary.
VLM_CPL_GRID: tuple[dict[str, Sequence], ...] = (
    {"filters": ("", "mvc", "pfc", "mvc+pfc", "pfc+mvc")},
    {"n_views": (1, 2, 5, 10, 30)},
    {"keep_ratio": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)},
    {"label_rule": LABEL_RULES},
    {"tie_break": TIE_BREAKS, "quota": QUOTAS},
    {"cluster_on": ("projected", "unprojected")},
    {"cluster_rule": CLUSTER_RULES},
    {"clusters_per_class": (1, 2, 3, 5)},
    {"threshold": (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)},
    {"cross_weight": (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)},
)
# Of UniSAL; a weight w of 0 is training without the other view, a contrast β of 0 without contrast.
UNISAL_GRID: tuple[dict[str, Sequence], ...] = (
    {"strategy": ("unisal", "dus", "cs", "unisal-wide")},
    {"threshold": (0.5, 0.7, 0.95)},
    {"cross_weight": (0.0, 0.5, 1.0)},
    {"contrast": (0.0, 0.1, 0.5)},
    {"query_share": (0.01, 0.02, 0.05)},
    {"restart": (True, False)},
    # With balance, which is ours, these are the loops of `22_active_learning_rounds`.
    {
        "balance_classes": (False,),
        "training": TRAININGS,
        "strategy": ("unisal", "margin", "random"),
    },
)


def our_rules(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The rules that VLM-CPL runs with in our setting. settings: of a run (`Run.settings`)."""
    names = ("n_views", "keep_ratio", "threshold", "cross_weight")
    fixed = {"filters": "mvc+pfc"}
    return {name: settings[name] for name in names} | fixed | asdict(VARIANTS["ours"])


def chosen_rules(
    grid: Sequence[Mapping[str, Sequence]], names: str
) -> list[Mapping[str, Sequence]]:
    """The entries of a grid that vary one of the named rules; all of them for "".

    names: by comma. Raises ValueError for a name that is not in the grid.
    """
    wanted = {name.strip() for name in names.split(",")} - {""}
    known = [name for values in grid for name in values]
    if not wanted <= {*known}:
        raise ValueError(f"rules {names!r}: the rules that are varied here are {', '.join(known)}")
    return [values for values in grid if not wanted or wanted & set(values)]


def ablation_grid(
    ours: Mapping[str, Any], rules: Sequence[Mapping[str, Sequence]] = VLM_CPL_GRID
) -> Iterator[dict[str, Any]]:
    """Our rules with one of `rules` changed, and `varied`, the names of what differs from ours."""
    for values in rules:
        for chosen in product(*values.values()):
            changed = dict(zip(values, chosen, strict=True))
            varied = [name for name, value in changed.items() if value != ours[name]]
            if varied:
                yield {**ours, **changed, "varied": varied}


# --- tables and curves ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Ablated:
    """What the ablations of a method vary.

    base: column → value of its unvaried lines; mark: title of the column that marks these, and its
    cell; tables: rules that have a table, two at once where they belong together; axes: rules that
    are numbers, and their names.
    """

    base: Mapping[str, str]
    mark: tuple[str, str]
    tables: tuple[tuple[str, ...], ...]
    axes: Mapping[str, str]


VLM_CPL = Ablated(
    base={"method": "vlm-cpl", "variant": "ours"},
    mark=("ours", "ours"),
    tables=(
        *(("label_rule",), ("tie_break", "quota")),
        *(("filters",), ("cluster_on",), ("cluster_rule",)),
    ),
    axes={
        "n_views": "views V",
        "keep_ratio": "keep ratio ρ",
        "threshold": "threshold γ",
        "cross_weight": "weight λ",
        "clusters_per_class": "clusters per class",
    },
)
_NUMBERS = {
    "threshold": "threshold τ",
    "cross_weight": "weight w of cross supervision",
    "contrast": "weight β of contrast",
    "query_share": "query, share of the pool",
}
UNISAL = Ablated(
    base={"training": "dual-view", "method": "unisal"},
    mark=("unchanged", "yes"),
    tables=tuple((name,) for name in ("strategy", *_NUMBERS, "restart")),
    axes=_NUMBERS,
)


def tested(facts: pd.DataFrame) -> pd.DataFrame:
    """VLM-CPL and what it is compared with on the test sets, heads on frozen features."""
    return comparison.tested(facts[facts.network != "fine-tune"])


def ablation(facts: pd.DataFrame, of: Ablated, *names: str) -> pd.DataFrame:
    """Lines of one method that differ from its usual rules in `names` only, and the usual ones.

    Empty where nothing was varied; only runs (fold and seed) for which something was.
    """
    if not {*names} <= {*facts}:
        return facts[:0]
    same = {c: value for c, value in of.base.items() if c != "variant"}
    if names == ("strategy",):
        del same["method"]
    within = [rules != "" and {*rules.split(", ")} <= {*names} for rules in facts.varied]
    varied = pd.Series(within, facts.index, dtype=bool) & _are(facts, same)
    unvaried = _are(facts, of.base) & (facts.varied == "")
    unvaried &= statistics.same_runs(facts, facts[varied])
    return facts[varied | unvaried].sort_values([*names, "fold", "seed"], kind="stable")


def _are(facts: pd.DataFrame, values: Mapping[str, str]) -> pd.Series:
    """Whether lines have these values, by column."""
    return (facts[list(values)] == list(values.values())).all(axis=1)


def ablation_table(facts: pd.DataFrame, of: Ablated, *names: str) -> pd.DataFrame:
    """One line per combination of values, pooled ± standard deviation over runs."""
    title, cell = of.mark

    def cells(some: pd.DataFrame) -> dict[str, str]:
        return {title: cell if (some.varied == "").any() else ""} | _cells(some)

    chosen = ablation(facts, of, *names)
    table = line_per_group(chosen, dict(zip(names, names, strict=True)), cells, sort=of is UNISAL)
    if len(table):
        table[[*names]] = table[[*names]].map(lambda value: str(value) or "none")
    return table


def ablation_tables(facts: pd.DataFrame, of: Ablated) -> list[pd.DataFrame]:
    """Parts on and off, then every rule that is no number or has a table, as far as varied."""
    tables = [ablation_table(facts, of, *names) for names in of.tables]
    if of is VLM_CPL:
        tables = [on_off_table(facts), *tables, hue_table(facts)]
    else:
        tables = [unisal_on_off_table(facts), *tables, balance_table(facts)]
    return [table for table in tables if len(table)]


def ablation_lines(facts: pd.DataFrame, of: Ablated) -> dict[str, pd.DataFrame]:
    """Values of the rules that are numbers, as column x, by what the axis says.

    Of UniSAL a line per run with the AULC as column aulc, and the accuracy of the last round.
    """
    lines = {}
    for name, title in of.axes.items():
        chosen = ablation(facts, of, name)
        if len(chosen):
            if of is UNISAL:
                keys = [name, "varied", "seed", "fold"]
                areas = curves(chosen).set_index(keys).accuracy.rename("aulc")
                last = rounds(chosen).groupby(keys).accuracy.last()
                chosen = pd.concat([areas, last], axis=1).sort_index().reset_index()
            lines[title] = chosen.assign(x=chosen[name])
    return lines


def _cells(some: pd.DataFrame) -> dict[str, str]:
    """Scores of VLM-CPL, or of the loops of UniSAL, pooled ± standard deviation over runs."""
    areas = curves(some)
    if len(areas):
        last = rounds(some).groupby(["seed", "fold"]).tail(1)
        return {
            "AULC": pooled_std(areas),
            "AULC, balanced accuracy": pooled_std(areas, "balanced_accuracy"),
            "accuracy at the end": pooled_std(last),
        }
    precise = some.precision.notna().all()
    known = {"pseudo-label precision": mean_std(some.precision)} if precise else {}
    return known | {"accuracy": pooled_std(some)}


def on_off_table(facts: pd.DataFrame) -> pd.DataFrame:
    """MVC, PFC and HCS on and off in all eight ways, our rules, pooled ± standard deviation.

    Without HCS: plain training on the labels that are left. HCS without a filter: all tiles are
    labelled and all are cross-supervised too.
    """
    plain = {"ce-lift": "", "ce-mvc": "mvc", "ce-pfc": "pfc", "ce-kept": "mvc+pfc"}
    crossed = ablation(facts, VLM_CPL, "filters")
    if crossed.empty:
        return pd.DataFrame()
    ours = facts.variant.isin(["", "ours"]) & (facts.varied == "")
    without = facts[facts.method.isin(plain) & ours & statistics.same_runs(facts, crossed)]
    without = without.assign(filters=without.method.map(plain))
    both = pd.concat([crossed[crossed.filters.isin(plain.values())], without])
    on = {part: both.filters.str.contains(part.lower()) for part in ("PFC", "MVC")}
    on["HCS"] = both.method == "vlm-cpl"
    both = both.assign(**{part: np.where(mask, "yes", "") for part, mask in on.items()})
    parts = {part: part for part in on}
    table = line_per_group(both, parts, lambda some: {"accuracy": pooled_std(some)})
    return table[["MVC", *table.columns.drop("MVC")]]


def hue_table(facts: pd.DataFrame) -> pd.DataFrame:
    """VLM-CPL in both variants with other colour jitter, pooled ± standard deviation over runs.

    The hue of the views changes the votes and what the networks see. Empty where it was not varied.
    """
    varied = facts[facts.varied == "hue"]
    base = facts[(facts.varied == "") & statistics.same_runs(facts, varied)]
    both = pd.concat([base, varied])

    def cells(some: pd.DataFrame) -> dict[str, str]:
        scores = {"accuracy": pooled_std(some)}
        scores["balanced accuracy"] = pooled_std(some, "balanced_accuracy")
        precise = some.precision.notna().all()
        return scores | ({"pseudo-label precision": mean_std(some.precision)} if precise else {})

    both = both[both.method == "vlm-cpl"] if len(varied) else both[:0]
    table = line_per_group(both, {"variant": "setting", "hue": "hue"}, cells)
    return table.assign(hue=table.hue.map("± {:g}".format)) if len(table) else table


PARTS = ("cross supervision", "contrast", "DUS", "CS")  # of UniSAL
# Which of them are on → training, strategy and rule that is set to zero, of the loop.
SWITCHED = {
    "1111": ("dual-view", "unisal", ""),
    "0111": ("dual-view", "unisal", "cross_weight"),
    "1011": ("dual-view", "unisal", "contrast"),
    "1101": ("dual-view", "cs", "strategy"),
    "1110": ("dual-view", "dus", "strategy"),
    "1100": ("dual-view", "random", ""),
    "0011": ("supervised", "unisal", ""),
    "0000": ("supervised", "random", ""),
}


def unisal_on_off_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Cross supervision, contrast, DUS and CS on and off, pooled ± standard deviation over runs.

    All on, each one off, both of a kind off, all off. Without DUS all unlabelled tiles are
    clustered, without CS chance chooses in the disagreement set, without both among all.
    """
    facts = facts[statistics.same_runs(facts, facts[facts.varied != ""])]
    lines = []
    for on, kind in SWITCHED.items():
        names = ("training", "method", "varied")
        some = facts[_are(facts, dict(zip(names, kind, strict=True)))]
        if kind[2] in ("cross_weight", "contrast"):
            some = some[some[kind[2]] == 0]
        if len(some):
            parts = {part: "yes" * int(bit) for part, bit in zip(PARTS, on, strict=True)}
            lines.append(parts | _cells(some) | statistics.runs(some))
    return pd.DataFrame(lines)


def balance_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Every training and strategy with balanced batches and with batches as the labels come.

    Balanced: the labelled half of a batch holds every class equally often. Pooled ± standard
    deviation over runs; empty where balance was not varied, without the lines of loops that
    `22_active_learning_rounds` did not run.
    """
    drawn = facts[facts.varied.str.contains("balance_classes")]
    balanced = facts[(facts.varied == "") & statistics.same_runs(facts, drawn)]
    names = ["training", "method"]
    same = pd.MultiIndex.from_frame(balanced[names]).isin(pd.MultiIndex.from_frame(drawn[names]))
    both = pd.concat([balanced[same], drawn])
    order = {"training": [*TRAININGS], "method": [*STRATEGIES], "balanced": ["yes", ""]}
    both = both.assign(balanced=both.varied.map(lambda rules: "" if rules else "yes"))
    both = both.sort_values([*order], key=lambda c: c.map(order[c.name].index), kind="stable")
    by = {"training": "training", "method": "strategy", "balanced": "balanced batches"}
    return line_per_group(both, by, _cells, sort=False).replace({"strategy": STRATEGIES})


def ablated_datasets(facts: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By dataset the lines among which a rule was varied, heads on frozen features."""
    some = facts[facts.network != "fine-tune"]
    return {name: df for name, df in some.groupby("dataset") if (df.varied != "").any()}


def robustness_lines(facts: pd.DataFrame) -> pd.DataFrame:
    """Methods measured under shifts, with their unshifted lines, for `plots.robustness`.

    Columns beside those of the facts: shift ("" for none) and zero_shot, the accuracy of the
    zero-shot labels of the same VLM, seed and fold at that shift. Empty where nothing was shifted.
    """
    moved = facts.varied == "shift"
    keys = pd.MultiIndex.from_frame(facts[["method", "variant"]])
    unmoved = (facts.varied == "") & keys.isin(keys[moved])
    unmoved &= statistics.same_runs(facts, facts[moved])
    lines = facts[moved | unmoved].assign(shift=lambda some: some.value)
    runs = ["vlm", "seed", "fold", "shift"]
    zero_shot = lines[lines.method == "zero-shot"].set_index(runs).accuracy
    return lines.join(zero_shot.rename("zero_shot"), on=runs)
