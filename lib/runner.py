"""Run a notebook headlessly, with parameters that are checked first.

    python -m lib.runner notebooks/11_multi_view_consensus.py -p dataset lc25k_colon -p n_views 30

The percent script becomes `executed/11_multi_view_consensus.ipynb` in the run folder. Parameters
are the defaults of its tagged cell, then `notebooks/params/<dataset>.yaml`, then each `-p`.
"""

import argparse
import ast
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib import chain, paths, record
from lib.artefacts import atomic, locked, remove_leftovers, scratch_folder
from lib.parameters import declared_parameters, resolve_parameters
from lib.vlm.cards import check_vlm
from lib.yaml_files import parse_yaml


def cells(notebook: Path) -> list[Any]:
    """Cells of a percent script as jupytext reads them."""
    import jupytext

    return jupytext.read(notebook).cells


PACKAGES = ("lib", "apps", "data", "figures")


def modules_used(file: Path) -> list[Path]:
    """The modules of this repository that a script imports, and those that they import in turn."""
    found: dict[Path, None] = {}
    waiting = [file]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                names = [node.module or ""] + [
                    f"{node.module}.{alias.name}" for alias in node.names
                ]
                for name in names:
                    module = paths.ROOT / (name.replace(".", "/") + ".py")
                    if module.is_file() and module not in found:
                        found[module] = None
                        waiting.append(module)
    return sorted(found)


def run_of(parameters: Mapping[str, Any]) -> Path:
    """The folder of a notebook's run: of its fold, its seed, or above it for one of all seeds."""
    if "seed" in parameters:
        dataset, vlm, seed = (parameters[name] for name in ("dataset", "vlm", "seed"))
        return paths.run_folder(dataset, vlm, seed, parameters.get("fold"))
    return paths.runs_folder(parameters["dataset"], parameters["vlm"])


def name_of(notebook: Path, parameters: Mapping[str, Any]) -> str:
    """What the executed notebook and its rows are called."""
    given = {name: parameters[name] for name in ("network", "part") if name in parameters}
    return notebook.stem + chain.variant(**given)


# glibc gives the buffers of each layer back to the system and faults them in again at the next:
# told to keep them, the encoder was measured 1.4 times as fast on two cores.
KEEP_BUFFERS = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
# An executed notebook shows no progress bars, ours or those of transformers and its downloads.
NO_BARS = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def run_notebook(notebook: Path, given: Mapping[str, Any]) -> Path:
    """Execute a percent script with papermill from the repository's root.

    Returns the executed notebook. On an error the partial one is kept as `<name>.failed.ipynb`
    and a RuntimeError names the notebook, the cell and the error. Where another process runs the
    same notebook of the same run, this one says so and waits for it.
    """
    parameters = resolve_parameters(notebook, given)
    check_vlm(parameters["vlm"])
    name, folder = name_of(notebook, parameters), run_of(parameters) / "executed"
    lock = folder / f".{name}.lock"
    try:
        with locked(lock, wait=False):
            return _execute(notebook, parameters, folder / f"{name}.ipynb")
    except BlockingIOError as error:
        print(f"{name} is run by {error}; waiting for it", file=sys.stderr, flush=True)
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
    os.environ |= KEEP_BUFFERS | NO_BARS | os.environ  # the kernel inherits it
    failed = done.with_suffix(".failed.ipynb")
    with scratch_folder() as scratch, atomic(done) as partial:
        source = scratch / f"{notebook.stem}.ipynb"
        jupytext.write(jupytext.read(notebook), source, fmt="ipynb")
        try:
            papermill.execute_notebook(
                source,
                partial,
                parameters=parameters,
                kernel_name="python3",
                cwd=paths.ROOT,
                progress_bar=False,
                # Sockets as files: no ports that kernels running side by side could collide on.
                config=Config(
                    {
                        "KernelManager": {
                            "transport": "ipc",
                            "ip": f"{scratch}/kernel",
                            "connection_file": f"{scratch}/kernel.json",
                        }
                    }
                ),
            )
        except (PapermillExecutionError, DeadKernelError) as error:
            shutil.move(partial, failed)
            last = f"the kernel died ({error}), perhaps for lack of memory"
            if isinstance(error, PapermillExecutionError):
                last = f"cell {error.cell_index}: {error.ename}: {error.evalue}".strip()
            raise RuntimeError(
                f"{notebook.stem} failed in {last}\nThe notebook up to there: {failed}"
            ) from None
    failed.unlink(missing_ok=True)
    return done


def notebook_seconds(folder: Path) -> dict[str, float]:
    """Seconds that each executed notebook below `folder` took, by name."""
    seconds = {}
    for file in sorted(folder.rglob("executed/[0-9]*.ipynb")):
        if not file.name.endswith(".failed.ipynb"):
            papermill_data = json.loads(file.read_text())["metadata"]["papermill"]
            seconds[str(file.relative_to(folder))] = papermill_data["duration"]
    return seconds


def summary(folder: Path) -> str:
    """Seconds per notebook of a dataset with a VLM, and its tables if they are made."""
    seconds = notebook_seconds(folder)
    lines = [f"\n{folder}: seconds per notebook (of its last run)"]
    lines += [f"{value:8.1f}  {name}" for name, value in seconds.items()]
    lines.append(f"{sum(seconds.values()):8.1f}  in all")
    tables = folder / "figures" / "RESULTS.md"
    if tables.is_file():
        lines.append("\n" + tables.read_text())
    return "\n".join(lines)


TOLD = ("left out", "alarm: ", "open ")


def _told(executed: Path) -> list[str]:
    """What a notebook printed that its caller has to see: left out, alarms, where its page is."""
    outputs = [
        o for cell in json.loads(executed.read_text())["cells"] for o in cell.get("outputs", [])
    ]
    printed = "".join("".join(o["text"]) for o in outputs if o.get("name") == "stdout")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.runner", description=__doc__)
    parser.add_argument("notebook", type=Path, help="percent script, e.g. notebooks/10_….py")
    parser.add_argument(
        "-p", action="append", default=[], type=name_and_value, metavar="NAME VALUE",
        help="parameter",
    )  # fmt: skip
    options = parser.parse_args(joined_parameters(sys.argv[1:] if arguments is None else arguments))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporaries are removed
    try:
        if not options.notebook.is_file():
            raise ValueError(f"no such notebook: {options.notebook}")
        declared = declared_parameters(options.notebook)
        given = {
            n: v if type(declared.get(n)) is str else parse_yaml(v, f"parameter {n!r}")
            for n, v in options.p
        }
        parameters = resolve_parameters(options.notebook, given)
        name = name_of(options.notebook, parameters)
        of_run = [n for n in ("dataset", "vlm", "seed", "fold") if n in parameters]
        where = " ".join(str(parameters[n]) for n in of_run)
        print(f"{name} ({where}) …", file=sys.stderr, flush=True)
        started = time.perf_counter()
        done = run_notebook(options.notebook, given)
        rows = run_of(parameters) / "rows" / f"{name}.jsonl"
        result = record.headline(record.read_rows(rows)) if rows.is_file() else ""
        told = _told(done)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    seconds = time.perf_counter() - started
    first = f"{name} {seconds:.0f} s  {result}".rstrip()
    print("\n".join([first, *told]), file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
