"""Ablations of both methods: what is varied, and tables and curves of it from the record."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import pandas as pd

from lib.consensus import CLUSTER_RULES, LABEL_RULES, QUOTAS, TIE_BREAKS, VARIANTS
from lib.report import comparison, statistics
from lib.report.active_learning import STRATEGIES, TRAININGS, curves, in_order, rounds
from lib.report.format import mean_std, pooled_std

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
    """What the ablations of a method vary, and how a line is scored.

    base: of the unvaried lines those that differ in one rule at most; tables: rules that have a
    table, two at once where they belong together; axes: rules that are numbers, and their names.
    """

    base: Callable[[pd.DataFrame], pd.Series]
    mark: tuple[str, str]  # title of the column that marks unvaried lines, and its cell
    tables: tuple[tuple[str, ...], ...]
    axes: Mapping[str, str]


VLM_CPL = Ablated(
    base=lambda facts: (facts.method == "vlm-cpl") & (facts.variant == "ours"),
    mark=("ours", "ours"),
    tables=(
        ("label_rule",),
        ("tie_break", "quota"),
        ("filters",),
        ("cluster_on",),
        ("cluster_rule",),
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
    base=lambda facts: (facts.training == "dual-view") & (facts.method == "unisal"),
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
    within = [rules != "" and {*rules.split(", ")} <= {*names} for rules in facts.varied]
    varied = pd.Series(within, facts.index, dtype=bool)
    same_method = facts.method.eq("vlm-cpl") if of is VLM_CPL else facts.training.eq("dual-view")
    if of is UNISAL and names != ("strategy",):
        same_method &= facts.method == "unisal"
    varied &= same_method
    unvaried = of.base(facts) & (facts.varied == "") & statistics.same_runs(facts, facts[varied])
    return facts[varied | unvaried].sort_values([*names, "fold", "seed"], kind="stable")


def ablation_table(facts: pd.DataFrame, of: Ablated, *names: str) -> pd.DataFrame:
    """One line per combination of values, pooled ± standard deviation over runs."""
    lines = []
    chosen = ablation(facts, of, *names)
    for values, some in chosen.groupby(list(names), sort=of is UNISAL) if len(chosen) else ():
        line = {name: str(value) or "none" for name, value in zip(names, values, strict=True)}
        line[of.mark[0]] = of.mark[1] if (some.varied == "").any() else ""
        lines.append(line | _cells(some))
    return pd.DataFrame(lines)


def ablation_tables(facts: pd.DataFrame, of: Ablated) -> list[pd.DataFrame]:
    """Parts on and off, then every rule that is no number or has a table, as far as varied."""
    tables = [ablation_table(facts, of, *names) for names in of.tables]
    if of is VLM_CPL:
        on_off = on_off_table(facts) if len(ablation(facts, of, "filters")) else pd.DataFrame()
        tables = [on_off, *tables, hue_table(facts)]
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
        each = rounds(some)
        last = each.loc[each.groupby(["seed", "fold"])["round"].idxmax()]
        cells = {"AULC": pooled_std(areas)}
        cells["AULC, balanced accuracy"] = pooled_std(areas, "balanced_accuracy")
        return cells | {"accuracy at the end": pooled_std(last)} | statistics.runs(some)
    known = (
        {"pseudo-label precision": mean_std(some.precision)} if some.precision.notna().all() else {}
    )
    return known | {"accuracy": pooled_std(some)} | statistics.runs(some)


def on_off_table(facts: pd.DataFrame) -> pd.DataFrame:
    """MVC, PFC and HCS on and off in all eight ways, our rules, pooled ± standard deviation.

    Without HCS: plain training on the labels that are left. HCS without a filter: all tiles are
    labelled and all are cross-supervised too.
    """
    plain = {"": "ce-lift", "mvc": "ce-mvc", "pfc": "ce-pfc", "mvc+pfc": "ce-kept"}
    crossed = ablation(facts, VLM_CPL, "filters")
    lines = []
    for filters, method in plain.items():
        without = facts[(facts.method == method) & facts.variant.isin(["", "ours"])]
        without = without[(without.varied == "") & statistics.same_runs(without, crossed)]
        for hcs, some in (("", without), ("yes", crossed[crossed.filters == filters])):
            if len(some):
                on = {name.upper(): "yes" if name in filters else "" for name in ("mvc", "pfc")}
                scored = {"accuracy": pooled_std(some)} | statistics.runs(some)
                lines.append(on | {"HCS": hcs} | scored)
    return pd.DataFrame(lines)


def hue_table(facts: pd.DataFrame) -> pd.DataFrame:
    """VLM-CPL in both variants with other colour jitter, pooled ± standard deviation over runs.

    The hue of the views changes the votes and what the networks see. Empty where it was not varied.
    """
    varied = facts[facts.varied == "hue"]
    base = facts[(facts.varied == "") & statistics.same_runs(facts, varied)]
    both = pd.concat([base, varied])
    both, lines = both[both.method == "vlm-cpl"], []
    for (variant, hue), some in both.groupby(["variant", "hue"]) if len(varied) else ():
        line = {"setting": variant, "hue": f"± {hue:g}", "accuracy": pooled_std(some)}
        line["balanced accuracy"] = pooled_std(some, "balanced_accuracy")
        if some.precision.notna().all():
            line["pseudo-label precision"] = mean_std(some.precision)
        lines.append(line | statistics.runs(some))
    return pd.DataFrame(lines)


def unisal_on_off_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Cross supervision, contrast, DUS and CS on and off, pooled ± standard deviation over runs.

    All on, each one off, both of a kind off, all off. Without DUS all unlabelled tiles are
    clustered, without CS chance chooses in the disagreement set, without both among all.
    """
    rules = {
        "1111": ("dual-view", "unisal", ""),
        "0111": ("dual-view", "unisal", "cross_weight"),
        "1011": ("dual-view", "unisal", "contrast"),
        "1101": ("dual-view", "cs", "strategy"),
        "1110": ("dual-view", "dus", "strategy"),
        "1100": ("dual-view", "random", ""),
        "0011": ("supervised", "unisal", ""),
        "0000": ("supervised", "random", ""),
    }
    ablated = statistics.same_runs(facts, facts[facts.varied != ""])
    lines = []
    for on, (training, method, varied) in rules.items():
        some = facts[(facts.training == training) & (facts.method == method)]
        some = some[(some.varied == varied) & ablated[some.index]]
        if varied not in ("", "strategy"):
            some = some[some[varied] == 0]
        if len(some):
            names = ("cross supervision", "contrast", "DUS", "CS")
            line = {name: "yes" * int(bit) for name, bit in zip(names, on, strict=True)}
            lines.append(line | _cells(some))
    return pd.DataFrame(lines)


