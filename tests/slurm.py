"""A SLURM of one node, with daemons, keys and ports of its own: it touches no other on the machine.

It needs the programs of Debian's `slurm-wlm` and `munge`, and no accounting.
"""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import wait_for

SBIN = f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=SBIN) is None]
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MinJobAge=3600
SlurmdParameters=config_overrides
ReturnToService=2
PropagatePrioProcess=1
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=64000 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@contextmanager
def one_node(folder: Path) -> Iterator[dict[str, str]]:
    """Start the daemons; gives the environment in which SLURM's commands find them.

    Jobs that ended are listed in `jobs.txt` of the folder.
    """
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            controller=_free_port(),
            node=_free_port(),
            cores=os.cpu_count(),
        )
    )
    # Snakemake's executor keeps SLURM_CONF from the job's own srun.
    srun = folder / "bin" / "srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    environment["PATH"] = f"{folder / 'bin'}:{SBIN}"

    def daemon(*words: object) -> subprocess.Popen:
        log = (folder / f"{words[0]}.out").open("w")
        return subprocess.Popen([*map(str, words)], env=environment, stdout=log, stderr=log)

    files = {"key-file": key, "socket": folder / "munge.socket"}
    files |= {"seed-file": folder / "munge.seed", "pid-file": folder / "munged.pid"}
    options = [f"--{name}={file}" for name, file in files.items()]
    daemons = [daemon("munged", "--foreground", "--force", *options)]
    try:
        assert wait_for((folder / "munge.socket").exists, 30)
        daemons += [daemon("slurmctld", "-D"), daemon("slurmd", "-D")]

        def idle() -> bool:
            listed = subprocess.run(
                ["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True
            )
            return listed.stdout.strip() == "idle"

        assert wait_for(idle, 60), "\n".join(f.read_text() for f in folder.glob("*.log"))
        yield environment
    finally:
        for process in reversed(daemons):
            process.send_signal(signal.SIGTERM)
            process.wait(60)
