"""Meet every fault, or those of some lists, and print a table: `python -m tests.faults cards`."""

import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the hub client is imported
os.environ |= {"TQDM_DISABLE": "1"}
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as pytest has it

from lib.command_line import begin

from . import by_area, every
from .fault import problems


def main(lists: list[str]) -> int:
    """Print a line per area, and what is wrong; returns the exit status."""
    chosen = every(lists)
    n_wrong, lines = 0, []
    for area, faults in by_area(chosen):
        bad = 0
        for fault in faults:
            with tempfile.TemporaryDirectory(prefix="fault-") as folder:
                (Path(folder) / "here").mkdir()
                found = problems(fault, Path(folder) / "here")
            if found:
                bad += 1
                print("\n    ".join([f"{area}: {fault.name}", *found]), flush=True)
        n_wrong += bad
        lines.append(f"| {area} | {len(faults)} | {len(faults) - bad} |")
    print("\n".join(["", "| area | faults | met well |", "|---|---|---|", *lines]))
    print(f"{len(chosen)} faults, {n_wrong} not met well")
    return n_wrong > 0


if __name__ == "__main__":
    begin()
    raise SystemExit(main(sys.argv[1:]))
