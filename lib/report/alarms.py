"""How often the label-free alarm of VLM-CPL was right, from rows of the record."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.report.statistics import fold_of

# A run has failed if it is more than this below full supervision, or finds no tile of a class.
TOLERATED = 0.05


def alarm_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One line per run of VLM-CPL that could raise an alarm and has a full supervision beside it.

    rows: any of the record; looked at are those of `vlm-cpl` on the test set with a list `alarms`
    under labels. Beside each stands full supervision of the same dataset, VLM, fold, seed, network
    and shift; a row without one is left out, and so is one of an ablation. Columns: dataset, vlm,
    setting, fold, seed, shifted (bool), alarms (names), raised, failed (bool).
    """
    tested = [row for row in rows if row["split"] == "test" and row["training"] is None]
    full = {_run(row): row for row in tested if row["method"] == "full-supervision"}
    lines = []
    for row in tested:
        alarms = (row["labels"] or {}).get("alarms")
        varied = row["params"].get("varied", [])
        if row["method"] != "vlm-cpl" or alarms is None or _run(row) not in full:
            continue
        if varied in ([], ["shift"]):
            line = {name: row[name] for name in ("dataset", "vlm", "seed")}
            line |= {"setting": row["setting"] or "", "fold": fold_of(row)}
            line |= {"shifted": bool(varied), "alarms": tuple(alarms)}
            lines.append(line | {"raised": bool(alarms), "failed": _failed(row, full[_run(row)])})
    return pd.DataFrame(lines)


def _run(row: Mapping[str, Any]) -> tuple:
    condition = {name: row["params"].get(name) for name in row["params"].get("varied", ())}
    fields = (row[name] for name in ("dataset", "vlm", "network", "seed"))
    return (*fields, fold_of(row), json.dumps(condition, sort_keys=True))


def _failed(row: Mapping[str, Any], full: Mapping[str, Any]) -> bool:
    behind = full["scores"]["accuracy"] - row["scores"]["accuracy"]
    lost = any(recall == 0 for recall in row["scores"].get("recall", {}).values())
    return behind > TOLERATED + 1e-9 or lost


def alarm_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One line per dataset, setting and whether tiles were shifted, and one of all per setting."""
    if frame.empty:
        return frame
    lines = []
    for setting, of_setting in frame.groupby("setting"):
        for (dataset, shifted), runs in of_setting.groupby(["dataset", "shifted"]):
            where = {"dataset": dataset, "setting": setting, "tiles": "shifted" if shifted else ""}
            lines.append(where | _counts(runs))
        lines.append({"dataset": "all", "setting": setting, "tiles": ""} | _counts(of_setting))
    return pd.DataFrame(lines)


def kinds_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One line per kind of alarm: in how many runs it was raised, and how many of them failed."""
    if frame.empty or not frame.raised.any():
        return pd.DataFrame()
    each = frame.assign(alarms=frame.alarms.map(lambda names: sorted(set(names))))
    each = each.explode("alarms").dropna(subset="alarms")
    return pd.DataFrame(
        {"alarm": name, "setting": setting, "raised": str(len(failed)), "right": str(failed.sum())}
        for (name, setting), failed in each.groupby(["alarms", "setting"]).failed
    )


def _counts(runs: pd.DataFrame) -> dict[str, str]:
    raised, failed = runs.raised, runs.failed
    counts = {
        "runs": len(runs),
        "true alarms": (raised & failed).sum(),
        "false alarms": (raised & ~failed).sum(),
        "misses": (~raised & failed).sum(),
        "rightly silent": (~raised & ~failed).sum(),
    }
    return {name: str(count) for name, count in counts.items()}
