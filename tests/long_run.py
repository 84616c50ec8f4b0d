"""Own tiles, slides and labelling over and over in one kernel, as in a JupyterLab that stays open.

    python -m tests.long_run HOURS

After each round a line: memory, open files, processes, what lies on the disk, and memory shared by
files. Fails where anything has grown from the second round to the last: memory by more than
`MOST_MB`, which it takes some ten rounds to level off, all else at all.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # as pytest has it

import numpy as np
import psutil
from jupyter_client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel
from miniatures import pixels, save
from slides.made_up_slides import piece, tissue_slide
from small_models import SMALL, write_model

from lib import paths, runner
from lib.parameters import resolve_parameters

MOST_MB = 100
SECONDS = 600  # of one cell
COLUMNS = "MB files children results temporary shm".split()
# What IPython keeps of the last 1000 outputs of cells is its own: 10 MB a round, mostly figures.
FORGET = "get_ipython().displayhook.flush()"
# A person looks at each tile of a query, answers, and finishes it, as the browser says it.
LABEL = """
from apps.labelling.answers import read
for n in range(len(grid.wanted)):
    told = {"n": n, "query": grid.query["number"], "seconds": 1, "suggestion": False}
    for kind in ({"kind": "tile"}, {"kind": "label", "label": n % len(names)}):
        grid._receive(grid, told | kind, [])
grid._receive(grid, {"kind": "finish", "query": grid.query["number"]}, [])
assert grid.phase == "label" and len(read(grid.file).lines) == 4, grid.note
"""


def cells(notebook: str, **given: object) -> list[str]:
    """The code of a notebook with these parameters."""
    file = paths.notebook_file(notebook)
    content = runner.filled(file, resolve_parameters(file, {"dataset": "own", **given}))
    return [cell.source for cell in content.cells if cell.cell_type == "code"]


def material(folder: Path) -> list[str]:
    """Tiles, slides and a model, and the cells that are run on them in each round."""
    draw = np.random.default_rng(0)
    for n in range(40):
        save(pixels(n % 2, 2, 48, draw), folder / "tiles" / f"{n}.png")
    (folder / "slides").mkdir()
    for n in range(3):
        box = (60, 80 + 30 * n, 520, 500)
        tissue_slide(folder / "slides" / f"{n}.tif", lambda pen, box=box: piece(pen, box))
    shared = {"vlm": write_model(folder / "vlm", SMALL, scale=100.0), "seed": 0}
    words = {"classes": "gland; fat", "n_views": 3, "n_steps": 30}
    tiles, slides = str(folder / "tiles"), str(folder / "slides")
    own = cells("90_your_own_tiles", folder=tiles, **shared, **words)
    label = {"folder": tiles, "query_size": 4, "n_steps": 20}
    label = cells("91_label_tiles", **label, **shared)
    large = {"tile_mpp": 4.0, "slide_steps": 30, "other_tissue": "muscle"}
    own_slides = cells("92_your_own_slides", folder=slides, **shared, **words, **large)
    return [*own, *label, LABEL, *own_slides, FORGET]


def run_cell(client: BlockingKernelClient, code: str) -> None:
    """Run a cell to its end. Raises RuntimeError with what it raises."""
    ended = client.execute_interactive(code, allow_stdin=False, output_hook=str, timeout=SECONDS)
    if ended["content"]["status"] != "ok":
        raise RuntimeError("\n".join([code, *ended["content"]["traceback"][-3:]]))


def measured(process: psutil.Process, output: Path, temporary: Path) -> list[int]:
    """One line of the table, in the order of COLUMNS."""
    children = process.children(recursive=True)
    memory = sum(p.memory_info().rss for p in [process, *children]) >> 20
    places = [sum(1 for _ in folder.rglob("*")) for folder in (output, temporary)]
    shared = sum(m.path.startswith("/dev/shm/") for m in process.memory_maps())
    return [memory, process.num_fds(), len(children), *places, shared]


def long_run(hours: float, folder: Path) -> list[list[int]]:
    """At least three rounds; returns the lines, and prints each."""
    output, temporary = folder / "output", folder / "tmp"
    temporary.mkdir()
    named = {"OUTPUT_ROOT": str(output), "TMPDIR": str(temporary), "PYTHONPATH": str(paths.ROOT)}
    named |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    code, lines, started = material(folder), [], time.monotonic()
    manager, client = start_new_kernel(env=os.environ | runner.KEEP_BUFFERS | named)
    try:
        process = psutil.Process(manager.provisioner.pid)
        print("round seconds", *COLUMNS)
        while len(lines) < 3 or time.monotonic() - started < 3600 * hours:
            shutil.rmtree(output, ignore_errors=True)  # all is made anew
            for cell in code:
                run_cell(client, cell)
            lines.append(measured(process, output, temporary))
            print(len(lines), round(time.monotonic() - started), *lines[-1], flush=True)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return lines


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        lines = long_run(float(sys.argv[1]), Path(folder))
    pairs = zip(COLUMNS, lines[1], lines[-1], strict=True)
    grown = [f"{n}: {a} to {b}" for n, a, b in pairs if b > a + MOST_MB * (n == "MB")]
    print("grown from the second round on:", "; ".join(grown) or "nothing")
    raise SystemExit(bool(grown))
