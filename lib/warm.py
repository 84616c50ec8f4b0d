"""One process with every package imported, from which the notebooks of a chain are forked.

`lib/reproduce.py` starts it (`lib/warm_server.py`), `python -m lib.runner` asks it: it forks a
runner, which forks the kernel that papermill talks to. Both are gone when the notebook has ended.
Where there is no such process, or it is not the caller's, the runner starts as it does alone: on a
system other than Linux or with a GPU, for other variables of the environment, after a change of
`lib`.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

ADDRESS = "FEW_LABELS_WARM_PROCESS"  # the variable that names the socket
FOLDER = Path(__file__).parent
# Numerical libraries read these when they are loaded; a kernel sets its threads itself.
THREADS = {f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "GOTO", "NUMEXPR")}
THREADS |= {"VECLIB_MAXIMUM_THREADS"}
# What shells and Snakemake change besides, and what `lib` reads when it needs it.
OF_EACH_JOB = {"_", "SHLVL", "PWD", "OLDPWD", "COLUMNS", "LINES", "OUTPUT_ROOT", "DATA_ROOT"}
# Arrow starts a thread for an allocator that it does not use, and a fork has to have none.
NO_THREADS = {**dict.fromkeys(THREADS, "1"), "JE_ARROW_MALLOC_CONF": "background_thread:false"}
OF_EACH_JOB |= {*NO_THREADS, ADDRESS, "TMPDIR", "TMP", "TEMP", "TEMPDIR"}
REFUSED, KILLED = "", 137
GPUS = ("/dev/nvidiactl", "/dev/kfd")
LONGEST_ADDRESS = 108  # bytes of a socket's name on Linux


@contextlib.contextmanager
def started(*, wanted: bool = True) -> Iterator[dict[str, str]]:
    """Start the process for what runs inside; yields the variables that name it, none without."""
    import subprocess

    from lib.artefacts import scratch_folder

    named, null = {}, subprocess.DEVNULL
    with scratch_folder(sockets=True) as folder, contextlib.ExitStack() as ended:
        address = str(folder / "socket")
        if wanted and _can_fork() and len(os.fsencode(address)) < LONGEST_ADDRESS:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(address)
                listener.listen(64)
                server = subprocess.Popen(
                    [sys.executable, "-m", "lib.warm_server", str(listener.fileno())],
                    stdin=subprocess.PIPE,  # closed when this process is killed: it ends then
                    stdout=null,
                    stderr=null,
                    env=os.environ | NO_THREADS,
                    pass_fds=[listener.fileno()],
                    start_new_session=True,
                )
            ended.enter_context(server)
            ended.callback(server.kill)
            named[ADDRESS] = address
        yield named


def _can_fork() -> bool:
    """Whether a fork is safe: not on macOS, nor where importing torch asks for a GPU."""
    return sys.platform == "linux" and not any(map(os.path.exists, GPUS))


def hand_over(arguments: Sequence[str]) -> int | None:
    """Let the process run a notebook; its exit status, None where it is not there or refuses."""
    address = os.environ.get(ADDRESS)
    if not address:
        return None
    request = {"arguments": [*arguments], "cwd": os.getcwd(), "environment": dict(os.environ)}
    request["made"] = [str(FOLDER), sys.executable]
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
        socket.send_fds(connection, [b"."], [0, 1, 2])
        connection.sendall(json.dumps(request).encode() + b"\n")
        answers = connection.makefile()
        runner = answers.readline()
    except OSError:
        return None
    if runner == REFUSED:
        return None

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(runner), number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    return int(answers.readline() or KILLED)


class Child:
    """A forked process, with what the provisioner of a kernel asks of a `subprocess.Popen`."""

    stdin = stdout = stderr = returncode = None

    def __init__(self, pid: int, pipe: int):
        self.pid, self.pipe = pid, pipe

    def launch(self, **order: Any) -> None:
        """Tell the process which kernel it is."""
        with os.fdopen(self.pipe, "w") as opened:
            json.dump(order, opened)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    wait = poll  # the provisioner waits for one that has ended

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


waiting: Child | None = None  # the kernel of this process, until it is launched


def provisioner(manager: Any) -> Any:
    """What starts a kernel in the process that waits for it; None where there is none."""
    import uuid

    from jupyter_client.provisioning import LocalProvisioner

    class Forked(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
            global waiting
            child, waiting = waiting, None
            if child is None or cmd[:3] != [sys.executable, "-m", "lib.kernel"]:
                return await super().launch_kernel(cmd, **options)
            environment = options["env"] | {"JPY_PARENT_PID": str(os.getpid())}
            folder = str(options.get("cwd", os.getcwd()))
            # A kernel watches its parent; the variable was read when ipykernel was imported.
            watched = f"--IPKernelApp.parent_handle={os.getpid()}"
            child.launch(arguments=[*cmd[2:], watched], environment=environment, folder=folder)
            self.process, self.pid, self.pgid = cast(Any, child), child.pid, child.pid
            return self.connection_info

    if waiting is None:
        return None
    manager.kernel_id = str(uuid.uuid4())
    return Forked(kernel_id=manager.kernel_id, kernel_spec=manager.kernel_spec, parent=manager)
