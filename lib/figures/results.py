"""Everything that is published: tables, figures and pages, from rows of the record."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lib import paths, record
from lib.artefacts import atomic
from lib.figures import active_plots, front_page, plots
from lib.report import ablation_tables, active_learning, comparison, pseudo_labels
from lib.report.format import markdown, replace_block

Rows = Sequence[Mapping[str, Any]]
# Topic of a section → what its heading says and what is explained below it, in the page's order.
TOPICS = {
    "pseudo labels": (
        "How right the labels are that the filters keep, on the training tiles. Filters see no "
        "label; labels only judge. A point is a seed, a bar the mean."
    ),
    "keep ratio": (
        "Pseudo-label precision of multi-view consensus against the keep ratio, mean and range "
        "over seeds. Dotted: the ratio of all other tables."
    ),
    "kept per class": ("Labels that the named settings keep of each class, mean over seeds."),
    "comparison": (
        "Scores on the test set, mean ± standard deviation over seeds. *Ours is better by* is "
        "the accuracy of VLM-CPL in our setting minus that of the line, with the p of a paired "
        "permutation test over seeds × groups. *Paper* is the paper's accuracy, with its own "
        "model and split."
    ),
    "ablations of VLM-CPL": (
        "One rule is varied, all others are ours; test set, mean and range over seeds. Dotted: "
        "our value."
    ),
    "robustness": (
        "Prompts, votes, filters and training repeated on re-stained tiles; test set, mean and "
        "range over seeds."
    ),
    "active learning": (
        "AULC is the area under the learning curve, the mean accuracy from the first to the last "
        "round. *UniSAL is better by* is its AULC, with dual-view training, minus that of the "
        "line, with the p of the paired test. *Labels for* 95 % is the first round that reaches "
        "95 % of the accuracy with all labels."
    ),
    "ablations of UniSAL": (
        "One rule is varied, all others are ours; mean and range over seeds. Dotted: our value."
    ),
}


@dataclass(frozen=True)
class Section:
    """One topic of one dataset: tables, and a figure that is drawn when it is asked for."""

    dataset: str
    topic: str
    tables: Sequence[pd.DataFrame] = ()
    draw: Callable[[], Figure] | None = None
    file: str = ""  # of the figure, without its ending
    detail: str = ""  # tells sections of one topic apart

    @property
    def heading(self) -> str:
        return f"{self.dataset}: {self.topic}" + (f" ({self.detail})" if self.detail else "")

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
        contents = [f"- [{name}](#{anchor(name)})" for name in self.overviews]
        for dataset in self.about:
            links = [f"[{s.heading.partition(': ')[2]}](#{anchor(s.heading)})"
                     for s in self.sections if s.dataset == dataset]  # fmt: skip
            contents.append(f"- [{dataset}](#{anchor(dataset)}): {', '.join(links)}")
        lines = ["# Results", INTRODUCTION, "\n".join(contents)]
        for name, table in self.overviews.items():
            lines += [f"## {name}", OVERVIEWS[name], markdown(table).rstrip()]
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
    "hand. Accuracies are on test sets that share no source tile, slide or case with the "
    "training tiles. *Published filters*: random ties, a global quota and clusters of projected "
    "features, as in the paper; networks, batches and colour jitter are ours. *Ours*: "
    "probability ties, a quota per class, unprojected features. Networks are heads on frozen "
    "features unless stated otherwise."
)
OVERVIEWS = {
    "No labels": (
        "VLM-CPL beside zero-shot labels, the best method without our filters and full "
        "supervision; means over seeds."
    ),
    "Few labels": (
        "UniSAL at the end of its rounds, and the area under the learning curve (AULC) beside "
        "other strategies; means over seeds."
    ),
    "Ensembles": (
        "Two VLMs, alone and together: their probabilities are averaged, and labels are kept "
        "only where both agree."
    ),
}


def anchor(heading: str) -> str:
    """What GitHub calls the link target of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _section_text(section: Section) -> str:
    text = [f"### {section.heading}", TOPICS[section.topic]]
    text += [markdown(table).rstrip() for table in section.tables]
    if section.draw:
        text.append(f"![{section.heading}]({section.file}.png)")
    return "\n\n".join(text)


# --- from rows to a page -------------------------------------------------------------------------


def build(
    rows: Rows,
    about: Mapping[str, str],
    groups: Mapping[str, pd.DataFrame],
    rounds: Mapping[str, pd.DataFrame],
    *,
    every_vlm: Rows = (),
) -> Page:
    """All tables and figures of rows in which each dataset has one VLM.

    about: see `Page`; groups, rounds: per dataset what was right in each group, by the comparison
    and by active learning (`groups_of_runs`, `groups_of_record`); every_vlm: rows of ensembles and
    of other VLMs, which have a table of their own.
    """
    sections: list[Section] = []
    for dataset in sorted(about):
        own = [row for row in rows if row["dataset"] == dataset]
        vlm = own[0]["vlm"]
        title = f"{dataset}, {vlm}"
        sections += _label_sections(own, dataset, title)
        sections += _comparison_sections(own, dataset, title, _of_vlm(groups.get(dataset), vlm))
        sections += _active_sections(own, dataset, title, _of_vlm(rounds.get(dataset), vlm))
    overviews = {
        "No labels": comparison.summary_table(rows),
        "Few labels": active_learning.summary_table(active_learning.rounds_frame(rows)),
        "Ensembles": comparison.vlm_comparison(every_vlm),
    }
    filled = {name: table for name, table in overviews.items() if len(table)}
    return Page({name: about[name] for name in sorted(about)}, filled, sections)


