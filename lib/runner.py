"""Run a notebook headlessly by papermill, with parameters that are checked first.

    python -m lib.runner notebooks/11_multi_view_consensus.py -p dataset lc25k_colon -p n_views 30

The percent script becomes `executed/11_multi_view_consensus.ipynb` in the run folder. Parameters
are the defaults of its tagged cell, then `notebooks/params/<dataset>.yaml`, then each `-p`; the
executed copy has them in place of the defaults.
"""

import sys

from lib import command_line, warm

if __name__ == "__main__":  # before what takes a second to import
    command_line.begin()
    status = warm.hand_over(sys.argv[1:])
    if status is not None:
        raise SystemExit(status)

import argparse
import ast
import builtins
import functools
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from lib import chain, paths, record
from lib.artefacts import atomic, locked, remove_leftovers, scratch_folder
from lib.command_line import end_by_exception, exit_status, say
from lib.parameters import declared_parameters, near_names, resolve_parameters
from lib.vlm.cards import check_vlm
from lib.yaml_files import parse_yaml

# glibc gives the buffers of each layer back to the system and faults them in again at the next:
# told to keep them, the encoder was measured 1.4 times as fast on two cores.
KEEP_BUFFERS = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
# An executed notebook shows no progress bars, ours or those of transformers and its downloads.
NO_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
PACKAGES = ("lib", "apps", "data", "figures")
# Notebooks are checked without jsonschema's IRIs, whose grammar takes seconds to build on import.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
# What a notebook prints that its caller has to see.
TOLD = ("left out", "converted: ", "alarm: ", "note: ", "open ")
TOLD_AT_ONCE = "download: "
# Errors whose text is for the user: those of files, and what this repository raises.
SAYING = {"ValueError", "UnreadableTiles", "Refused", "OutOfReach"}
SAYING |= {
    e.__name__ for e in vars(builtins).values() if isinstance(e, type) and issubclass(e, OSError)
}
SHORT = 3  # seconds: the heading of a section that takes longer is printed


def cells(notebook: Path) -> list[Any]:
    """Cells of a percent script as jupytext reads them."""
    import jupytext

    return jupytext.read(notebook).cells


def filled(notebook: Path, parameters: Mapping[str, Any]) -> Any:
    """A notebook whose parameters cell has these values in place of the defaults.

    That of a job that has only a share of its work ends with the cell that does it, if one says so.
    """
    import jupytext

    content = jupytext.read(notebook)
    for number, cell in enumerate(content.cells, 1):
        tags = cell.metadata.get("tags", [])
        if "share" in tags and parameters["part"] != -1:
            del content.cells[number:]
        if "parameters" in tags:
            lines = (re.match(r"(\w+) = .*?(  # .*|$)", line) for line in cell.source.splitlines())
            pairs = [(line[1], line[2]) for line in lines if line]
            cell.source = "\n".join(f"{name} = {parameters[name]!r}{end}" for name, end in pairs)
    return content


@functools.cache
def _modules_imported(file: Path) -> set[Path]:
    """The modules of this repository that a script imports itself, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            for name in ["", *(f".{alias.name}" for alias in node.names)]:
                found.add(paths.ROOT / (f"{node.module}{name}".replace(".", "/") + ".py"))
    return {module for module in found if module.is_file()}


def modules_used(file: Path) -> list[Path]:
    """The modules of this repository that a script imports, and those that they import in turn."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        new = _modules_imported(waiting.pop()) - found
        found |= new
        waiting += new
    return sorted(found)


def run_of(parameters: Mapping[str, Any]) -> Path:
    """The folder of a notebook's run: of its fold, its seed, or above it for one of all seeds."""
    if "seed" in parameters:
        dataset, vlm, seed = (parameters[name] for name in ("dataset", "vlm", "seed"))
        return paths.run_folder(dataset, vlm, seed, parameters.get("fold"))
    return paths.runs_folder(parameters["dataset"], parameters["vlm"])


def name_of(notebook: Path, parameters: Mapping[str, Any]) -> str:
    """What the executed notebook and its rows are called."""
    return notebook.stem + chain.variant(
        **{name: parameters[name] for name in ("network", "part") if name in parameters}
    )


