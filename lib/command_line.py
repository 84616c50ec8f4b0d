"""How every command of this repository ends."""

import logging
import signal
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


def end_by_exception() -> None:
    """Let SIGINT and SIGTERM end this process by an exception, so that temporaries are removed."""

    def end(number: int, _: object) -> None:
        logging.disable()  # what the client of a kernel that is shut down logs is for nobody
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, end)


def say(line: str) -> None:
    """Print to the terminal at once and in one piece: several commands may run side by side."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
