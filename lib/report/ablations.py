"""What is varied in the ablations of VLM-CPL and of UniSAL."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from lib.consensus import CLUSTER_RULES, QUOTAS, SETTINGS, TIE_BREAKS

# One rule at a time, but for those that are in one dictionary.
VLM_CPL_GRID: tuple[dict[str, Sequence], ...] = (
    {"filters": ("", "mvc", "pfc", "mvc+pfc", "pfc+mvc")},
    {"n_views": (1, 2, 5, 10, 30)},
    {"keep_ratio": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)},
    {"tie_break": TIE_BREAKS, "quota": QUOTAS},
    {"cluster_on": ("projected", "unprojected")},
    {"cluster_rule": CLUSTER_RULES},
    {"clusters_per_class": (1, 2, 3, 5)},
    {"threshold": (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)},
    {"hcs_weight": (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)},
)
# Of UniSAL; a weight w of 0 is training without the other view, a contrast β of 0 without contrast.
UNISAL_GRID: tuple[dict[str, Sequence], ...] = (
    {"strategy": ("unisal", "dus", "cs", "unisal-wide")},
    {"tau": (0.5, 0.7, 0.95)},
    {"cps_weight": (0.0, 0.5, 1.0)},
    {"contrast": (0.0, 0.1, 0.5)},
    {"query_share": (0.01, 0.02, 0.05)},
    {"restart": (True, False)},
)


def our_rules(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The rules that VLM-CPL runs with in our setting. settings: of a run (`Run.settings`)."""
    names = ("n_views", "keep_ratio", "threshold", "hcs_weight")
    fixed = {"filters": "mvc+pfc"}
    return {name: settings[name] for name in names} | fixed | SETTINGS["ours"]


def chosen_rules(
    grid: Sequence[Mapping[str, Sequence]], names: str
) -> list[Mapping[str, Sequence]]:
    """The entries of a grid that vary one of the named rules; all of them for "".

    names: by comma, as in a parameters file; names of the other grid are passed over, so that one
    line can choose for both methods. Raises ValueError for a name that is in neither grid, and when
    no entry is left.
    """
    wanted = {name.strip() for name in names.split(",")} - {""}
    known = {name for values in (*VLM_CPL_GRID, *UNISAL_GRID) for name in values}
    chosen = [values for values in grid if not wanted or wanted & set(values)]
    if wanted - known or not chosen:
        here = ", ".join(name for values in grid for name in values)
        raise ValueError(f"rules {names!r}: the rules that are varied here are {here}")
    return chosen


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
