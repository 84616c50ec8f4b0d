"""The page of all results: tables and figures by dataset and topic, from the record."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from figures import overviews, quality_tables, slide_shares
from figures.markdown import markdown
from lib import paths
from lib.artefacts import atomic
from lib.figures import active_plots, plots, quality_plots
from lib.quality import estimate_tables
from lib.record import Record
from lib.report import ablations, active_learning, comparison, pseudo_labels, statistics
from lib.report.pseudo_labels import consensus_table
from lib.slides import scores as slide_scores

VARIANT = re.compile(r"_\d+$")  # of a dataset's name: another share of other tissue
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
        "from its tiles; attention is learnt from the pseudo labels of slides: the class most "
        "probable on the mean of their tiles, in our setting the class that gains most on its mean "
        "over slides; in the last line from the true labels. *Better by*: than all tissue with the "
        "same method and pooling, with interval and p, corrected by Holm over the lines; no p with "
        "a single seed. Picture: a slide, the probability of its predicted class, and the "
        "attention."
    ),
    "share of other tissue": (
        "Accuracy of slides by VLM-CPL and the mean of the tile probabilities. *Irrelevant*: the "
        "share of tiles that show no target. *Irrelevant dropped*, *relevant dropped*: shares of "
        "such tiles that do not count in the end, mean over runs. *Better by*: than all tissue."
    ),
    "active learning": (
        "AULC is the area under the learning curve, the mean accuracy from the first to the last "
        "round. Scores are pooled over folds. *UniSAL is better by*: the AULC of UniSAL with the "
        "training of the line minus that of the line, over the folds and seeds that both have; "
        "*published UniSAL*: with dual-view training, whatever that of the line; *UniSAL, ours*: "
        "with dual-view-aligned, half of each query coverage. Intervals and p as in the "
        "comparison. *Labels for* 95 %: the budget from which on the accuracy stays at or above "
        "95 % of that with all labels, at every later budget too. Of seeds and folds that "
        "published UniSAL has."
    ),
    "from zero labels on": (
        "UniSAL in our setting (dual-view-aligned, half of each query coverage) that begins with "
        "the networks of VLM-CPL: the first query is of compact tiles of the whole pool, and the "
        "labels that the filters kept teach on, ever less, while the answers say that they are "
        "right. *First query alone*: without these labels. *By disagreement*: a first query of "
        "compact tiles on which the networks disagree. *In doubtful clusters*: those that an alarm "
        "points at are asked about first. These three are of seed 0 alone, and compared with its "
        "own chance. *Chance*: UniSAL's own beginning. AULC is from the first to the last query; "
        "*gain over chance*: by how much it is above that of chance. *Labels for*: as in active "
        "learning, from 0 labels on."
    ),
    "ablations of UniSAL": (
        "One rule is varied, all others are as published; the balance of batches with every "
        "training and three strategies. Tables: pooled over folds ± standard deviation over runs. "
        "Curves: mean and range over runs. Dotted: the published value. A larger query begins with "
        "more labels, so its AULC says nothing: compare its end."
    ),
}


@dataclass(frozen=True)
class Section:
    """One topic of one dataset, or of all (""): tables, and a figure.

    The figure is drawn when it is asked for, or without `draw` has been by a notebook of the runs.
    """

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


def anchor(heading: str) -> str:
    """What GitHub calls the link target of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section_text(section: Section) -> str:
    """A section as Markdown, with a link to its figure."""
    text = [f"{'###' if section.dataset else '##'} {section.heading}", TOPICS[section.topic]]
    text += [*filter(None, [section.note]), *(markdown(t).rstrip() for t in section.tables)]
    if section.file:
        text.append(f"![{section.heading}]({section.file}.png)")
    return "\n\n".join(text)


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
            links = [
                f"[{s.heading.partition(': ')[2]}](#{anchor(s.heading)})"
                for s in self.sections
                if s.dataset == dataset
            ]
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
    "Made from the record by `python -m figures.publish`; nothing here is written by "
    "hand. A dataset without a division of its own is divided once into folds that no known group "
    "(source tile, slide or case) straddles; each fold is the test set of a run that trains on all "
    "others, so no tile is tested twice. Pooled scores count right tiles over all folds, class by "
    "class for balanced accuracy, and are averaged over seeds. Intervals are of 95 %, from a "
    "bootstrap over seeds, over folds and over the groups in them; few seeds say little "
    "of another, and one nothing, so intervals are too narrow rather than too wide. A method is "
    "not inferior to full supervision by margins fixed beforehand: "
    f"{statistics.MARGINS['accuracy']:g} in accuracy, "
    f"{statistics.MARGINS['balanced_accuracy']:g} in balanced accuracy (where classes are even the "
    "first for both). The last step of every training counts. The *best other* methods are chosen "
    "on the test sets, and some rules of ours were chosen after a look at datasets that stand "
    "here: CONTRIBUTING.md says which. "
    "*Published filters*: the filters of the paper; networks, batches and colour jitter are ours. "
    "*Ours*: our rules of the filters, which `lib/consensus.py` names. "
    "Networks are heads on frozen features unless stated otherwise."
)
OVERVIEWS = {
    "No labels": (
        "VLM-CPL beside zero-shot labels, the best of all that is not VLM-CPL, chosen on the test "
        "set, and full supervision; pooled over folds."
    ),
    "No labels, another encoder": (
        "As above, with a stand-in on a larger image tower, or, after @, with another image "
        "encoder for clusters and networks alone."
    ),
    "Few labels, another encoder": "As under few labels, with another image encoder.",
    "Few labels": (
        "UniSAL at the end of its rounds, and the area under the learning curve (AULC) beside "
        "other strategies, of which the best is chosen on the test set; pooled over folds."
    ),
    "Few labels, equal training": (
        "UniSAL in our setting (half of each query coverage, typical tiles first) beside "
        "strategies that train alike (dual-view-aligned) and begin by chance: by how much its AULC "
        "is larger, over the folds and seeds that both "
        "have; *mean*: over the datasets of the line. *Seeds*: the fewest that both have."
    ),
    "From zero labels on": (
        "UniSAL that begins with VLM-CPL, beside its own beginning by chance: the area under the "
        "learning curve, and how many labels it takes to stay at a share of the accuracy with all "
        "labels. The sections of the datasets explain the columns."
    ),
    "Alarm": (
        "VLM-CPL warns, without a label, of runs that may have gone wrong. A run went wrong if its "
        f"accuracy is more than {overviews.TOLERATED:g} below full supervision of the same run, "
        "or if it finds no tile of a class; runs are folds and seeds, with and without shifted "
        "tiles."
    ),
    "Kinds of alarm": "In how many runs each was raised, and how many of these went wrong.",
    "Ensembles": (
        "Two VLMs, alone and together: their probabilities are averaged, and labels are kept "
        "only where both agree."
    ),
}


