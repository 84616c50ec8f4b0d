"""How every command of this repository ends."""

import io
import logging
import os
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
    except MemoryError:
        say("error: there is too little memory: close other programs, or pass fewer tiles")
        return 1
    except KeyboardInterrupt:
        say(INTERRUPTED)
        return 130
    return 0


def begin() -> None:
    """What every command does before what takes seconds to import.

    Text is UTF-8 whatever the language of the shell, as where make starts it, and what a terminal
    cannot show is printed as its number. SIGINT ends this process with one line, while it imports
    and has nothing to remove.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        words = [sys.executable, *sys.orig_argv[1:]]
        again = [word.encode("utf-8", "surrogateescape") for word in words]
        os.execv(sys.executable, again)  # the same command  # nosec B606
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def end(*_: object) -> None:
        say(INTERRUPTED)
        os._exit(130)

    signal.signal(signal.SIGINT, end)


def end_by_exception() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end this process by an exception that removes temporaries."""

    def end(number: int, _: object) -> None:
        logging.disable()  # what the client of a kernel that is shut down logs is for nobody
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # as nohup has it
    for ending in (signal.SIGINT, signal.SIGTERM, *[signal.SIGHUP] * hangs_up):
        signal.signal(ending, end)


def say(line: str) -> None:
    """Print to the terminal at once and in one piece: several commands may run side by side."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
