"""Tests in loops that still say which turn of the loop failed."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def case(*values: object) -> Iterator[None]:
    """Add the values to whatever fails inside: `with case(seed): assert …`."""
    try:
        yield
    except BaseException as error:  # pytest's own failures are no Exceptions
        error.add_note(f"in the case of {', '.join(map(repr, values))}")
        raise
