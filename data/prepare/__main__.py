"""Bring a dataset here: `python -m data.prepare ebhi`. Any interruption is taken up again."""

from lib import command_line

if __name__ == "__main__":  # before what takes seconds to import
    command_line.begin()

import argparse
from collections.abc import Sequence

from data.prepare import datasets
from lib.command_line import end_by_exception, exit_status
from lib.data.cards import citation_lines, read_card


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m data.prepare", description=__doc__)
    parser.add_argument("dataset", help="a card in data/cards")
    options = parser.parse_args(arguments)
    end_by_exception()
    return exit_status(lambda: _bring(options.dataset))


def _bring(dataset: str) -> None:
    card = read_card(dataset)
    print(citation_lines(card), flush=True)
    if not card.drawn:
        datasets.fetch(card)
    print(f"{card.name} is at {datasets.prepare(card)}")


if __name__ == "__main__":
    raise SystemExit(main())
