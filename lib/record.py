"""Rows of the record: one evaluation is one line of JSON."""

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from lib import paths
from lib.artefacts import atomic

ROW_FIELDS = (
    "dataset vlm method setting network training fold seed budget split n scores labels params "
    "commit versions device seconds"
).split()


# What is published together: it replaces what the record holds of the same.
KIND_FIELDS = "vlm seed split method training network".split()
KEY_FIELDS = "dataset vlm method setting network training fold seed budget split params".split()


def row(**fields: Any) -> dict[str, Any]:
    """One row of the record; what is not given is null, an unknown field is a TypeError."""
    unknown = set(fields) - set(ROW_FIELDS)
    if unknown:
        raise TypeError(f"not a field of the record: {', '.join(sorted(unknown))}")
    return dict.fromkeys(ROW_FIELDS) | provenance() | fields


def row_key(values: Mapping[str, Any]) -> str:
    """What makes two rows measure the same thing."""
    return json.dumps([values.get(name) for name in KEY_FIELDS], sort_keys=True)


@cache
def provenance() -> dict[str, Any]:
    """Commit and versions behind a result; a trailing `+` means uncommitted changes."""
    try:
        git = ["git", "-C", str(paths.ROOT)]
        commit = subprocess.check_output(
            [*git, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL
        )[:12]
        changed = subprocess.check_output([*git, "status", "--porcelain", "lib", "notebooks"])
        commit += "+" if changed else ""
    except (OSError, subprocess.CalledProcessError):
        commit = None
    names = ["torch", "open_clip_torch", "timm", "scikit-learn", "numpy"]
    versions = {name: metadata.version(name) for name in names}
    return {"commit": commit, "versions": {"python": platform.python_version()} | versions}


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of one notebook, replacing those that it wrote before."""
    with atomic(file) as temporary:
        temporary.write_text(_lines(rows))


HEADLINES = {
    "cold-start": "UniSAL after VLM-CPL",
    "unisal-coverage": "UniSAL",
    "vlm-cpl": "VLM-CPL",
    "zero-shot": "zero-shot",
    "mvc+pfc": "MVC, then PFC",
    "mvc": "MVC",
}


def headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """Name VLM-CPL or UniSAL in our setting and its accuracy on the test set; empty without it.

    Of notebooks before the training: zero-shot, or the precision of the pseudo labels.
    """
    for method, name in HEADLINES.items():
        rated = [row for row in rows if row["method"] == method and not _varied(row)]
        rated = [row for row in rated if row["setting"] == "ours"] or rated
        tested = [row for row in rated if row["scores"] and row["split"] == "test"]
        aligned = [row for row in tested if row["training"] in (None, "dual-view-aligned")]
        for row in sorted(aligned or tested, key=lambda row: row["budget"] or 0)[-1:]:
            labels = f", {row['budget']} labels" if row["budget"] else ""
            setting = f", {row['setting']}" if row["setting"] else ""
            return f"{name}{setting}{labels}: accuracy {row['scores']['accuracy']:.3f}"
        for row in rated[-1:]:
            if "precision" in (row["labels"] or {}):
                return f"{name}, ours: pseudo-label precision {row['labels']['precision']:.3f}"
    return ""


def _varied(row: Mapping[str, Any]) -> bool:
    return bool((row["params"] or {}).get("varied"))


def read_rows(*files: Path) -> list[dict[str, Any]]:
    """Rows of several files; a later row replaces an earlier one of the same key."""
    rows = {}
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number} is not JSON: {error}") from error
            values = _renamed(values)
            rows[row_key(values)] = values
    return list(rows.values())


RENAMED = {
    **{"hcs_weight": "13.cross_weight", "tau": "22.threshold", "cps_weight": "22.cross_weight"},
    **{"threshold": "13.threshold", "n_steps": "13.n_steps", "round_steps": "22.n_steps"},
    **{"unisal_rules": "rules", "cold_start_shifts": "shifts", "quality_shifts": "shifts"},
}


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its parameters named as today; rows of `30_cold_start` rest on 13 and on 22."""
    params = row.get("params") or {}
    if not params.keys() & {"hcs_weight", "tau"}:
        return row
    both = {"hcs_weight", "tau"} <= params.keys()
    names = {old: new if both else new.rpartition(".")[2] for old, new in RENAMED.items()}
    params = {names.get(name, name): value for name, value in params.items()}
    if "varied" in params:
        params["varied"] = [names.get(name, name) for name in params["varied"]]
    return row | {"params": params}


def write_record(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows sorted by key, so that a changed result is a changed line."""
    with atomic(file) as temporary:
        temporary.write_text(_lines(sorted(rows, key=row_key)))


def merge_record(
    before: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """What a record holds once new rows are published.

    Of the earlier rows those go that are of a kind that was run again: the same VLM, seed, split,
    method, training and network, with the same rules varied. So a record can be made seed by seed
    and notebook by notebook. Raises ValueError where the new rows lack a fold of the earlier ones.
    """
    replaced, made = _folds_by_kind(before), _folds_by_kind(rows)
    for kind in replaced.keys() & made.keys():
        lost = sorted(replaced[kind] - made[kind], key=str)
        if lost:
            _, seed, _, method, *_ = kind
            raise ValueError(
                f"{method} with seed {seed} is published with folds "
                f"{sorted(replaced[kind], key=str)}, and these runs lack {lost}: run them as well, "
                "as `make record` does"
            )
    return [row for row in before if _kind(row) not in made] + list(rows)


def _folds_by_kind(rows: Sequence[Mapping[str, Any]]) -> dict[tuple, set]:
    folds: dict[tuple, set] = {}
    for row in rows:
        folds.setdefault(_kind(row), set()).add(row["fold"])
    return folds


def _kind(row: Mapping[str, Any]) -> tuple:
    return (*(row[name] for name in KIND_FIELDS), tuple(row["params"].get("varied", ())))


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(values, allow_nan=False) + "\n" for values in rows)
