"""Progress bars for people who watch, and one line for those who read a log afterwards."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
HEADLESS = "FEW_LABELS_HEADLESS"  # set by `lib.runner` for the kernels that it starts
LONG = 60  # seconds after which a headless piece of work says that it is done


def _watched() -> bool:
    """Whether somebody sees a bar move: a terminal, or a notebook that is stepped through."""
    if os.environ.get(HEADLESS):
        return False
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def progress_bar(
    total: int | None, title: str, unit: str, *, shown: bool = True, **options: Any
) -> Iterator[Any]:
    """A bar with `update` and `set_postfix`; without a watcher one line, if it took long.

    options: further arguments of tqdm.
    """
    started = time.perf_counter()
    with tqdm(
        total=total, desc=title, unit=unit, disable=not (shown and _watched()), **options
    ) as bar:
        yield bar
    seconds = time.perf_counter() - started
    if shown and not _watched() and seconds > LONG:
        print(f"{title}: {total} {unit}s in {seconds:.0f} s")


def progress(
    items: Iterable[T], title: str, unit: str, *, total: int, shown: bool = True
) -> Iterator[T]:
    """The items, with a bar that moves as they are taken; see `progress_bar`."""
    with progress_bar(total, title, unit, shown=shown) as bar:
        for item in items:
            yield item
            bar.update()
