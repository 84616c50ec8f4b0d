"""Everything that is published: tables, figures and pages, from rows of the record."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from figures import sections
from figures.sections import Rows, Section, anchor, of_vlm, section_text
from lib import paths, record
from lib.artefacts import atomic
from lib.report import (
    active_learning,
    alarms,
    comparison,
    overviews,
    pseudo_labels,
    statistics,
)
from lib.report.format import markdown
from lib.slides import scores as slide_scores


@dataclass(frozen=True)
class Page:
    """All results of some datasets. about: dataset → a sentence on it and on its model."""

    about: Mapping[str, str]
    overviews: Mapping[str, pd.DataFrame]
    sections: Sequence[Section] = field(default_factory=tuple)

    def outputs(self, *topics: str) -> list[Any]:
        """Headings, tables and figures of some topics, to be displayed in a notebook."""
        from IPython.display import Markdown  # nothing but a notebook needs it

        shown: list[Any] = []
        for section in self.sections:
            if section.topic in topics:
                shown += [Markdown(f"**{section.heading}**"), *section.tables]
                shown += [section.figure] if section.figure else []
        return shown

    def text(self) -> str:
        """The page as Markdown, with a table of contents; figures are linked by their files."""
        of_all = [section for section in self.sections if not section.dataset]
        names = [*self.overviews, *(section.heading for section in of_all)]
        contents = [f"- [{name}](#{anchor(name)})" for name in names]
        shown = dict.fromkeys(s.dataset for s in self.sections if s.dataset)
        about = {name: self.about[name] for name in shown}
        for dataset in about:
            links = [f"[{s.heading.partition(': ')[2]}](#{anchor(s.heading)})"
                     for s in self.sections if s.dataset == dataset]  # fmt: skip
            contents.append(f"- [{dataset}](#{anchor(dataset)}): {', '.join(links)}")
        lines = ["# Results", INTRODUCTION, "\n".join(contents)]
        for name, table in self.overviews.items():
            lines += [f"## {name}", OVERVIEWS[name], markdown(table).rstrip()]
        lines += [section_text(section) for section in of_all]
        for dataset, sentence in about.items():
            lines += [f"## {dataset}", sentence]
            lines += [section_text(s) for s in self.sections if s.dataset == dataset]
        return "\n\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Write RESULTS.md and the figures that it links."""
        for section in self.sections:
            if section.figure:
                with atomic(folder / f"{section.file}.png") as file:
                    section.figure.savefig(file)
        with atomic(folder / "RESULTS.md") as file:
            file.write_text(self.text())


INTRODUCTION = (
    "Made from the rows of the record by `notebooks/40_record.py`; nothing here is written by "
    "hand. A dataset without a division of its own is divided once into folds that no known group "
    "(source tile, slide or case) straddles; each fold is the test set of a run that trains on all "
    "others, so no tile is tested twice. Pooled scores count right tiles over all folds, class by "
    "class for balanced accuracy, and are averaged over seeds. Intervals are of 95 %, from a "
    "bootstrap over folds and the groups in them; the seeds of a group stay together. A method is "
    "not inferior to full supervision by margins fixed beforehand: "
    f"{statistics.MARGINS['accuracy']:g} in accuracy, "
    f"{statistics.MARGINS['balanced_accuracy']:g} in balanced accuracy. The last step of every "
    "training counts, and nothing is chosen on a test set but the *best other* methods, which are "
    "named as such. *Published filters*: the filters of the paper; networks, batches and colour "
    "jitter are ours. *Ours*: our rules of the filters, which `lib/consensus.py` names. "
    "Networks are heads on frozen features unless stated otherwise."
)
OVERVIEWS = {
    "No labels": (
        "VLM-CPL beside zero-shot labels, the best method without our filters, chosen on the test "
        "set, and full supervision; pooled over folds."
    ),
    "Few labels": (
        "UniSAL at the end of its rounds, and the area under the learning curve (AULC) beside "
        "other strategies, of which the best is chosen on the test set; pooled over folds."
    ),
    "Few labels, equal training": (
        "UniSAL in our setting (half of each query coverage) beside strategies that train alike "
        "(dual-view-aligned): by how much its AULC is larger, over the folds and seeds that both "
        "have; *mean*: over the datasets of the line. *Seeds*: the fewest that both have."
    ),
    "From zero labels on": (
        "UniSAL that begins with VLM-CPL, beside its own beginning by chance: the area under the "
        "learning curve, and how many labels it takes to stay at a share of the accuracy with all "
        "labels. The sections of the datasets explain the columns."
    ),
    "Alarm": (
        "VLM-CPL warns, without a label, of runs that may have gone wrong. A run went wrong if its "
        f"accuracy is more than {alarms.TOLERATED:g} below full supervision of the same run, or if "
        "it finds no tile of a class; runs are folds and seeds, with and without shifted tiles."
    ),
    "Kinds of alarm": "In how many runs each was raised, and how many of these went wrong.",
    "Ensembles": (
        "Two VLMs, alone and together: their probabilities are averaged, and labels are kept "
        "only where both agree."
    ),
}


# --- from rows to a page -------------------------------------------------------------------------


