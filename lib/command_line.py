"""How every command of this repository ends."""

import sys
from collections.abc import Callable

INTERRUPTED = "interrupted; the same command goes on"


def exit_status(work: Callable[[], None]) -> int:
    """Run a command and return its exit status; an error or an interruption is one message."""
    try:
        work()
    except (ValueError, RuntimeError, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say(INTERRUPTED)
        return 130
    return 0


def say(line: str) -> None:
    """Print to the terminal at once and in one piece: several commands may run side by side."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
