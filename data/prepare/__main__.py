"""Bring a dataset here: `python -m data.prepare ebhi`. Any interruption is taken up again."""

import argparse
import signal
import sys
from collections.abc import Sequence

from data.prepare import datasets
from lib.data.cards import citation_lines, read_card


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m data.prepare", description=__doc__)
    parser.add_argument("dataset", help="a card in data/cards")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporaries are removed
    try:
        card = read_card(options.dataset)
        print(citation_lines(card), flush=True)
        if not card.drawn:
            datasets.fetch(card)
        folder = datasets.prepare(card)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"{card.name} is at {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
