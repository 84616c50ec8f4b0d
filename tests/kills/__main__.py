"""Kill every job, or those that are named, and print a table: `python -m tests.kills labelling`."""

import os
import sys
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as pytest has it

import numpy as np

from lib.command_line import end_by_exception

from .bench import killed, together
from .jobs import JOBS, PAIRS


def main(names: list[str]) -> int:
    """Print a line per job, and what is not equal; returns the exit status."""
    end_by_exception()
    seed, started, wrong = int(os.environ.get("SEED", "0")), time.monotonic(), 0
    print(
        "| job | kills | ends equal | undisturbed, s | minutes |\n|---|---|---|---|---|", flush=True
    )
    for number, job in enumerate(JOBS):
        if not names or job.name in names:
            began = time.monotonic()
            outcome = killed(job, job.kills, np.random.default_rng([seed, number]))
            how = ", ".join(f"{n} {h}" for h, n in sorted(outcome.kills.items()))
            spent = f"{outcome.seconds:.1f} | {(time.monotonic() - began) / 60:.1f}"
            print(f"| {job.name} | {how} | {outcome.equal} of {outcome.passages} | {spent} |")
            print(*outcome.problems, sep="\n", end="\n" * bool(outcome.problems), flush=True)
            wrong += bool(outcome.problems)
    for name, (given, works, after) in PAIRS.items():
        if not names or name in names:
            began, problems = time.monotonic(), together(given, works, after)
            spent = f"{(time.monotonic() - began) / 60:.1f}"
            print(f"| {name} | none | {int(not problems)} of 1 | | {spent} |")
            print(*problems, sep="\n", end="\n" * bool(problems), flush=True)
            wrong += bool(problems)
    print(f"{(time.monotonic() - started) / 60:.0f} minutes, {wrong} not equal")
    return wrong > 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
