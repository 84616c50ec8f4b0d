"""Publish results: tables, figures and the generated blocks of the pages.

    python -m figures.publish                        # from data/record: figures/, README blocks
    python -m figures.publish runs DATASET [VLM]     # from runs: RESULTS.md and figures beside them
    python -m figures.publish record DATASET [VLM]   # puts runs into data/record, then as the first

Needs neither tiles nor a model. VLM: where it is left out, the one that the dataset's parameters
name.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from figures import front_page, results
from figures.card_tables import datasets_table, vlms_table
from figures.sections import Rows
from lib import parameters, paths
from lib.data import cards
from lib.record import read_rows
from lib.report import comparison
from lib.vlm.cards import describe_vlm


def page_of_runs(dataset: str, vlm: str) -> results.Page:
    """The page of the runs of a dataset with a VLM. Raises ValueError where there are none."""
    runs = paths.runs_folder(dataset, vlm)
    rows = results.rows_of_runs(runs)
    if not rows:
        raise ValueError(f"there are no rows of {dataset} with {vlm}: run `make reproduce` first")
    return results.of_runs(rows, _about(rows), runs)


def publish_runs(dataset: str, vlm: str) -> Path:
    """Write tables and figures of runs beside them; return the folder."""
    folder = paths.runs_folder(dataset, vlm) / "figures"
    page_of_runs(dataset, vlm).write(folder)
    return folder


def publish_record() -> Path:
    """Write all tables and figures of the record, and the blocks of the pages."""
    folder, root = paths.figures_folder(), paths.output_root()
    recorded = read_rows(*sorted(paths.record_folder().glob("*.jsonl")))
    own = {name: parameters.default_vlm(name) for name in {row["dataset"] for row in recorded}}
    rows = comparison.of_own_vlm(recorded, own)
    results.of_record(rows, _about(rows), recorded, paths.record_folder()).write(folder)
    front_page.write(rows, folder)
    of_cards = {"datasets": datasets_table(), "vlms": vlms_table()}
    front_page.write_blocks(root / "README.md", front_page.tables(rows))
    front_page.write_blocks(root / "data" / "README.md", of_cards)
    return folder


def _about(rows: Rows) -> dict[str, str]:
    """A sentence on each dataset and its model."""
    shown = {row["dataset"]: row["vlm"] for row in rows}
    return {n: f"{cards.read_card(n).title}, with {describe_vlm(v)}." for n, v in shown.items()}


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
    try:
        if options.mode == "figures":
            folder = publish_record()
        elif not options.dataset:
            raise ValueError(f"{options.mode} needs a dataset")
        else:
            vlm = options.vlm or parameters.default_vlm(options.dataset)
            if options.mode == "runs":
                folder = publish_runs(options.dataset, vlm)
            else:
                runs = paths.runs_folder(options.dataset, vlm)
                results.publish(options.dataset, vlm, results.rows_of_runs(runs), runs)
                folder = publish_record()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"tables and figures: {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
