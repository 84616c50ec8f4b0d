"""Sections of the results: the tables and the figure of one topic of one dataset, from its rows."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lib import paths
from lib.figures import active_plots, plots, quality_plots
from lib.quality import estimate_tables
from lib.report import ablations, active_ablations, active_learning, comparison, pseudo_labels
from lib.report.format import markdown
from lib.slides import scores as slide_scores

Rows = Sequence[Mapping[str, Any]]
VARIANT = re.compile(r"_\d+$")  # of a dataset's name: another share of other tissue
# Topic of a section → what its heading says and what is explained below it, in the page's order.
TOPICS = {
    "How good is it?": estimate_tables.EXPLANATION,
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
        "*by*: above that of chance. *Labels for*: as in active learning, from 0 labels on."
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


# --- from rows to sections ------------------------------------------------------------------------


def of_vlm(groups: pd.DataFrame | None, vlm: str) -> pd.DataFrame | None:
    """Those of one VLM; None without any."""
    return None if groups is None or groups.empty else groups[groups.vlm == vlm]


def quality_sections(rows: Rows) -> list[Section]:
    """Estimates of the accuracy beside the truth, over all datasets and shifts."""
    frame, tables = estimate_tables.quality_frame(rows), estimate_tables.all_tables(rows)
    draw, note = (
        partial(quality_plots.estimate_against_truth, frame),
        estimate_tables.verdict(frame),
    )
    section = Section("", "How good is it?", tables, draw, "how_good_is_it", note=note)
    return [] if frame.empty else [section]


def label_sections(rows: Rows, dataset: str, title: str) -> list[Section]:
    """What the filters keep: precision, keep ratio, classes."""
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


def comparison_sections(
    rows: Rows, dataset: str, title: str, groups: pd.DataFrame | None
) -> list[Section]:
    """VLM-CPL beside other methods, its ablations and shifts."""
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
            file = f"{dataset}_ablations" if lines else ""
            sections.append(Section(dataset, "ablations of VLM-CPL", tables, curves, file))
        shifted = ablations.robustness_lines(varied)
        if len(shifted):
            draw = partial(plots.robustness, shifted, comparison.COMPARED, title)
            sections.append(Section(dataset, "robustness", (), draw, f"{dataset}_robustness"))
    return sections


def active_sections(
    rows: Rows, dataset: str, title: str, groups: pd.DataFrame | None
) -> list[Section]:
    """Rounds of active learning and their ablations, heads and whole networks apart."""
    sections = []
    rounds = active_learning.rounds_frame(rows)
    for network in [name for name in ("frozen", "fine-tune") if name in set(rounds.network)]:
        lines = rounds[rounds.network == network]
        suffix = "" if network == "frozen" else f"_{network}"
        named = f"{title}, {network}"
        curves = active_learning.of_published_runs(lines[lines.varied == ()])
        if len(curves):
            of_network = None if groups is None else groups[groups.network == network]
            runs = curves[["seed", "fold"]].drop_duplicates()
            counted = None if of_network is None else of_network.merge(runs)
            table = active_learning.rounds_table(curves, counted)
            draw = partial(active_plots.learning_curves, curves, named)
            file = f"{dataset}_learning_curves{suffix}"
            sections.append(Section(dataset, "active learning", [table], draw, file, network))
        if (lines.varied != ()).any():
            tables = [active_ablations.on_off_table(lines)]
            tables += active_ablations.ablation_tables(lines)
            varied = active_ablations.ablation_lines(lines)
            ablated = partial(plots.ablation_curves, varied, named) if varied else None
            file = f"{dataset}_unisal_ablations{suffix}" if varied else ""
            sections.append(Section(dataset, "ablations of UniSAL", tables, ablated, file))
    begun = active_learning.rounds_frame(rows, cold_starts=True)
    cold = active_learning.cold_start_table(begun, groups)
    if len(cold):
        draw = partial(active_plots.cold_start_curves, begun, title)
        file = f"{dataset}_cold_start"
        sections.append(Section(dataset, "from zero labels on", [cold], draw, file))
    return sections


def slide_sections(rows: Rows, dataset: str, groups: pd.DataFrame | None) -> list[Section]:
    """Labels of whole slides; of a variant, see `share_sections`, one line there is enough."""
    if VARIANT.search(dataset):
        return []
    table = slide_scores.slides_table(rows, groups)
    file = f"{dataset}_heat_map"
    drawn = (paths.figures_folder() / f"{file}.png").is_file()
    return [Section(dataset, "slides", [table], None, file if drawn else "")] if len(table) else []


def share_sections(
    rows: Rows, dataset: str, title: str, groups: Mapping[str, pd.DataFrame]
) -> list[Section]:
    """Of slides with known truth. rows: of all datasets.

    `<dataset>_<n>` differs from `<dataset>` in its share of other tissue alone, and is shown there.
    """
    own = [row for row in rows if VARIANT.sub("", row["dataset"]) == dataset]
    frame = slide_scores.share_frame(own, groups)
    if frame.empty:
        return []
    several = frame.dataset.nunique() > 1
    draw = partial(plots.accuracy_against_share, frame, title) if several else None
    table, file = slide_scores.share_table(frame), f"{dataset}_share" if several else ""
    return [Section(dataset, "share of other tissue", [table], draw, file)]
