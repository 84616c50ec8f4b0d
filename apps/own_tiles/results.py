"""Tables of own tiles: what was predicted for each file, in each group, and from what."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.artefacts import atomic, digest_of


def predictions(
    table: pd.DataFrame,
    probs: np.ndarray,
    class_names: Sequence[str],
    others: Sequence[str] = (),
) -> pd.DataFrame:
    """Table the predictions by file: path, group, class, confidence, copy_of, p(class) of each.

    table: of a `TileFolder`; probs: [tiles, C], by tile number; others: those of the names that
    are other tissue. Where there are any, a column `other_tissue` says whether the class is one.
    `copy_of` names the first of equal files, and is empty for that one.
    """
    file_probs = probs[table.tile]
    first = table.groupby("tile").path.transform("first")
    predicted = table[["path", "group"]].assign(
        **{"class": np.array(class_names, dtype=object)[file_probs.argmax(1)]},
        confidence=file_probs.max(1),
        copy_of=first.where(first != table.path, ""),
    )
    if others:
        predicted["other_tissue"] = predicted["class"].isin(list(others))
    columns = [f"p({name})" for name in class_names]
    return pd.concat([predicted, pd.DataFrame(file_probs, table.index, columns)], axis=1)


def per_file(table: pd.DataFrame, unique: pd.DataFrame) -> pd.DataFrame:
    """Give each file the columns of its tile, copies included."""
    columns = unique.drop(columns=["path", "group", "digest"])
    return table.merge(columns, on="tile").drop(columns="tile")


def per_group(predicted: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Count the files of each group and the share of them that each class has.

    predicted: from `predictions`. Columns: group, files, share(class) for each class.
    """
    shares = pd.crosstab(predicted.group, predicted["class"], normalize="index")
    shares = shares.reindex(columns=list(class_names), fill_value=0.0)
    shares.columns = [f"share({name})" for name in class_names]
    shares.insert(0, "files", predicted.groupby("group").size())
    return shares.reset_index()


def per_case(
    slides: pd.Series, slide_of: np.ndarray, probs: pd.DataFrame, class_names: Sequence[str]
) -> pd.DataFrame:
    """Give each case the mean of the probabilities of its tiles that count.

    Every such tile weighs the same, whichever slide it is of, as for the mean of a slide. Columns:
    case, class, slides, tiles (that count), and those of `probs`; of a case without such a tile the
    class is "" and they are NaN.

    Parameters
    ----------
    slides : the case of each slide, by slide
    slide_of : [tiles], the slide of each
    probs : [tiles, C], a column per class; NaN where a tile does not count
    class_names : C names

    """
    cases = slides.value_counts().sort_index()
    of_case = probs.groupby(slides.reindex(slide_of).to_numpy())
    means, counts = of_case.mean().reindex(cases.index), of_case.count().iloc[:, 0]
    best = np.where(means.isna().all(axis=1), -1, np.nan_to_num(means).argmax(1))
    table = pd.DataFrame({"case": cases.index})
    table["class"] = np.array([*class_names, ""], dtype=object)[best]
    table["slides"] = cases.to_numpy()
    table["tiles"] = counts.reindex(cases.index, fill_value=0).to_numpy()
    return pd.concat([table, means.reset_index(drop=True)], axis=1)


def cases_of_folders(predicted: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Table of `per_case`, where the first folder of a path is the case, the whole of it the slide.

    predicted: from `predictions`, with folders as groups. Copies count once in a case, other tissue
    never.
    """
    slides = predicted.group.drop_duplicates()
    slides = slides.str.partition("/")[0].set_axis(slides)
    first = predicted.copy_of.where(predicted.copy_of != "", predicted.path)
    copies = pd.DataFrame({"case": predicted.group.map(slides), "first": first}).duplicated()
    once = predicted[~copies]
    probs = once[[f"p({name})" for name in class_names]]
    if "other_tissue" in once:
        probs = probs.div(probs.sum(axis=1), axis=0).mask(once.other_tissue)
    return per_case(slides, once.group.to_numpy(), probs, class_names)


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame | None]) -> None:
    """Write each table to `<name>.csv`; for None or no rows, remove that of an earlier run."""
    for name, table in tables.items():
        if table is None or not len(table):
            (folder / f"{name}.csv").unlink(missing_ok=True)
            continue
        with atomic(folder / f"{name}.csv") as file:
            table.to_csv(file, index=False, float_format="%.4f")


def made_from(unique: pd.DataFrame, labels: str, **settings: Any) -> dict[str, Any]:
    """Note what decides a result besides the model and the prompts, to be recognised later.

    unique: path and digest of the tiles that are listed; labels: a file, or "".
    """
    labelled = digest_of({}, Path(labels).expanduser()) if labels else ""
    files = unique[["path", "digest"]].values.tolist()
    return {"tiles": digest_of({"files": files}), "labels": labelled, **settings}