def _of_vlm(groups: pd.DataFrame | None, vlm: str) -> pd.DataFrame:
    if groups is None:
        return pd.DataFrame(columns=comparison.GROUP_COLUMNS)
    return groups[groups.vlm == vlm]


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
    rows: Rows, dataset: str, title: str, groups: pd.DataFrame
) -> list[Section]:
    sections = []
    frame = comparison.score_frame(rows)
    frozen = frame[frame.network != "fine-tune"]
    if len(frozen):
        table = comparison.scores_table(rows, groups)
        draw = partial(plots.comparison, frozen, comparison.COMPARED, title)
        file = f"{dataset}_comparison"
        sections.append(Section(dataset, "comparison", [table], draw, file))
    for varied in ablation_tables.ablation_frames(rows).values():
        lines = ablation_tables.ablation_lines(varied)
        tables = ablation_tables.ablation_tables(varied)
        if lines or tables:
            curves = partial(plots.ablation_curves, lines, title) if lines else None
            file = f"{dataset}_ablations"
            sections.append(Section(dataset, "ablations of VLM-CPL", tables, curves, file))
        shifted = ablation_tables.robustness_lines(varied)
        if len(shifted):
            draw = partial(plots.robustness, shifted, comparison.COMPARED, title)
            sections.append(Section(dataset, "robustness", (), draw, f"{dataset}_robustness"))
    return sections


def _active_sections(rows: Rows, dataset: str, title: str, groups: pd.DataFrame) -> list[Section]:
    sections = []
    rounds = active_learning.rounds_frame(rows)
    for network in [name for name in ("frozen", "fine-tune") if name in set(rounds.network)]:
        lines = rounds[rounds.network == network]
        suffix = "" if network == "frozen" else f"_{network}"
        named = f"{title}, {network}"
        curves = lines[lines.varied == ()]
        if len(curves):
            table = active_learning.rounds_table(curves, groups[groups.network == network])
            draw = partial(active_plots.learning_curves, curves, named)
            file = f"{dataset}_learning_curves{suffix}"
            sections.append(Section(dataset, "active learning", [table], draw, file, network))
        if (lines.varied != ()).any():
            tables = [active_learning.on_off_table(lines)]
            tables += active_learning.ablation_tables(lines)
            varied = active_learning.ablation_lines(lines)
            ablated = partial(active_plots.ablation_curves, varied, named) if varied else None
            file = f"{dataset}_unisal_ablations{suffix}"
            sections.append(Section(dataset, "ablations of UniSAL", tables, ablated, file))
    return sections


def of_runs(rows: Rows, about: Mapping[str, str], runs: Path) -> Page:
    """The page of one dataset and VLM. runs: the folder above its seeds."""
    (dataset,) = about
    groups = {dataset: comparison.groups_of_runs(runs)}
    rounds = {dataset: active_learning.groups_of_runs(runs)}
    return build(rows, about, groups, rounds)


def of_record(rows: Rows, about: Mapping[str, str], recorded: Rows, folder: Path) -> Page:
    """The page of the whole record. rows: with each dataset's own VLM; recorded: all of them."""
    groups, rounds = (
        {name: comparison.groups_of_record(folder / f"{name}.{kind}.parquet") for name in about}
        for kind in ("groups", "rounds")
    )
    return build(rows, about, groups, rounds, every_vlm=recorded)


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
    """Put the rows of runs, and what was right in each group, into the record."""
    if not rows:
        raise ValueError(f"there are no rows of {dataset} with {vlm} to publish")
    file = paths.record_folder() / f"{dataset}.jsonl"
    before = record.read_rows(file) if file.is_file() else []
    record.write_record(file, record.merge_record(before, rows))
    measured = {
        "groups": comparison.groups_of_runs(runs),
        "rounds": active_learning.groups_of_runs(runs),
    }
    for kind, groups in measured.items():
        if len(groups):
            published = file.with_suffix(f".{kind}.parquet")
            others = comparison.groups_of_record(published)
            with atomic(published) as temporary:
                both = pd.concat([others[others.vlm != vlm], groups], ignore_index=True)
                both.to_parquet(temporary)


def front_page_tables(rows: Rows) -> dict[str, pd.DataFrame]:
    """Blocks of the README. rows: of the record, with each dataset's own VLM."""
    return {
        "no-labels": front_page.no_labels_table(rows),
        "few-labels": front_page.few_labels_table(rows),
    }


def write_blocks(file: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Put tables into the blocks of a page that bear their names; without the page do nothing."""
    for name, table in tables.items() if file.is_file() else ():
        replace_block(file, name, markdown(table))
