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
    """Print a line per job and whatever is not equal; returns the exit status."""
    end_by_exception()
    seed = int(os.environ.get("SEED", "0"))
    wrong, lines, started = 0, [], time.monotonic()
    for job in JOBS:
        if names and job.name not in names:
            continue
        began, draw = time.monotonic(), np.random.default_rng([seed, len(job.name)])
        outcome = killed(job, job.kills, draw)
        wrong += bool(outcome.problems)
        for problem in outcome.problems:
            print(f"{job.name}: {problem}", flush=True)
        how = ", ".join(f"{n} {h}" for h, n in sorted(outcome.kills.items()))
        spent = f"{outcome.seconds:.1f} | {(time.monotonic() - began) / 60:.1f}"
        line = f"| {job.name} | {how} | {outcome.equal} of {outcome.passages} | {spent} |"
        print(line, flush=True)
        lines.append(line)
    for name, (given, works, after) in PAIRS.items():
        if not names or name in names:
            found = together(given, works, after)
            wrong += bool(found)
            lines.append(f"| {name} | | {'not equal' if found else 'equal'} | | |")
            print(*(f"{name}: {problem}" for problem in found), lines[-1], sep="\n", flush=True)
    head = "| job | kills | passages equal | undisturbed, s | minutes |"
    print("\n".join(["", head, "|---|---|---|---|---|", *lines]))
    print(f"{(time.monotonic() - started) / 60:.0f} minutes, {wrong} not equal")
    return wrong > 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
