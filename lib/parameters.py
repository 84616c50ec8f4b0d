"""Parameters of notebooks: their defaults, what differs for a dataset, and checks of both.

A notebook's parameters and their defaults stand in its cell tagged `parameters`, and nowhere else.
`notebooks/params/<dataset>.yaml` holds what differs for a dataset: `name: value` for all notebooks
that declare the name, and below a notebook's name what holds for that notebook alone. Between
which bounds a number lies stands in `RANGES`, by its name.
"""

import ast
import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lib import paths
from lib.yaml_files import read_yaml

CELL = re.compile(r'^# %% tags=\["parameters"\]\n(.*?)(?=^# %%|\Z)', re.MULTILINE | re.DOTALL)
SHARE, COUNT = (0, 1), (1, 10**6)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys("contrast hue min_stained own_weight threshold tolerance".split(), SHARE),
    **dict.fromkeys("keep_ratio label_share query_share".split(), (1e-6, 1)),
    **dict.fromkeys("cross_weight pseudo_counts".split(), (0, 1e6)),
    **dict.fromkeys("n_labels n_rounds n_steps full_steps round_steps slide_steps".split(), COUNT),
    **dict.fromkeys("steps query_size audit_size tiles_per_slide n_encoded".split(), COUNT),
    **dict.fromkeys("batch_size n_features n_worlds n_classes at_least parts".split(), (1, 10**5)),
    **dict.fromkeys("image_size fine_tune_size".split(), (32, 2048)),
    **{"n_views": (1, 1000), "tile_mpp": (0.05, 10), "seed": (0, 2**32 - 1)},
    **{"fold": (0, 1000), "part": (-1, 10**5)},
}


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Read names and default values from the notebook's one cell tagged `parameters`.

    Raises ValueError for more or fewer such cells, and for a line that is not `name = literal`.
    """
    tagged = CELL.findall(notebook.read_text())
    if len(tagged) != 1:
        raise ValueError(f"{notebook} has {len(tagged)} cells tagged 'parameters', not one")
    defaults = {}
    for line in ast.parse(tagged[0]).body:
        try:
            assert isinstance(line, ast.Assign)
            (target,) = line.targets
            assert isinstance(target, ast.Name)
            defaults[target.id] = ast.literal_eval(line.value)
        except (AssertionError, ValueError) as error:
            raise ValueError(
                f"{notebook}: the parameters cell holds more than `name = literal`: "
                + ast.unparse(line)
            ) from error
    return defaults


def resolve_parameters(notebook: Path, passed: Mapping[str, Any]) -> dict[str, Any]:
    """Join defaults, what the dataset's parameter file says, and what is passed; the last wins.

    A vlm that is passed as "" is that of the dataset, and "@encoder" puts an encoder beside it.
    Raises ValueError, naming the valid ones, for a name that the notebook does not declare (in a
    parameter file: no notebook), for a value of another type than the default, and for a number
    beyond its `RANGES`.
    """
    defaults = declared_parameters(notebook)
    passed = _checked(passed, defaults, notebook.stem)
    file = paths.params_file(str(passed.get("dataset", defaults.get("dataset"))))
    from_file = _of_dataset(file, notebook) if file.is_file() else {}
    before = defaults | _checked(from_file, defaults, f"{file} for {notebook.stem}")
    if not (vlm := passed.get("vlm", "told")) or vlm.startswith("@"):
        passed["vlm"] = before["vlm"] + vlm
    resolved = before | passed
    return {n: float(v) if type(defaults[n]) is float else v for n, v in resolved.items()}


def default_vlm(dataset: str, told: str = "") -> str:
    """The VLM that a dataset's parameters name, or what is told; see `resolve_parameters`."""
    passed = {"dataset": dataset, "vlm": told}
    return resolve_parameters(paths.notebook_file("40_record"), passed)["vlm"]


def near_names(name: str, names: Iterable[str]) -> str:
    """Names like one that there is not, for an error; all of them where none is like it."""
    near = get_close_matches(name, names := list(names), cutoff=0.6)
    return f": did you mean {' or '.join(near)}?" if near else f": there are {', '.join(names)}"


def _of_dataset(file: Path, notebook: Path) -> dict[str, Any]:
    """What a parameter file says for one notebook; its own section wins over common names."""
    declared_by = {
        f.stem: declared_parameters(f) for f in sorted(notebook.parent.glob("[0-9]*.py"))
    }
    common = read_yaml(file) or {}
    if not isinstance(common, dict):
        raise ValueError(f"{file} must hold named fields")
    sections = {name: common.pop(name) for name, v in [*common.items()] if isinstance(v, dict)}
    for name in [name for name in common if name in declared_by]:
        raise ValueError(f"{file}: {name} must hold named fields, not {common[name]!r:.80}")
    for name, section in sections.items():
        if name not in declared_by:
            raise ValueError(
                f"{file}: there is no notebook {name!r}{near_names(name, declared_by)}"
            )
        _checked(section, declared_by[name], f"{file}, {name}")
    for name in common:
        defaults = {
            stem: declared[name] for stem, declared in declared_by.items() if name in declared
        }
        _checked(
            {name: common[name]}, {n: v for d in declared_by.values() for n, v in d.items()}, file
        )
        if len({*map(repr, defaults.values())}) > 1:
            raise ValueError(
                f"{file}: {name!r} is another parameter in each of {', '.join(defaults)}: "
                "write it below the name of the notebook that is meant"
            )
    here = declared_by[notebook.stem]
    return {n: v for n, v in common.items() if n in here} | sections.get(notebook.stem, {})


def _checked(
    values: Mapping[str, Any], declared: Mapping[str, Any], where: str | Path
) -> dict[str, Any]:
    """Values that fit what is declared; 1e-3, which YAML 1.1 takes for a word, is a number."""
    checked = {}
    for name, value in values.items():
        if name not in declared:
            raise ValueError(f"{where}: unknown parameter {name!r}{near_names(name, declared)}")
        wanted = type(declared[name])
        exponent = isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value)
        if exponent and wanted is float:
            value = float(value)
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise ValueError(
                f"{where}: parameter {name!r} must be {wanted.__name__} like "
                f"{declared[name]!r}, not {value!r}"
            )
        low, high = RANGES.get(name, (-math.inf, math.inf))
        if wanted in (int, float) and not low <= value <= high:
            raise ValueError(
                f"{where}: parameter {name!r} must be {low:g} … {high:g}, not {value!r}"
            )
        checked[name] = value
    return checked
