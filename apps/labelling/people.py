"""Several people: how far they agree, and which tiles they see differently."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from apps.labelling.answers import standing
from lib.labels import NONE_OF_THESE

ASK = ("query", "second", "disputed", "audit")


def side_by_side(lines: pd.DataFrame) -> pd.DataFrame:
    """Show what each person says of each tile: a row per digest, a column per person.

    A class name or `NONE_OF_THESE`; NaN where the person has not judged the tile.
    """
    judged = standing(lines).query("action == 'label'")
    judged = judged.assign(label=judged.label.fillna(NONE_OF_THESE))
    return judged.pivot(index="tile", columns="who", values="label").rename_axis(columns=None)


def seen_differently(lines: pd.DataFrame) -> pd.DataFrame:
    """Take the rows of `side_by_side` in which people differ."""
    table = side_by_side(lines)
    return table[table.nunique(axis=1) > 1]


def agreement(lines: pd.DataFrame) -> pd.DataFrame:
    """Compare each two people: tiles that both judged, the share seen alike, and Cohen's κ.

    κ = (p_o − p_e) / (1 − p_e), with p_e the agreement of chance (Cohen 1960); "none of these" is a
    class of its own. NaN where both use one and the same class throughout, which leaves κ open.
    """
    from sklearn.metrics import cohen_kappa_score

    table, rows = side_by_side(lines), []
    for one, other in combinations(table.columns, 2):
        both = table[[one, other]].dropna().astype(str)
        varied = len(np.unique(both.values)) > 1
        kappa = cohen_kappa_score(both[one], both[other]) if varied else np.nan
        share = (both[one] == both[other]).mean() if len(both) else np.nan
        rows.append((one, other, len(both), share, kappa))
    return pd.DataFrame(rows, columns=["one", "other", "tiles", "alike", "kappa"])


def progress(lines: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Count for each person the tiles of each class, none of these and skipped; median seconds."""
    latest = standing(lines)
    said = latest.label.fillna(NONE_OF_THESE).where(latest.action == "label", "skipped")
    columns = [*class_names, NONE_OF_THESE, "skipped"]
    counts = pd.crosstab(latest.who, said).reindex(columns=columns, fill_value=0)
    seconds = latest.seconds.groupby(latest.who).median()
    return counts.assign(**{"median seconds": seconds}).rename_axis(index=None, columns=None)


def to_reread(lines: pd.DataFrame, who: str, ask: str) -> list[str]:
    """List digests of tiles that a person is asked for beside the queries.

    ask: "second" for tiles that others have judged and this person has not, "disputed" for those
    that people see differently; nothing for "query" and "audit".
    """
    if ask == "disputed":
        return list(seen_differently(lines).index)
    if ask != "second":
        return []
    latest = standing(lines)
    mine = set(latest.tile[latest.who == who])
    judged = latest[latest.action == "label"].tile.drop_duplicates()
    return [tile for tile in judged if tile not in mine]