# --- from the record to sections ------------------------------------------------------------------


def quality_sections(some: Record) -> list[Section]:
    """Estimates of the accuracy beside the truth, over all datasets and shifts."""
    frame = estimate_tables.quality_frame(some.facts)
    if frame.empty:
        return []
    tables, note = quality_tables.all_tables(some.facts), estimate_tables.verdict(frame)
    draw = partial(quality_plots.estimate_against_truth, frame)
    return [Section("", "How good is it?", tables, draw, "how_good_is_it", note=note)]


def label_sections(some: Record, dataset: str, title: str) -> list[Section]:
    """What the filters keep: precision, keep ratio, classes."""
    frame = pseudo_labels.pseudo_label_frame(some.facts)
    if frame.empty:
        return []
    overview, per_class = pseudo_labels.overview_frame(frame), pseudo_labels.per_class_frame(frame)
    consensus, table = partial(plots.consensus_overview, overview, title), consensus_table(frame)
    sections = [Section(dataset, "pseudo labels", [table], consensus, f"{dataset}_consensus")]
    mvc = frame[frame.method == "mvc"]
    if len(mvc):
        curve = partial(plots.precision_against_keep_ratio, mvc, title)
        sections.append(Section(dataset, "keep ratio", (), curve, f"{dataset}_keep_ratio"))
    if len(per_class):
        bars = partial(plots.kept_per_class, per_class, list(frame.per_class.iloc[0]))
        sections.append(Section(dataset, "kept per class", (), bars, f"{dataset}_kept_per_class"))
    return sections


def comparison_sections(some: Record, dataset: str, title: str) -> list[Section]:
    """VLM-CPL beside other methods, its ablations and shifts."""
    sections = []
    facts = comparison.compared(some).facts
    frozen = facts[facts.network != "fine-tune"]
    if len(frozen):
        table = comparison.scores_table(some)
        draw = partial(plots.comparison, frozen, comparison.COMPARED, title)
        sections.append(Section(dataset, "comparison", [table], draw, f"{dataset}_comparison"))
    tested = ablations.tested(some.facts)
    ablated = ("ablations of VLM-CPL", f"{dataset}_ablations")
    sections += _ablated(tested, ablations.VLM_CPL, dataset, title, *ablated)
    shifted = ablations.robustness_lines(tested)
    if len(shifted):
        draw = partial(plots.robustness, shifted, comparison.COMPARED, title)
        sections.append(Section(dataset, "robustness", (), draw, f"{dataset}_robustness"))
    return sections


