"""Publish results: tables, figures and the generated blocks of the pages.

    python -m figures.publish                        # from data/record: figures/, README blocks
    python -m figures.publish runs DATASET [VLM]     # from runs: RESULTS.md and figures beside them
    python -m figures.publish record DATASET [VLM]   # puts runs into data/record, then as the first

Needs neither tiles nor a model. VLM: where it is left out, the one that the dataset's parameters
name.
"""

from lib import command_line

if __name__ == "__main__":  # before what takes seconds to import
    command_line.begin()

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from figures import front_page
from figures.card_tables import datasets_table, encoders_table, vlms_table
from figures.markdown import write_blocks
from figures.page import VARIANT, Page, build
from lib import parameters, paths, record
from lib.artefacts import atomic
from lib.command_line import end_by_exception, exit_status
from lib.data import cards
from lib.record import Record
from lib.report.pseudo_labels import at_main_keep_ratio, pseudo_label_frame
from lib.vlm.cards import describe_vlm

# What is run again together and replaces what was published of it.
KIND = "dataset vlm seed unit split method training network varied".split()


def of_runs(dataset: str, vlm: str) -> Record:
    """All evaluations of the runs of a dataset with a VLM. Raises ValueError without any."""
    runs = paths.runs_folder(dataset, vlm)
    some = record.read(*record.stems(runs, "seed*/**/results/*"))
    if some.facts.empty:
        raise ValueError(f"nothing of {dataset} with {vlm} was run: `make reproduce` runs it")
    return some


def own_vlms(recorded: Record) -> Record:
    """The record of each dataset with the VLM that its parameters name."""
    vlms = {name: parameters.default_vlm(name) for name in recorded.facts.dataset.unique()}
    return recorded[recorded.facts.vlm == recorded.facts.dataset.map(vlms)]


def page_of(some: Record, all_vlms: Record | None = None) -> Page:
    """The page of a record in which each dataset has one VLM; all_vlms: see `page.build`."""
    shown = dict(zip(some.facts.dataset, some.facts.vlm, strict=True))
    about = {n: f"{cards.read_card(n).title}, with {describe_vlm(v)}." for n, v in shown.items()}
    return build(some, about, all_vlms=all_vlms)


def publish_runs(dataset: str, vlm: str) -> Path:
    """Write tables and figures of runs beside them; return the folder."""
    folder = paths.runs_folder(dataset, vlm) / "figures"
    page_of(of_runs(dataset, vlm)).write(folder)
    return folder


def publish_record() -> Path:
    """Write all tables and figures of the record, and the blocks of the pages."""
    folder, root = paths.figures_folder(), paths.output_root()
    recorded = record.published()
    some = own_vlms(recorded)
    page_of(some, recorded).write(folder)
    front_page.write(some, folder)
    of_cards = {"datasets": datasets_table(), "vlms": vlms_table(), "encoders": encoders_table()}
    write_blocks(root / "README.md", front_page.tables(some))
    write_blocks(root / "data" / "README.md", of_cards)
    return folder


def merge(before: Record, new: Record) -> Record:
    """What a record holds once new evaluations are published.

    Of the earlier ones those go that are of a kind that was run again, see `KIND`. So a record can
    be made seed by seed and notebook by notebook.

    Raises
    ------
    ValueError
        The new evaluations lack a fold of the earlier ones of their kind.

    """
    folds, again = (each.facts.groupby(KIND).fold.agg(set) for each in (before, new))
    for kind in folds.index.intersection(again.index):
        lost = sorted(folds[kind] - again[kind])
        if lost:
            named = dict(zip(KIND, kind, strict=True))
            raise ValueError(
                f"{named['method']} with seed {named['seed']} is published with folds "
                f"{sorted(folds[kind])}, and these runs lack {lost}: run them as well, "
                "as `make record` does"
            )
    replaced = pd.MultiIndex.from_frame(before.facts[KIND]).isin(again.index)
    return record.concat([before[~replaced], new])


def check_builds(facts: pd.DataFrame) -> None:
    """Refuse evaluations of changed code, and a fold whose notebooks are of different builds.

    A build is a commit, the versions of the packages and the machine, whatever the number of its
    threads: the encoder takes several, heads one. Raises ValueError.
    """
    unclean = facts[facts.commit.isna() | facts.commit.astype(str).str.endswith("+")]
    if len(unclean):
        line = unclean.iloc[0]
        raise ValueError(
            f"{line.method} with seed {line.seed}, fold {line.fold}, was run with changes that no "
            "commit has: commit them, and run again what they change"
        )
    machines = facts.machine.map(lambda own: {**(own or {}), "threads": None})
    builds = facts[["commit", "versions"]].assign(machine=machines).map(str).agg(" ".join, axis=1)
    for (_, seed, fold), of_fold in builds.groupby([facts.vlm, facts.seed, facts.fold]):
        if of_fold.nunique() > 1:
            raise ValueError(
                f"seed {seed}, fold {fold}: its notebooks ran with {of_fold.nunique()} builds "
                f"({'; '.join(sorted(of_fold.unique()))}): remove its run folder and run it again"
            )


def add_to_record(dataset: str, vlm: str) -> None:
    """Put the evaluations of runs into the record, see `merge`.

    Of what is varied (ablations, shifts, keep ratios) those of seed 0 alone, as the protocol says.
    Raises ValueError for evaluations that `check_builds` refuses.
    """
    some = of_runs(dataset, vlm)
    check_builds(some.facts)
    some = some[(some.facts.seed == 0) | (some.facts.varied == "")]
    merged = merge(record.published(dataset), some)
    merged.write(paths.record_folder() / dataset)
    pictures = paths.runs_folder(dataset, vlm).glob("seed0/fold0/slides/heat_map.png")
    for picture in () if VARIANT.search(dataset) else pictures:
        with atomic(paths.figures_folder() / f"{dataset}_heat_map.png") as copy:
            shutil.copyfile(picture, copy)


def against_record(some: Record) -> pd.DataFrame:
    """Mean pseudo-label precision of runs beside that of the record; empty without one."""
    dataset, vlm = some.facts[["dataset", "vlm"]].iloc[0]
    recorded = record.published(dataset).facts
    means = {}
    both = {"these runs": some.facts, "record": recorded[recorded.vlm == vlm]}
    for title, facts in both.items():
        main = at_main_keep_ratio(pseudo_label_frame(facts))
        means[title] = main.groupby("name", sort=False).precision.mean()
    return pd.DataFrame(means).dropna().round(3)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    description = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m figures.publish", description=__doc__, formatter_class=description
    )
    parser.add_argument("mode", nargs="?", choices=["figures", "runs", "record"], default="figures")
    parser.add_argument("dataset", nargs="?", help="a card in data/cards")
    parser.add_argument("vlm", nargs="?", help="names the run folders")
    options = parser.parse_args(arguments)
    end_by_exception()
    return exit_status(lambda: _publish(options.mode, options.dataset, options.vlm))


def _publish(mode: str, dataset: str | None, vlm: str | None) -> None:
    if mode != "figures" and not dataset:
        raise ValueError(f"{mode} needs a dataset")
    vlm = parameters.default_vlm(dataset, vlm or "") if dataset else ""
    if mode == "record":
        add_to_record(str(dataset), vlm)
    folder = publish_runs(str(dataset), vlm) if mode == "runs" else publish_record()
    print(f"tables and figures: {folder}")


if __name__ == "__main__":
    raise SystemExit(main())