def build(
    rows: Rows,
    about: Mapping[str, str],
    groups: Mapping[str, pd.DataFrame],
    rounds: Mapping[str, pd.DataFrame],
    slides: Mapping[str, pd.DataFrame],
    *,
    every_vlm: Rows = (),
) -> Page:
    """All tables and figures of rows in which each dataset has one VLM.

    about: see `Page`; groups, rounds, slides: per dataset what was right in each group, by the
    comparison, by active learning and of slides (`groups_of_runs`, `groups_of_record`);
    every_vlm: rows of ensembles and of other VLMs, which have a table of their own.
    """
    found = sections.quality_sections(rows)
    of_own = {}
    for dataset in sorted(about):
        own = [row for row in rows if row["dataset"] == dataset]
        vlm = own[0]["vlm"]
        title = f"{dataset}, {vlm}"
        found += sections.label_sections(own, dataset, title)
        found += sections.comparison_sections(own, dataset, title, of_vlm(groups.get(dataset), vlm))
        of_own[dataset] = of_vlm(rounds.get(dataset), vlm)
        found += sections.active_sections(own, dataset, title, of_own[dataset])
        found += sections.slide_sections(own, dataset, of_vlm(slides.get(dataset), vlm))
        found += sections.share_sections(rows, dataset, title, slides)
    raised = alarms.alarm_frame(rows)
    tables = {
        "No labels": overviews.summary_table(rows),
        "Few labels": active_learning.summary_table(active_learning.rounds_frame(rows)),
        "Few labels, equal training": overviews.equal_training_table(of_own),
        "From zero labels on": _cold_starts(found),
        "Alarm": alarms.alarm_table(raised),
        "Kinds of alarm": alarms.kinds_table(raised),
        "Ensembles": overviews.vlm_comparison(every_vlm),
    }
    filled = {name: table for name, table in tables.items() if len(table)}
    return Page({name: about[name] for name in sorted(about)}, filled, found)


def _cold_starts(found: Sequence[Section]) -> pd.DataFrame:
    """One table of the cold starts of all datasets, with what compares them."""
    tables = [
        section.tables[0].assign(dataset=section.dataset)
        for section in found
        if section.topic == "from zero labels on"
    ]
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True)
    needed = [name for name in table if name.startswith("labels for")]
    names = ["dataset", "shift", "begins with", "at 0 labels", "AULC", "by", *needed]
    return table.reindex(columns=[*names, "folds", "seeds"]).fillna({"by": ""})


def rows_of_runs(runs: Path) -> list[dict[str, Any]]:
    """Rows of all folds and seeds below a folder of runs, and of what no fold changes."""
    return record.read_rows(*sorted(runs.glob("seed*/**/rows/*.jsonl")))


def of_runs(rows: Rows, about: Mapping[str, str], runs: Path) -> Page:
    """The page of one dataset and VLM. runs: the folder above its seeds."""
    (dataset,) = about
    groups = {dataset: comparison.groups_of_runs(runs)}
    rounds = {dataset: active_learning.groups_of_runs(runs)}
    return build(rows, about, groups, rounds, {dataset: slide_scores.groups_of_runs(runs)})


def of_record(rows: Rows, about: Mapping[str, str], recorded: Rows, folder: Path) -> Page:
    """The page of the whole record. rows: with each dataset's own VLM; recorded: all of them."""
    measured = (
        {name: comparison.groups_of_record(folder / f"{name}.{kind}.parquet") for name in about}
        for kind in ("groups", "rounds", "slides")
    )
    return build(rows, about, *measured, every_vlm=recorded)


def against_record(rows: Rows, recorded: Rows) -> pd.DataFrame:
    """Mean pseudo-label precision of these runs beside that of the record; empty without one."""
    frames = {"these runs": rows, "record": recorded}
    means = {}
    for title, some in frames.items():
        frame = pseudo_labels.pseudo_label_frame(some)
        if frame.empty:
            return pd.DataFrame(columns=list(frames))
        main = pseudo_labels.at_main_keep_ratio(frame)
        means[title] = main.groupby("name", sort=False).precision.mean()
    return pd.DataFrame(means).dropna().round(3)


# --- what is written -----------------------------------------------------------------------------


def publish(dataset: str, vlm: str, rows: Rows, runs: Path) -> None:
    """Put the rows of runs, and what was right in each group, into the record.

    They replace what the record holds of the same kind, see `record.merge_record`. Of what is
    varied (ablations, shifts, keep ratios) those of seed 0 alone, as the protocol says.
    """
    rows = [row for row in rows if row["seed"] == 0 or not row["params"].get("varied")]
    if not rows:
        raise ValueError(f"there are no rows of {dataset} with {vlm} to publish")
    file = paths.record_folder() / f"{dataset}.jsonl"
    before = record.read_rows(file) if file.is_file() else []
    record.write_record(file, record.merge_record(before, rows))
    measured = {
        "groups": comparison.groups_of_runs(runs),
        "rounds": active_learning.groups_of_runs(runs),
        "slides": slide_scores.groups_of_runs(runs),
    }
    pictures = runs.glob("seed0/fold0/slides/heat_map.png")
    for picture in () if sections.VARIANT.search(dataset) else pictures:
        with atomic(paths.figures_folder() / f"{dataset}_heat_map.png") as copy:
            shutil.copyfile(picture, copy)
    for kind, groups in measured.items():
        if len(groups):
            published = file.with_suffix(f".{kind}.parquet")
            merged = _merged(published, groups)
            with atomic(published) as temporary:
                merged.to_parquet(temporary)


def _merged(published: Path, groups: pd.DataFrame) -> pd.DataFrame:
    """Counts of the record and new ones, which replace those of the same kind."""
    if not published.is_file():
        return groups
    before = pd.read_parquet(published)
    names = [name for name in record.KIND_FIELDS if name in groups]
    again = pd.MultiIndex.from_frame(before[names]).isin(pd.MultiIndex.from_frame(groups[names]))
    return pd.concat([before[~again], groups], ignore_index=True)