def _ablated(
    facts: pd.DataFrame, of: ablations.Ablated, dataset: str, title: str, topic: str, file: str
) -> list[Section]:
    tables = ablations.ablation_tables(facts, of)
    lines = ablations.ablation_lines(facts, of)
    draw = partial(plots.ablation_curves, lines, title) if lines else None
    shown = [Section(dataset, topic, tables, draw, file if lines else "")]
    return shown if tables or lines else []


def active_sections(some: Record, dataset: str, title: str) -> list[Section]:
    """Rounds of active learning and their ablations, heads and whole networks apart."""
    sections = []
    loops = active_learning.loops(some)
    for network in [name for name in ("frozen", "fine-tune") if name in set(loops.facts.network)]:
        suffix, named = "" if network == "frozen" else f"_{network}", f"{title}, {network}"
        chosen = active_learning.of_published_runs(active_learning.heads(some, network))
        if len(chosen.facts):
            table = active_learning.rounds_table(chosen)
            each = active_learning.rounds(chosen.facts)
            draw = partial(active_plots.learning_curves, each, named)
            file = f"{dataset}_learning_curves{suffix}"
            sections.append(Section(dataset, "active learning", [table], draw, file, network))
        facts = loops.facts[loops.facts.network == network]
        ablated = ("ablations of UniSAL", f"{dataset}_unisal_ablations{suffix}")
        if (facts.varied != "").any():
            sections += _ablated(facts, ablations.UNISAL, dataset, named, *ablated)
    begun = active_learning.loops(some, cold_starts=True)
    cold = active_learning.cold_start_table(begun)
    if len(cold):
        draw = partial(active_plots.cold_start_curves, begun.facts, title)
        file = f"{dataset}_cold_start"
        sections.append(Section(dataset, "from zero labels on", [cold], draw, file))
    return sections


def slide_sections(some: Record, dataset: str, title: str) -> list[Section]:
    """Labels of whole slides, and against the share of other tissue.

    some: of all datasets. `<dataset>_<n>` differs from `<dataset>` in its share of other tissue
    alone, and is shown there.
    """
    if VARIANT.search(dataset):
        return []
    sections = []
    table = slide_scores.slides_table(some[some.facts.dataset == dataset])
    if len(table):
        file = f"{dataset}_heat_map"
        drawn = (paths.figures_folder() / f"{file}.png").is_file()
        sections.append(Section(dataset, "slides", [table], None, file if drawn else ""))
    names = some.facts.dataset.str.replace(VARIANT, "", regex=True)
    frame = slide_shares.share_frame(some[names == dataset])
    if len(frame):
        several = frame.dataset.nunique() > 1
        draw = partial(plots.accuracy_against_share, frame, title) if several else None
        table, file = slide_shares.share_table(frame), f"{dataset}_share" if several else ""
        sections.append(Section(dataset, "share of other tissue", [table], draw, file))
    return sections


# --- from sections to a page ----------------------------------------------------------------------


def build(some: Record, about: Mapping[str, str], *, all_vlms: Record | None = None) -> Page:
    """All tables and figures of a record in which each dataset has one VLM.

    about: see `Page`; all_vlms: with ensembles and other VLMs, which have tables of their own.
    """
    found = quality_sections(some)
    for dataset in sorted(about):
        own = some[some.facts.dataset == dataset]
        title = f"{dataset}, {own.facts.vlm.iloc[0]}"
        found += label_sections(own, dataset, title)
        found += comparison_sections(own, dataset, title)
        found += active_sections(own, dataset, title)
        found += slide_sections(some, dataset, title)
    raised, others = overviews.alarm_frame(some), overviews.other_encoders(all_vlms or some, some)
    tables = {
        "No labels": overviews.no_labels_table(some),
        "Few labels": overviews.few_labels_table(some),
        "Few labels, equal training": overviews.equal_training_table(some),
        "From zero labels on": _cold_starts(found),
        "No labels, another encoder": overviews.no_labels_table(others),
        "Few labels, another encoder": overviews.few_labels_table(others),
        "Alarm": overviews.alarm_table(raised),
        "Kinds of alarm": overviews.alarms_by_name(raised),
        "Ensembles": pd.DataFrame() if all_vlms is None else overviews.vlm_table(all_vlms),
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
    names = ["dataset", "shift", "begins with", "at 0 labels", "AULC", "gain over chance", *needed]
    return table.reindex(columns=[*names, "folds", "seeds"]).fillna({"gain over chance": ""})