def balance_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Every training and strategy with balanced batches and with batches as the labels come.

    Balanced: the labelled half of a batch holds every class equally often. Pooled ± standard
    deviation over runs; empty where balance was not varied, without the lines of loops that
    `22_active_learning_rounds` did not run.
    """
    drawn = facts[facts.varied.str.contains("balance_classes")]
    balanced = facts[(facts.varied == "") & statistics.same_runs(facts, drawn)]
    lines = []
    for training, method in in_order(drawn):
        for title, some in (("yes", balanced), ("", drawn)):
            some = some[(some.training == training) & (some.method == method)]
            if len(some):
                line = {"training": training, "strategy": STRATEGIES[method]}
                lines.append(line | {"balanced batches": title} | _cells(some))
    return pd.DataFrame(lines)


def with_unchanged(
    trials: Sequence[dict[str, Any]], own: Mapping[str, Any], before: pd.DataFrame
) -> list[dict[str, Any]]:
    """The trials, after the loop that varies nothing where the run does not have it yet.

    trials, own: see `ablation_grid`; before: facts of the run.
    """
    unchanged = (before.varied == "") & (before.method == own["strategy"])
    unchanged &= before.training == own["training"]
    return [*trials] if unchanged.any() else [{**own, "varied": []}, *trials]


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
