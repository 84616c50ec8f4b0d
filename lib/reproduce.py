"""Run the chain of notebooks as make asks for it; it ends with where the results are.

    DATASET=lc25k_colon SEEDS=0,1,2 python -m lib.reproduce [ablations]

PROFILE is one of Snakemake, as for a cluster; without it all cores of this machine are used.
Snakemake runs in a session of its own: an interruption ends all its jobs, and one line says so.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lib import paths, warm
from lib.artefacts import scratch_folder
from lib.command_line import INTERRUPTED, begin, say

SNAKEMAKE = "--quiet rules host progress --nolock --rerun-incomplete".split()
# Lines of Snakemake that say nothing to who called make.
NOISE = re.compile(
    r"KeyboardInterrupt caught in kernel|Complete log|Shutting down|Elapsed time|"
    r"Exiting because|At least one job|Terminating processes|"
    r"Cancelling snakemake|Removing output files|Assuming unrestricted|Building DAG|Using shell|"
    r"Select jobs|Execute \d+ jobs|Array job submission does not|\s*$"
)


RUNS = "runs in "  # what the Snakefile prints first


def summary(folder: Path) -> str:
    """Three lines: where the tables, the site of the run and the page with all figures are.

    folder: of the runs of a dataset with a VLM.
    """
    from lib.site import write_site

    index = write_site(folder)
    lines = {
        "results": folder / "figures" / "RESULTS.md",
        "notebooks": index,
        "page": index.with_name("40_record.html"),
    }
    return "\n".join(f"{name + ':':10} {path}" for name, path in lines.items() if path.is_file())


@contextmanager
def _ended_with_this(group: int) -> Iterator[None]:
    """Interrupt a group of processes where this process is killed and can end nothing itself."""
    wait = 'read -r _; kill -s INT -- "-$0"'  # a pipe that is closed when the process is gone
    with subprocess.Popen(
        ["sh", "-c", wait, str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as waiting:
        try:
            yield
        finally:
            waiting.kill()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run snakemake with further arguments; returns the exit status."""
    targets = sys.argv[1:] if arguments is None else [*arguments]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "Snakefile")]
    profile = os.environ.get("PROFILE")
    command += ["--profile", profile] if profile else ["--cores", "all"]
    signals = {signal.SIGTERM, signal.SIGHUP}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as nohup has it
        signals.remove(signal.SIGHUP)
    for number in {signal.SIGINT, *signals}:
        signal.signal(number, signal.default_int_handler)
    with (
        warm.started(wanted=not profile) as named,  # jobs of a cluster have another environment
        scratch_folder() as scratch,  # Snakemake leaves temporaries when it is killed
        subprocess.Popen(
            [*command, *SNAKEMAKE, *targets],
            env=os.environ | named | ({} if profile else {"TMPDIR": str(scratch)}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process,
        _ended_with_this(process.pid),
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(RUNS):
                    folder = Path(line.removeprefix(RUNS).rstrip("\n"))
                elif not NOISE.match(line):
                    print(line, end="", file=sys.stderr, flush=True)
            if process.wait() == 0:
                print(summary(folder))
            return process.returncode
        except KeyboardInterrupt:
            for number in {signal.SIGINT, *signals}:
                signal.signal(number, lambda *_: os.killpg(process.pid, signal.SIGKILL))
            os.killpg(process.pid, signal.SIGINT)
            process.communicate()
            say(INTERRUPTED)
            return 130


if __name__ == "__main__":
    begin()
    raise SystemExit(main())
