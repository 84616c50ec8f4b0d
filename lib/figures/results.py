"""Everything that is published: tables, figures and pages, from rows of the record."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lib import paths, record
from lib.artefacts import atomic
from lib.figures import active_plots, plots, quality_plots
from lib.quality import tables as quality_tables
from lib.report import (
    ablations,
    active_ablations,
    active_learning,
    alarms,
    comparison,
    overviews,
    pseudo_labels,
    statistics,
)
from lib.report.format import markdown
from lib.slides import tables as slide_tables

Rows = Sequence[Mapping[str, Any]]
# Topic of a section → what its heading says and what is explained below it, in the page's order.
TOPICS = {
    "How good is it?": quality_tables.EXPLANATION,
    "pseudo labels": (
        "How right the labels are that the filters keep, on the training tiles. Filters see no "
        "label; labels only judge. A point is a run, a bar the mean."
    ),
    "keep ratio": (
        "Pseudo-label precision of multi-view consensus against the keep ratio, mean and range "
        "over runs. Dotted: the ratio of all other tables."
    ),
    "kept per class": ("Labels that the named settings keep of each class, mean over runs."),
    "comparison": (
        "Scores on the test sets. Accuracy and balanced accuracy are pooled over folds, with "
        "intervals; the others are means over runs. *Ours is better by*: VLM-CPL in our setting "
        "minus the line, with interval and p, corrected by Holm over the lines; no p with a single "
        "seed. *Not inferior to full supervision*: scores in which the interval of the difference "
        "to full supervision ends above minus the margin. *Paper*: accuracy in the paper, with its "
        "own model and split."
    ),
    "ablations of VLM-CPL": (
        "One rule is varied, all others are ours; the hue of the views in both settings. Test "
        "sets. Tables: pooled over folds ± standard deviation over runs. Curves: mean and range "
        "over runs. Dotted: our value."
    ),
    "robustness": (
        "Prompts, votes, filters and training repeated on shifted tiles; test sets, mean over runs."
    ),
    "slides": (
        "Labels of whole slides that nobody annotated: accuracy / balanced accuracy, pooled over "
        "folds. *All tissue*: every tile is relevant. *Open set*: tiles whose best prompt is a "
        "target's, as published. *Open set, learnt*: tiles that networks call a target, which "
        "learn every other tissue as a class too; ours. *Pooling*: how a slide gets its label "
        "from its tiles; attention is learnt from the pseudo labels of slides, in the last line "
        "from the true ones. *Better by*: than all tissue with the same method and pooling, with "
        "interval and p, corrected by Holm over the lines; no p with a single seed."
    ),
    "active learning": (
        "AULC is the area under the learning curve, the mean accuracy from the first to the last "
        "round. Scores are pooled over folds. *UniSAL is better by*: the AULC of UniSAL with the "
        "training of the line minus that of the line, over the folds and seeds that both have; "
        "*published UniSAL*: with dual-view training, whatever that of the line. Intervals and p "
        "as in the comparison. *Labels for* 95 %: the budget from which on the accuracy stays at "
        "or above 95 % of that with all labels, at every later budget too."
    ),
    "ablations of UniSAL": (
        "One rule is varied, all others are as published; the balance of batches with every "
        "training and three strategies. Tables: pooled over folds ± standard deviation over runs. "
        "Curves: mean and range over runs. Dotted: the published value."
    ),
}


@dataclass(frozen=True)
class Section:
    """One topic of one dataset, or of all (""): tables, a figure that is drawn when asked for."""

    dataset: str
    topic: str
    tables: Sequence[pd.DataFrame] = ()
    draw: Callable[[], Figure] | None = None
    file: str = ""  # of the figure, without its ending
    detail: str = ""  # tells sections of one topic apart
    note: str = ""  # what was found, in a sentence

    @property
    def heading(self) -> str:
        topic = self.topic + (f" ({self.detail})" if self.detail else "")
        return f"{self.dataset}: {topic}" if self.dataset else topic

    @cached_property
    def figure(self) -> Figure | None:
        return self.draw() if self.draw else None


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
        for dataset in self.about:
            links = [f"[{s.heading.partition(': ')[2]}](#{anchor(s.heading)})"
                     for s in self.sections if s.dataset == dataset]  # fmt: skip
            contents.append(f"- [{dataset}](#{anchor(dataset)}): {', '.join(links)}")
        lines = ["# Results", INTRODUCTION, "\n".join(contents)]
        for name, table in self.overviews.items():
            lines += [f"## {name}", OVERVIEWS[name], markdown(table).rstrip()]
        lines += [_section_text(section) for section in of_all]
        for dataset, sentence in self.about.items():
            lines += [f"## {dataset}", sentence]
            lines += [_section_text(s) for s in self.sections if s.dataset == dataset]
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


def anchor(heading: str) -> str:
    """What GitHub calls the link target of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _section_text(section: Section) -> str:
    text = [f"{'###' if section.dataset else '##'} {section.heading}", TOPICS[section.topic]]
    text += [*filter(None, [section.note]), *(markdown(t).rstrip() for t in section.tables)]
    if section.draw:
        text.append(f"![{section.heading}]({section.file}.png)")
    return "\n\n".join(text)


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
    sections = _quality_sections(rows)
    for dataset in sorted(about):
        own = [row for row in rows if row["dataset"] == dataset]
        vlm = own[0]["vlm"]
        title = f"{dataset}, {vlm}"
        sections += _label_sections(own, dataset, title)
        sections += _comparison_sections(own, dataset, title, _of_vlm(groups.get(dataset), vlm))
        sections += _active_sections(own, dataset, title, _of_vlm(rounds.get(dataset), vlm))
        of_slides = slide_tables.slides_table(own, _of_vlm(slides.get(dataset), vlm))
        sections += [Section(dataset, "slides", [of_slides])] if len(of_slides) else []
    raised = alarms.alarm_frame(rows)
    tables = {
        "No labels": overviews.summary_table(rows),
        "Few labels": active_learning.summary_table(active_learning.rounds_frame(rows)),
        "Alarm": alarms.alarm_table(raised),
        "Kinds of alarm": alarms.kinds_table(raised),
        "Ensembles": overviews.vlm_comparison(every_vlm),
    }
    filled = {name: table for name, table in tables.items() if len(table)}
    return Page({name: about[name] for name in sorted(about)}, filled, sections)


