"""The chain on a SLURM of one node, where that is installed: the record is that of a local run."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import slurm
from processes import ROOT, snakemake, wait_for

EXECUTOR = importlib.util.find_spec("snakemake_executor_plugin_slurm")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm.MISSING), reason=f"not installed: {', '.join(slurm.MISSING)}"),
    pytest.mark.skipif(
        EXECUTOR is None, reason='pip install -e ".[cluster]" installs the executor'
    ),
]
TOLD = {"DATASET": "smoke", "SEEDS": "0,1", "FOLDS": "0", "VLM": "", "METHOD": "vlm-cpl"}
# As many threads as on the cluster, for the same bytes.
CHAIN = ["--max-threads", "1", "--until", "12_prompt_feature_consensus"]
HERE = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"]
SHARE = "rule_11_multi_view_consensus_share"
RUNS = Path("data", "runs", "smoke", "stand-in-smoke_other_lab")
HOUR = 3600  # a machine that is busy with other work is slow


class Jobs:
    """What SLURM says of its jobs."""

    def __init__(self, environment: dict[str, str], log: Path):
        self.environment, self.log = environment, log

    def call(self, *words: str) -> str:
        run = subprocess.run(words, env=self.environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout

    def listed(self, state: str, rule: str = "") -> list[str]:
        """Numbers of the jobs in a state, of a rule or of all."""
        lines = self.call("squeue", "-h", "-t", state, "-o", "%i %k").splitlines()
        return [line.split()[0] for line in lines if f" {rule}" in line]

    def ended(self) -> list[dict[str, str]]:
        """Those that ended, in this order, as SLURM logs them."""
        lines = self.log.read_text().splitlines()
        return [dict(w.split("=", 1) for w in line.split() if "=" in w) for line in lines]


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
    """Runs of the cluster and of this machine, and the jobs of the cluster.

    Of the cluster a job with a share of the tiles was killed, and then the node drained until all
    had ended that were running.
    """
    folder = tmp_path_factory.mktemp("cluster")
    (alone := folder / "alone").mkdir()
    local = snakemake(alone, *CHAIN, start=subprocess.Popen, **TOLD)
    told = TOLD | {"PARTS": "2", "PROFILE": str(ROOT / "profiles" / "slurm")}
    command = [sys.executable, "-m", "lib.reproduce", "--directory", str(folder), *CHAIN, *HERE]
    with slurm.one_node(folder / "slurm") as environment, (folder / "log").open("w") as log:
        jobs = Jobs(environment, folder / "slurm" / "jobs.txt")
        environment = environment | told | {"OUTPUT_ROOT": str(folder), "PYTHONPATH": str(ROOT)}
        chain = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

        def until(condition):
            assert wait_for(lambda: condition() or chain.poll() is not None, HOUR)
            assert chain.poll() is None, (folder / "log").read_text()[-3000:]

        at_work: list[str] = []

        def shares_run_their_notebooks() -> bool:
            at_work[:] = jobs.listed("RUNNING", SHARE)
            locks = list((folder / RUNS).glob("seed*/executed/.11_*-part*.lock"))
            return 0 < len(at_work) == len(locks)

        try:
            until(shares_run_their_notebooks)
            jobs.call("scancel", "--signal=KILL", "--full", at_work[0])
            node = jobs.call("sinfo", "-h", "-o", "%n").strip()
            jobs.call("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
            until(lambda: not jobs.listed("RUNNING") and jobs.listed("PENDING"))
            time.sleep(2)
            assert not jobs.listed("RUNNING")
            before = len(jobs.ended())
            jobs.call("scontrol", "update", f"nodename={node}", "state=resume")
            assert chain.wait(HOUR) == 0, (folder / "log").read_text()[-3000:]
        finally:
            chain.terminate()
            chain.wait()
        ended = jobs.ended()
    assert local.wait(HOUR) == 0, (alone / "chain.log").read_text()[-3000:]
    for job in ended:
        print(job["JobId"], job["JobState"], job["StartTime"], job["EndTime"])
    return folder / RUNS, alone / RUNS, ended, before


def test_what_was_killed_ran_again_and_what_waited_went_on(chains):
    cluster, _, ended, before = chains
    states = [job["JobState"] for job in ended]
    # Of two seeds 00, 01 and 12, and 10 and 11 with two shares each.
    assert states.count("COMPLETED") == 2 * (3 + 2 * 3) == len(states) - 1
    assert before < len(ended)
    executed = sorted(file.stem for file in cluster.glob("seed*/executed/*-part*.ipynb"))
    assert len(executed) == 8 and set(executed) == {
        f"{name}-part{part}"
        for name in ("10_zero_shot_inference", "11_multi_view_consensus")
        for part in (0, 1)
    }


def test_arrays_and_record_are_those_of_one_machine(chains):
    cluster, alone, *_ = chains
    names = sorted(file.relative_to(alone) for file in alone.rglob("*.npy"))
    assert len(names) == 2 * 8
    assert names == sorted(file.relative_to(cluster) for file in cluster.rglob("*.npy"))
    for name in names:
        assert (cluster / name).read_bytes() == (alone / name).read_bytes(), name
    tables = sorted(file.relative_to(alone) for file in alone.rglob("*.parquet"))
    assert tables == sorted(file.relative_to(cluster) for file in cluster.rglob("*.parquet"))
    assert len([name for name in tables if "results" in name.parts]) >= 2 * 2 * 3
    for name in tables:
        one, other = (pd.read_parquet(folder / name) for folder in (cluster, alone))
        timed = [column for column in ("seconds",) if column in one]
        pd.testing.assert_frame_equal(one.drop(columns=timed), other.drop(columns=timed))
