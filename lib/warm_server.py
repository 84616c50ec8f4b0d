"""The process that notebooks are forked from: imports everything and waits to be asked.

    python -m lib.warm_server <number of an open socket>

See `lib/warm.py`, which starts it.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from lib import runner, warm
from lib.kernel import end_with
from lib.warm import FOLDER, OF_EACH_JOB, Child


def main() -> None:
    """Import everything, then fork a runner for each notebook until standard input is closed."""
    import gc
    import select

    listener = socket.socket(fileno=int(sys.argv[1]))
    if sys.path[0] == os.getcwd():
        del sys.path[0]  # as a kernel does
    environment, files = dict(os.environ), _files()
    _import_all()
    gc.collect()
    gc.freeze()  # what is shared with the children stays shared
    if len(os.listdir("/proc/self/task")) > 1:
        raise SystemExit("a package started threads, which a fork would lose")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for runners
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listener.accept()
        if files == _files() and os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _be_runner(connection, environment)
        connection.close()


def _files() -> dict[str, int]:
    """When each module was changed: with another one, what is imported is not what is asked for."""
    return {str(file): file.stat().st_mtime_ns for file in FOLDER.rglob("*.py")}


def _import_all() -> None:
    import importlib
    import pkgutil

    os.environ |= runner.KEEP_BUFFERS | runner.NO_BARS | os.environ
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # of kernels
    for module in pkgutil.walk_packages([str(FOLDER)], "lib."):
        # The style of figures is that of notebooks which import it; the second takes 600 MB.
        if not module.name.startswith(("lib.figures", "lib.active.activeml")):
            importlib.import_module(module.name)
    for name in (
        *("papermill", "jupytext", "nbclient", "ipykernel.ipkernel", "ipykernel.kernelapp"),
        *("sklearn.cluster", "sklearn.decomposition", "sklearn.linear_model", "sklearn.manifold"),
        *("sklearn.neighbors", "open_clip", "seaborn"),
    ):
        importlib.import_module(name)


def _be_runner(connection: socket.socket, environment: Mapping[str, str]) -> NoReturn:
    """Run what a connection asks for, in the process that was forked for it."""
    import tempfile
    import threading

    status = 1
    try:
        _, standard, *_ = socket.recv_fds(connection, 1, 3)
        request = json.loads(connection.makefile().readline())
        if not _same(request, environment):
            os._exit(0)
        for number, file in enumerate(standard):
            os.dup2(file, number)
            os.close(file)
        os.setsid()  # only the one who asked passes signals on
        _become(request["environment"], request["cwd"])
        tempfile.tempdir = None  # of the environment
        warm.waiting = _fork_kernel(connection)
        connection.sendall(f"{os.getpid()}\n".encode())

        def end_with_caller() -> None:
            connection.recv(1)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=end_with_caller, daemon=True).start()
        status = runner.main(request["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the caller ends when it has the status
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(OSError):  # the caller was killed
            connection.sendall(f"{status}\n".encode())
        os._exit(status)


def _same(request: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Whether what is imported here is what the caller would import."""
    asked = request["environment"]
    names = {*asked, *environment} - OF_EACH_JOB
    return (
        request["made"] == [str(FOLDER), sys.executable]
        and asked.get("OMP_NUM_THREADS", "").isdigit()
        and all(asked.get(name) == environment.get(name) for name in names)
    )


def _become(environment: Mapping[str, str], folder: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)


def _fork_kernel(connection: socket.socket) -> Child:
    """The process of a kernel, forked before this one has threads; it waits for its order."""
    order, pipe = os.pipe()
    pid = os.fork()
    if pid:
        os.close(order)
        return Child(pid, pipe)
    try:
        os.setsid()
        connection.close()
        os.close(pipe)
        with os.fdopen(order) as opened:
            text = opened.read()
        if text:  # else there is nothing to run: wrong parameters, or the runner was killed
            _be_kernel(**json.loads(text))
    finally:
        os._exit(0)


def _be_kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    import threadpoolctl
    import torch
    from ipykernel import kernelapp

    end_with(int(environment["JPY_PARENT_PID"]))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 2)
    _become(environment, folder)
    n = int(environment["OMP_NUM_THREADS"])
    torch.set_num_threads(n)
    threadpoolctl.threadpool_limits(n)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = arguments
    kernelapp.launch_new_instance()


if __name__ == "__main__":
    main()
