"""Worker processes that end with the process that started them, and leave nothing behind."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any


class WorkerPool(ThreadPoolExecutor):
    """A pool of a process per core, spawned: CUDA and threads do not fork.

    A thread hands tasks to each by a pipe. The queues of `ProcessPoolExecutor` have semaphores with
    a name, which stay in /dev/shm when all processes are killed at once. Raises MemoryError where a
    process ends before its task.
    """

    def __init__(self) -> None:
        super().__init__(os.cpu_count(), initializer=self._start)
        self._of_thread, self._processes = threading.local(), list[Any]()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._of_thread.pipe, other = spawn.Pipe()
        process = spawn.Process(target=_work, args=(other,), daemon=True)
        process.start()
        other.close()
        self._processes.append(process)

    def submit(self, task: Callable, /, *arguments: Any, **named: Any) -> Future:
        return super().submit(self._hand_over, task, arguments, named)

    def _hand_over(self, *asked: Any) -> Any:
        try:
            self._of_thread.pipe.send(asked)
            result, error = self._of_thread.pipe.recv()
        except (EOFError, ConnectionError):
            raise MemoryError("a process ended before its task") from None
        if error is not None:
            raise error
        return result

    def shutdown(self, *arguments: Any, **named: Any) -> None:
        super().shutdown(*arguments, **named)  # closes the pipes, with their threads
        for process in self._processes:
            process.join()


def _work(pipe: Connection) -> None:
    """Do what comes through a pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's is enough
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task, arguments, named = pipe.recv()
        except EOFError:
            return
        try:
            result, raised = task(*arguments, **named), None
        except Exception as error:
            result, raised = None, error
        pipe.send((result, raised))


def _end_with_parent() -> None:
    """A worker whose parent was killed would end only after its task."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
