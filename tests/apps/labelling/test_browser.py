"""The grid in JupyterLab and a real browser, with keys alone: nothing that was labelled is lost."""

import os
import shutil
import signal
import time

import jupytext
import numpy as np
import pytest
from jupyter_lab import BROWSER, LabellingTab, browser, jupyter_lab, kernels
from PIL import Image

from apps.labelling import answers
from data.prepare import synthetic
from lib import paths

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on the PATH"),
]
MODEL = "jupyterapp.shell.currentWidget.context.model"
N = 12
KINDS = ("normal_mucosa", "lymphocytes", "adipose")
NOTEBOOK = """\
# %%
from pathlib import Path
import numpy as np
from apps.own_tiles.tile_folder import list_tiles
from apps.labelling.session import OwnTiles
from apps.labelling.widget import LabelGrid
folder = Path("tiles")
table = list_tiles(folder).table
features, probs = np.load("features.npy"), np.load("probs.npy")
own = OwnTiles(Path(), folder, table, table, {kinds}, features, probs, None)
# %%
grid = LabelGrid(own, probs, range(len(table)), Path("answers.jsonl"), who="anna")
grid
"""


@pytest.fixture
def place(tmp_path):
    """A folder with synthetic tiles and a notebook that labels them."""
    (tmp_path / "tiles").mkdir()
    for n in range(N):
        draw = np.random.default_rng(n)
        tile = synthetic.tissue_tile(KINDS[n % 3], synthetic.draw_slide(0.3, draw), 48, draw)
        Image.fromarray(tile).save(tmp_path / "tiles" / f"{n:02d} {KINDS[n % 3]}.png")
    np.save(tmp_path / "features.npy", np.random.default_rng(0).normal(size=(N, 8)))
    np.save(tmp_path / "probs.npy", np.random.default_rng(1).dirichlet(np.ones(3), N))
    notebook = jupytext.reads(NOTEBOOK.format(kinds=list(KINDS)), fmt="py:percent")
    names = {"display_name": "Python 3 (ipykernel)", "name": "python3", "language": "python"}
    notebook.metadata["kernelspec"] = names
    jupytext.write(notebook, tmp_path / "label.ipynb")
    shutil.copy(paths.notebook_file("91_label_tiles"), tmp_path / "script.py")
    return tmp_path


def on_file(place):
    read = answers.read(place / "answers.jsonl", KINDS)
    assert not read.problems
    return read.lines


def key_of(path):
    return str(KINDS.index(path.removesuffix(".png").partition(" ")[2]) + 1)


def test_keys_alone_label_and_nothing_is_lost(place):
    with jupyter_lab(place) as address, browser() as opened:
        tab = LabellingTab(opened, address, "label.ipynb")
        tab.run_all()
        tab.focus()

        # Classes, none of these, skip.
        for done in range(1, 4):
            tab.press(key_of(tab.path()), labelled=done)
        tab.press("0", labelled=4)
        tab.press("s")
        tab.page.wait_for_selector(".label-grid[data-here='5']")
        lines = on_file(place)
        assert lines.label.tolist() == [*KINDS, None, None]
        assert lines.action.tolist() == ["label"] * 4 + ["skip"]
        assert (
            (lines.seconds > 0).all() and not lines.suggestion.any() and set(lines.who) == {"anna"}
        )
        cells = tab.page.locator(".jp-Notebook .jp-Cell").count()

        # The suggestion is hidden until it is asked for, and the answer says that it was seen.
        assert tab.page.locator(".choice.suggested").count() == 0
        tab.press("m")
        tab.page.wait_for_selector(".choice.suggested")
        tab.press("1", labelled=5)
        tab.press("m")
        assert on_file(place).suggestion.tolist() == [False] * 5 + [True]

        # Undo takes the last answers back, one by one, and asks again.
        tab.press("u", labelled=4)
        assert tab.path().startswith("05")
        tab.press("u")
        tab.page.wait_for_selector(".label-grid[data-here='4']")
        tab.press("2", labelled=5)
        assert on_file(place).action.tolist()[-3:] == ["undo", "undo", "label"]
        assert len(answers.standing(on_file(place))) == 5

        # A key of the grid is none of the notebook's: no cell came, none went.
        for key in ("a", "b", "x", "d", "d", "z", "9"):
            tab.press(key)
        assert tab.page.locator(".jp-Notebook .jp-Cell").count() == cells
        assert len(on_file(place)) == 9

        # Going back and answering again is a further line.
        tab.press("ArrowLeft")
        tab.press("3")
        last = "document.querySelector('.label-grid .last').textContent"
        tab.page.wait_for_function(f"() => {last}.includes('adipose')")
        said = answers.standing(on_file(place))
        assert len(on_file(place)) == 10 and len(said) == 5

        # Reloaded in the middle, with the kernel alive: the grid is where it was.
        tab.save()
        tab.page.reload()
        tab.kernel_is_there()
        tab.grid_is_ready()
        assert (tab.shown("labelled"), tab.shown("here")) == ("5", "5")
        tab.focus()
        tab.press(key_of(tab.path()), labelled=6)

        # A second tab of the same notebook goes on beside the first.
        second = LabellingTab(opened, address, "label.ipynb")
        second.grid_is_ready()
        second.focus()
        second.press(key_of(second.path()), labelled=7)
        tab.page.wait_for_selector(".label-grid[data-labelled='7']")
        tab.press("ArrowRight")
        tab.press(key_of(tab.path()), labelled=8)
        second.page.wait_for_selector(".label-grid[data-labelled='8']")
        second.page.close()

        # The kernel is killed: the grid says that nothing is saved, and all that was is there.
        before = (place / "answers.jsonl").read_bytes()
        (kernel,) = kernels(address)
        kill_kernel(kernel["id"], place)
        tab.page.wait_for_selector(".jp-Dialog")  # the kernel has died and is started again
        tab.page.keyboard.press("Enter")
        tab.kernel_is_there()
        tab.focus()
        tab.page.keyboard.press("1")
        tab.page.wait_for_selector(".label-grid .bar.wrong")
        assert (place / "answers.jsonl").read_bytes() == before
        tab.run_all()
        tab.page.wait_for_selector(".label-grid[data-labelled='8']:not(:has(.bar.wrong))")
        tab.focus()

        # Enter asks once where tiles are open, and then leaves them out.
        tab.press(key_of(tab.path()), labelled=9)
        tab.press("Enter")
        tab.page.wait_for_selector(".label-grid .bar.ask")
        tab.press("Enter")
        tab.page.wait_for_selector(".label-grid[data-phase='done']")
        assert (place / "answers.jsonl").read_bytes().startswith(before)
        said = answers.standing(on_file(place))
        assert len(said) == N and (said.action == "label").sum() == 9

        # A script that is opened as a notebook is not changed by that.
        tab = LabellingTab(opened, address, "script.py")
        time.sleep(2)  # the kernel has said what it is
        tab.page.wait_for_function(f"() => {MODEL}.cells.length > 9 && !{MODEL}.dirty")


def kill_kernel(identity, place):
    """As the system does when memory runs out."""
    connection = f"kernel-{identity}.json"
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline") as file:
                    command = file.read()
            except OSError:
                continue
            if connection in command:
                os.kill(int(entry), signal.SIGKILL)
                return
    raise AssertionError("no kernel runs")