def run_notebook(notebook: Path, passed: Mapping[str, Any]) -> Path:
    """Execute a percent script by papermill from the root; prints the headings that take long.

    Returns the executed notebook. On an error the partial one is kept as `<name>.failed.ipynb` and
    a RuntimeError says what happened. Where another process runs the same notebook of the same
    run, this one says so and waits for it.
    """
    parameters = resolve_parameters(notebook, passed)
    name, folder = name_of(notebook, parameters), run_of(parameters) / "executed"
    lock = folder / f".{name}.lock"
    try:
        with locked(lock, wait=False):
            return _execute(notebook, parameters, folder / f"{name}.ipynb")
    except BlockingIOError as error:
        say(f"{name} is run by {error}; waiting for it")
    with locked(lock):
        return _execute(notebook, parameters, folder / f"{name}.ipynb")


def _execute(notebook: Path, parameters: Mapping[str, Any], done: Path) -> Path:
    import jupytext
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    for touched in (
        done.parents[1],
        paths.pixels_folder(parameters["dataset"]),
        paths.model_folder(parameters["vlm"], 0).parent,
    ):
        remove_leftovers(touched)
    os.environ |= KEEP_BUFFERS | NO_BARS | os.environ | own_gpu(parameters)  # for the kernel
    failed, content = done.with_suffix(".failed.ipynb"), filled(notebook, parameters)
    with scratch_folder(sockets=True) as scratch, atomic(done) as partial:
        source = scratch / f"{notebook.stem}.ipynb"
        jupytext.write(content, source, fmt="ipynb")
        # Sockets as files: no ports that kernels running side by side could collide on.
        connection = {"transport": "ipc", "ip": f"{scratch}/kernel"}
        connection["connection_file"] = f"{scratch}/kernel.json"
        try:
            with _Sections(content, done.stem) as sections:
                # Without parameters papermill adds no second cell of them.
                papermill.execute_notebook(
                    source,
                    partial,
                    kernel_name="python3",
                    cwd=paths.ROOT,
                    progress_bar=False,
                    stdout_file=_Downloads(),
                    config=Config({"KernelManager": connection}),
                    kernel_manager_class=_quiet_kernels(),
                    # What a notebook computes is on the disk before its last cell ends: asked to
                    # close by itself, a kernel with torch in it takes seconds for nothing.
                    shutdown_kernel="immediate",
                    on_cell_start=sections.reach,
                )
        except (PapermillExecutionError, DeadKernelError) as error:
            shutil.move(partial, failed)
            raise RuntimeError(f"{done.stem}: {_explained(error)}\nup to there: {failed}") from None
    failed.unlink(missing_ok=True)
    shutil.rmtree(paths.shares_folder(done.parents[1], done.stem), ignore_errors=True)
    return done


