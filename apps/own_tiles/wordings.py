"""How the labels of own tiles depend on the words and on the model: seen without a label.

Images are encoded once for each model, every wording costs its text alone. A tile is looked at once
where `make own` takes random views of it; labels, clusters and alarms are ours (`lib.consensus`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from apps.own_tiles import gallery
from apps.own_tiles.steps import encode_once, prompts_of_classes
from lib import clusters, paths
from lib.alarm import Alarm, label_free_alarms
from lib.consensus import VARIANTS, FilterInputs, label_tiles, multi_view_consensus
from lib.vlm.prompts import PAPERS, fill, parse_templates
from lib.yaml_files import read_yaml

if TYPE_CHECKING:
    from lib.vlm.inference import VLM

OURS = VARIANTS["ours"]
PER_CLASS, SHOWN = 12, 6  # tiles and prompts that are shown
SAME = "same by all"
YOURS, ALONE = "yours", "words alone"
Wording = dict[str, list[str]]  # prompts of each class


def published_templates() -> dict[str, list[str]]:
    """Sets of templates by name, of `data/templates.yaml`."""
    return {name: entry["templates"] for name, entry in read_yaml(paths.templates_file()).items()}


def read_wordings(classes: str, templates: str, *, demo: bool) -> dict[str, Wording]:
    """The same classes in several wordings, by name; the first is what `make own` takes.

    That is the templates that are given, or the papers'; then the words alone, all published sets,
    and, where a class has several words, the first wording with each of them alone.
    classes, templates, demo: as for `steps.prompts_of_classes`, which raises ValueError.
    """
    own = parse_templates(templates)
    sets = {YOURS: own} if own else {}
    sets |= published_templates() | {ALONE: ["{}"]}
    found = {
        name: prompts_of_classes(classes, "", "; ".join(wording), demo=demo)[0]
        for name, wording in sets.items()
    }
    first = next(iter(found))
    for name, words in found[ALONE].items():
        for word in words if len(words) > 1 else ():
            (alone,) = fill([[word]], own or [PAPERS])
            found[f"{name}: {word}"] = found[first] | {name: alone}
    return found


def encode(model: "VLM", pixels: Path, unique: pd.DataFrame, folder: Path) -> None:
    """Write the features of all tiles to a folder, unless they are there; see `embed_tiles`."""
    from lib.vlm.inference import embed_tiles

    encode_once(model, unique, folder, lambda: embed_tiles(model, pixels, {}, folder), {})


@dataclass(frozen=True, eq=False)
class Reading:
    """What one model makes of the tiles by one wording.

    labels: int [N], by the prompts (by lift); cluster_labels: int [N], of each tile's cluster;
    kept: bool [N], what the filters would keep, with one look at a tile.
    """

    labels: np.ndarray
    cluster_labels: np.ndarray
    kept: np.ndarray
    alarms: Sequence[Alarm]


def read_tiles(
    model: "VLM", folder: Path, wordings: Mapping[str, Wording], *, seed: int
) -> dict[str, Reading]:
    """Label the tiles that `encode` wrote to the folder, by each wording.

    All tiles are clustered, once; only the class of a cluster depends on the words.
    """
    import torch

    from lib.vlm.inference import embed_prompts, member_probabilities

    features, embeds = (
        np.load(folder / f"{name}.npy", allow_pickle=False).astype(np.float32)
        for name in ("backbone_features", "image_embeds")
    )
    names = list(next(iter(wordings.values())))
    tiles = np.arange(len(embeds))
    found = clusters.cluster_features(features, OURS.clusters_per_class * len(names), seed=seed)
    readings = {}
    for wording, prompts in wordings.items():
        text = embed_prompts(model, list(prompts.values())).cpu()
        members = member_probabilities(model, torch.from_numpy(embeds), text).numpy()
        probs = members.mean(0)
        inputs = FilterInputs(
            tiles=tiles,
            prompt_labels=probs.argmax(1),
            confidence=probs.max(1),
            votes=probs.argmax(1)[None],
            view_probs=probs,
            candidates=(members.argmax(2) == members[0].argmax(1)).all(0),
            seed=seed,
        )
        labels, lift = label_tiles(inputs, OURS), clusters.cluster_lift(found, probs)
        of_clusters = clusters.classes_by_lift(lift)[found]
        kept = multi_view_consensus(inputs, OURS, labels) & (labels == of_clusters)
        alarms = label_free_alarms(probs, labels, kept, found, lift, names)
        readings[wording] = Reading(labels, of_clusters, kept, alarms)
    return readings


# --- tables ---------------------------------------------------------------------------------------


def wordings_table(readings: Mapping[str, Mapping[str, Reading]]) -> pd.DataFrame:
    """A row for each model and wording. readings: by model and wording, the first ones compared to.

    Columns: model, wording, labels that change (against the model's first wording), with several
    models other than <the first> (by the same wording), clusters agree, kept (all shares of the
    tiles), alarms (how many).
    """
    first_model, first_wording = next(iter(readings)), next(iter(next(iter(readings.values()))))
    rows = []
    for model, by_wording in readings.items():
        for wording, reading in by_wording.items():
            other = readings[first_model][wording].labels
            row = {
                "model": model,
                "wording": wording,
                "labels that change": np.mean(reading.labels != by_wording[first_wording].labels),
                f"other than {first_model}": np.mean(reading.labels != other),
                "clusters agree": np.mean(reading.labels == reading.cluster_labels),
                "kept": reading.kept.mean(),
                "alarms": len(reading.alarms),
            }
            rows.append(row)
    table = pd.DataFrame(rows)
    return table if len(readings) > 1 else table.drop(columns=f"other than {first_model}")


def classes_table(by_wording: Mapping[str, Reading], names: Sequence[str]) -> pd.DataFrame:
    """A column for each class by one model, those whose tiles change most with the words first.

    Rows: same by all (of the tiles that any wording calls so, the share that all do), then for each
    wording how many tiles it calls so, with the share of them whose clusters agree.
    """
    labels = np.stack([reading.labels for reading in by_wording.values()])
    columns, same = {}, {}
    for c, name in enumerate(names):
        ever = (labels == c).any(0).sum()
        same[name] = (labels == c).all(0).sum() / ever if ever else np.nan
        cells = [_share(same[name])]
        for reading in by_wording.values():
            own = reading.labels == c
            agree = f" ({_share(np.mean(reading.cluster_labels[own] == c))})" if own.any() else ""
            cells.append(f"{own.sum()}{agree}")
        columns[name] = cells
    table = pd.DataFrame(columns, index=[SAME, *by_wording])
    return table[sorted(names, key=lambda name: np.nan_to_num(same[name], nan=2))]


def _share(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.0%}"


def prompts_table(wordings: Mapping[str, Wording]) -> pd.DataFrame:
    """A row for each wording: the prompts of one class, which is the one that it is about, if any.

    Of many prompts some are shown.
    """
    first, rows = next(iter(wordings.values())), []
    for wording, prompts in wordings.items():
        name = next((n for n, texts in prompts.items() if texts != first[n]), next(iter(first)))
        shown = [f"“{text}”" for text in prompts[name][:SHOWN]]
        more = [f"{len(prompts[name]) - SHOWN} more"] * (len(prompts[name]) > SHOWN)
        rows.append([wording, name, " · ".join(shown + more)])
    return pd.DataFrame(rows, columns=["wording", "class", "prompts"])


def alarms_table(
    readings: Mapping[str, Mapping[str, Reading]], names: Sequence[str]
) -> pd.DataFrame:
    """A row for each model, kind of alarm and class, with the wordings by which it rings."""
    rows: dict[tuple[str, str, str], dict[str, None]] = {}
    for model, by_wording in readings.items():
        for wording, reading in by_wording.items():
            for alarm in reading.alarms:
                name = next((n for n in names if alarm.text.startswith(f"{n}: ")), "")
                rows.setdefault((model, alarm.name, name), {})[wording] = None
    n = len(next(iter(readings.values())))
    table = [
        [*key, "all" if len(wordings) == n else ", ".join(wordings)]
        for key, wordings in rows.items()
    ]
    return pd.DataFrame(table, columns=["model", "alarm", "class", "by which wordings"])


def split_tiles(
    by_wording: Mapping[str, Reading], names: Sequence[str], n: int
) -> dict[str, pd.DataFrame]:
    """The up to `n` tiles of each class on which the wordings of a model are most divided.

    The class is what most wordings say; tiles on which all agree are none. Columns: tile, said (how
    many wordings say what).
    """
    labels = np.stack([reading.labels for reading in by_wording.values()])
    counts = np.stack([(labels == c).sum(0) for c in range(len(names))], 1)
    most, best = counts.max(1), counts.argmax(1)
    chosen = {}
    for c, name in enumerate(names):
        tiles = np.flatnonzero((best == c) & (most < len(labels)))
        tiles = tiles[np.argsort(most[tiles], kind="stable")][:n]
        said = [
            ", ".join(f"{names[k]} {counts[t, k]}" for k in np.argsort(-counts[t]) if counts[t, k])
            for t in tiles
        ]
        chosen[name] = pd.DataFrame({"tile": tiles, "said": said})
    return chosen


# --- the page -------------------------------------------------------------------------------------

NOTES = {
    "Wordings": "“labels that change”: the share of tiles to which this wording gives another "
    "class than the first line of the same model, which is what make own takes. “clusters agree”: "
    "the share whose label is that of their cluster of similar tiles. “kept”: the share of labels "
    "that the filters would keep. “alarms”: how many ring, see below.",
    "Alarms": "What can be seen to be wrong without a label, and by which wordings. An alarm that "
    "rings by all of them asks for other words, or for another model; one that rings by few is a "
    "matter of the template.",
    "Prompts": "Those of one class. The published templates are in data/templates.yaml.",
}
CLASSES = (
    "A column for each class; the one that depends most on the words stands first. “same by all”: "
    "of the tiles that any wording calls so, the share that all do. Below, for each wording the "
    "number of tiles that it calls so, and the share of them whose cluster agrees."
)


def page_facts(n_tiles: int, models: Sequence[str], wordings: Mapping[str, Wording]) -> list[str]:
    """Write the sentences at the head of the page."""
    n_classes = len(next(iter(wordings.values())))
    return [
        f"{n_tiles} tiles, {len(wordings)} wordings of the same {n_classes} classes, "
        f"model{'s' * (len(models) > 1)}: {', '.join(models)}. Nobody "
        "labelled these tiles.",
        "No line is the best one, and none was chosen: without labels nothing here says which "
        "label is right. A wording that clusters agree with may be wrong together with them, for "
        "its words name the clusters too, and one that changes many labels may be the one that is "
        "right.",
        "What is seen is where the words matter. Look first at the classes whose tiles change with "
        "the words and at those that an alarm names, and at their tiles at the end of the page: "
        "give these classes other words, by what the tiles show. Where all wordings agree, "
        "another template gains little. How often a wording is right is known only once somebody "
        "has labelled some tiles: make label.",
        "Each tile is read once here; make own reads ten random views of it, so that its numbers "
        "differ a little.",
    ]


def write_page(
    file: Path,
    *,
    title: str,
    facts: Sequence[str],
    readings: Mapping[str, Mapping[str, Reading]],
    wordings: Mapping[str, Wording],
    paths_of_tiles: Sequence[str],
    pixels: np.ndarray,
) -> None:
    """Write one HTML file with tables and the tiles on which the first model is most divided.

    readings: by model and wording; paths_of_tiles and pixels: by tile number.
    """
    names = list(next(iter(wordings.values())))
    tables = {"Wordings": wordings_table(readings)}
    tables |= {
        f"Classes, {model}": classes_table(by_wording, names).reset_index(names="wording")
        for model, by_wording in readings.items()
    }
    alarms = alarms_table(readings, names)
    tables |= {"Alarms": alarms} if len(alarms) else {}
    tables["Prompts"] = prompts_table(wordings)
    first = next(iter(readings.values()))
    chosen = split_tiles(first, names, PER_CLASS)
    gallery.render(
        file,
        "wordings.html.jinja",
        pixels,
        title=title,
        facts=facts,
        quality=("", ""),
        alarms=[],
        tables={name: table.map(_shown) for name, table in tables.items()},
        notes=dict.fromkeys(tables, CLASSES) | NOTES,
        chosen={
            name: chosen[name].assign(path=[paths_of_tiles[tile] for tile in chosen[name].tile])
            for name in classes_table(first, names)
        },
    )


def _shown(cell: object) -> object:
    return _share(cell) if isinstance(cell, float) else cell