def _of_vlm(groups: pd.DataFrame | None, vlm: str) -> pd.DataFrame | None:
    return None if groups is None or groups.empty else groups[groups.vlm == vlm]


def _quality_sections(rows: Rows) -> list[Section]:
    frame, tables = quality_tables.quality_frame(rows), quality_tables.all_tables(rows)
    draw, note = partial(quality_plots.estimate_against_truth, frame), quality_tables.verdict(frame)
    section = Section("", "How good is it?", tables, draw, "how_good_is_it", note=note)
    return [] if frame.empty else [section]


def _label_sections(rows: Rows, dataset: str, title: str) -> list[Section]:
    frame = pseudo_labels.pseudo_label_frame(rows)
    if frame.empty:
        return []
    overview, per_class = pseudo_labels.overview_frame(frame), pseudo_labels.per_class_frame(frame)
    consensus = partial(plots.consensus_overview, overview, title)
    sections = [
        Section(dataset, "pseudo labels", [pseudo_labels.consensus_table(frame)], consensus,
                f"{dataset}_consensus")
    ]  # fmt: skip
    mvc = frame[frame.method == "mvc"]
    if len(mvc):
        curve = partial(plots.precision_against_keep_ratio, mvc, title)
        sections.append(Section(dataset, "keep ratio", (), curve, f"{dataset}_keep_ratio"))
    if len(per_class):
        bars = partial(plots.kept_per_class, per_class, list(frame.per_class.iloc[0]))
        sections.append(Section(dataset, "kept per class", (), bars, f"{dataset}_kept_per_class"))
    return sections


def _comparison_sections(
    rows: Rows, dataset: str, title: str, groups: pd.DataFrame | None
) -> list[Section]:
    sections = []
    frame = comparison.score_frame(rows)
    frozen = frame[frame.network != "fine-tune"]
    if len(frozen):
        table = comparison.scores_table(rows, groups)
        draw = partial(plots.comparison, frozen, comparison.COMPARED, title)
        file = f"{dataset}_comparison"
        sections.append(Section(dataset, "comparison", [table], draw, file))
    for varied in ablations.ablation_frames(rows).values():
        lines = ablations.ablation_lines(varied)
        tables = ablations.ablation_tables(varied)
        if lines or tables:
            curves = partial(plots.ablation_curves, lines, title) if lines else None
            file = f"{dataset}_ablations"
            sections.append(Section(dataset, "ablations of VLM-CPL", tables, curves, file))
        shifted = ablations.robustness_lines(varied)
        if len(shifted):
            draw = partial(plots.robustness, shifted, comparison.COMPARED, title)
            sections.append(Section(dataset, "robustness", (), draw, f"{dataset}_robustness"))
    return sections


def _active_sections(
    rows: Rows, dataset: str, title: str, groups: pd.DataFrame | None
) -> list[Section]:
    sections = []
    rounds = active_learning.rounds_frame(rows)
    for network in [name for name in ("frozen", "fine-tune") if name in set(rounds.network)]:
        lines = rounds[rounds.network == network]
        suffix = "" if network == "frozen" else f"_{network}"
        named = f"{title}, {network}"
        curves = lines[lines.varied == ()]
        if len(curves):
            counted = None if groups is None else groups[groups.network == network]
            table = active_learning.rounds_table(curves, counted)
            draw = partial(active_plots.learning_curves, curves, named)
            file = f"{dataset}_learning_curves{suffix}"
            sections.append(Section(dataset, "active learning", [table], draw, file, network))
        if (lines.varied != ()).any():
            tables = [active_ablations.on_off_table(lines)]
            tables += active_ablations.ablation_tables(lines)
            varied = active_ablations.ablation_lines(lines)
            ablated = partial(active_plots.ablation_curves, varied, named) if varied else None
            file = f"{dataset}_unisal_ablations{suffix}"
            sections.append(Section(dataset, "ablations of UniSAL", tables, ablated, file))
    return sections


def rows_of_runs(runs: Path) -> list[dict[str, Any]]:
    """Rows of all folds and seeds below a folder of runs, and of what no fold changes."""
    return record.read_rows(*sorted(runs.glob("seed*/**/rows/*.jsonl")))


def of_runs(rows: Rows, about: Mapping[str, str], runs: Path) -> Page:
    """The page of one dataset and VLM. runs: the folder above its seeds."""
    (dataset,) = about
    groups = {dataset: comparison.groups_of_runs(runs)}
    rounds = {dataset: active_learning.groups_of_runs(runs)}
    return build(rows, about, groups, rounds, {dataset: slide_tables.groups_of_runs(runs)})


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
        "slides": slide_tables.groups_of_runs(runs),
    }
    for picture in runs.glob("seed0/fold0/slides/heat_map.png"):
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