def own_gpu(parameters: Mapping[str, Any], devices: str = "/dev/nvidia[0-9]*") -> dict[str, str]:
    """The one of several GPUs that a job sees: parts, seeds and folds are dealt to them in turn."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    several = told.split(",") if told is not None else [str(n) for n, _ in enumerate(glob(devices))]
    job = sum(max(0, parameters.get(name, 0)) for name in ("part", "seed", "fold"))
    return {"CUDA_VISIBLE_DEVICES": several[job % len(several)]} if len(several) > 1 else {}


def _quiet_kernels() -> type:
    """Kernels of this Python, whatever JUPYTER_PATH calls python3, quiet to the terminal."""
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    class QuietKernels(AsyncKernelManager):
        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            start = [sys.executable, "-m", "lib.kernel", "-f", "{connection_file}"]
            kernel = get_kernel_dict() | {"argv": start}
            self._kernel_spec = KernelSpec(resource_dir=RESOURCES, **kernel)
            self.provisioner = warm.provisioner(self)
            await super().start_kernel(stderr=subprocess.DEVNULL, **options)

    return QuietKernels


class _Downloads:
    """Prints what a notebook says of a download before it ends; a file to papermill."""

    def write(self, text: str) -> None:
        for line in text.splitlines():
            if line.startswith(TOLD_AT_ONCE):
                say(line)

    def flush(self) -> None:
        """Nothing waits."""


class _Sections:
    """Prints the heading of each section of a notebook that takes long, while it runs."""

    def __init__(self, content: Any, name: str):
        self.content, self.number = content, name[:2]
        self.next, self.timer = 0, threading.Timer(0, str)

    def __enter__(self) -> "_Sections":
        return self

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()

    def reach(self, *, cell_index: int, **_: Any) -> None:
        """Called before each code cell; a heading stands in a cell before it."""
        passed = self.content.cells[self.next : cell_index + 1]
        self.next = cell_index + 1
        for heading in re.findall(r"(?m)^## +(.+)$", "\n".join(cell.source for cell in passed)):
            self.timer.cancel()
            self.timer = threading.Timer(SHORT, say, [f"  {self.number} {heading} …"])
            self.timer.start()


def _explained(error: Exception) -> str:
    """What stopped a notebook, and what to do about it."""
    kind, text = getattr(error, "ename", ""), str(getattr(error, "evalue", "")).strip()
    little = "close other programs, or pass a smaller batch_size or fewer tiles"
    if not kind:
        return f"its process ended, most often for lack of memory: {little}"
    if kind in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in text:
        return f"there is too little memory: {little}"
    if kind in SAYING and text:
        return text
    return f"{kind}: {text}\nThis should not happen; please report it with the notebook"


def _told(executed: Path) -> list[str]:
    """What a notebook printed that its caller has to see: left out, alarms, where its page is."""
    import nbformat

    outputs = [o for c in nbformat.read(executed, 4).cells for o in c.get("outputs", [])]
    printed = "".join(o.text for o in outputs if o.get("name") == "stdout")
    lines = dict.fromkeys(line for line in printed.splitlines() if line.startswith(TOLD))
    return sorted(lines, key=lambda line: line.startswith("open "))


def joined_parameters(arguments: Sequence[str]) -> list[str]:
    """`-p NAME VALUE` as one argument each: a value may begin with a dash."""
    joined, rest = [], iter(arguments)
    for argument in rest:
        joined.append(f"-p{next(rest, '')}={next(rest, '')}" if argument == "-p" else argument)
    return joined


def name_and_value(text: str) -> tuple[str, str]:
    """What `joined_parameters` joined."""
    name, _, value = text.partition("=")
    return name, value


def _run(notebook: Path, options: Sequence[tuple[str, str]]) -> None:
    """Run a notebook and print what its caller wants to know."""
    if not notebook.is_file():
        names = sorted(f.stem for f in paths.notebook_file("").parent.glob("[0-9]*.py"))
        raise ValueError(f"there is no {notebook}{near_names(notebook.stem, names)}")
    declared = declared_parameters(notebook)
    passed = {
        n: v if type(declared.get(n)) is str else parse_yaml(v, f"parameter {n!r}")
        for n, v in options
    }
    parameters = resolve_parameters(notebook, passed)
    check_vlm(parameters["vlm"])
    name = name_of(notebook, parameters)
    of_run = (parameters[n] for n in ("dataset", "vlm", "seed", "fold") if n in parameters)
    say(f"{name} ({' '.join(map(str, of_run))}) …")
    started = time.perf_counter()
    told = _told(run_notebook(notebook, passed))
    result = record.headline(record.read(*record.stems(run_of(parameters) / "results", name)))
    first = f"{name} {time.perf_counter() - started:.0f} s  {result}".rstrip()
    say("\n".join([first, *told]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.runner", description=__doc__)
    parser.add_argument("notebook", type=Path, help="percent script, e.g. notebooks/10_….py")
    parser.add_argument("-p", action="append", default=[], type=name_and_value, help="NAME VALUE")
    options = parser.parse_args(joined_parameters(sys.argv[1:] if arguments is None else arguments))
    end_by_exception()
    return exit_status(lambda: _run(options.notebook, options.p))


if __name__ == "__main__":
    raise SystemExit(main())
