"""What stands for a tile without a label, and the warning of a class without one."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

UNLABELLED = -1
# Answers of an oracle to a query.
REFUSED = -2  # this tile shows none of the classes, or cannot be judged
UNANSWERED = -3  # no answer came: the tile stays without a label
WAITING = -4  # chosen, the oracle has yet to see it

NONE_OF_THESE = "none of these"  # what people and files say of a tile that shows no class
OTHER_TISSUE = "other tissue"  # the class of such a tile where other tissue is learnt

NO_LABEL_OF = "no labelled tile of class"


@contextmanager
def missing_classes_expected() -> Iterator[None]:
    """No warning of a class without a label, where an alarm or a table says it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", NO_LABEL_OF)
        yield
