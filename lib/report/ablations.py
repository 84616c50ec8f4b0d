"""What is varied in the ablations of VLM-CPL and of UniSAL."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from lib.consensus import QUOTAS, TIE_BREAKS

# One rule at a time, but for those that are in one dictionary.
VLM_CPL_GRID: tuple[dict[str, Sequence], ...] = (
    {"filters": ("", "mvc", "pfc", "mvc+pfc", "pfc+mvc")},
    {"n_views": (1, 2, 5, 10, 30)},
    {"keep_ratio": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)},
    {"tie_break": TIE_BREAKS, "quota": QUOTAS},
    {"cluster_on": ("projected", "unprojected")},
    {"clusters_per_class": (1, 2, 4)},
    {"threshold": (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)},
    {"weight": (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)},
)
# Of the target, towards pale haematoxylin (`staining.restain` with the opposite sign: away from the
# laboratory that lc25k's stand-in knows); 0 is the comparison itself.
STAIN_SHIFTS = (0.5, 1.0, 1.5, 2.0)
# Of UniSAL; a weight of 0 is training without the other view, a contrast of 0 without contrast.
UNISAL_GRID: tuple[dict[str, Sequence], ...] = (
    {"strategy": ("unisal", "dus", "cs", "unisal-wide")},
    {"tau": (0.5, 0.7, 0.95)},
    {"weight": (0.0, 0.5, 1.0)},
    {"contrast": (0.0, 0.1, 0.5)},
    {"query_share": (0.01, 0.02, 0.05)},
    {"restart": (True, False)},
)


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
