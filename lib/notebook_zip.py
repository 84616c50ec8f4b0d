"""The repository as a zip in which every notebook is an .ipynb, for Colab and VS Code.

python -m lib.notebook_zip
"""

import subprocess
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import jupytext
import nbformat

from lib import paths
from lib.artefacts import atomic
from lib.command_line import exit_status

FOLDER = "few-labels-or-none"
# The kernels of both begin in the notebook's folder, where there is no lib.
FIRST = 'import sys\n\nsys.path.insert(0, "..")  # the folder that was unpacked, where lib is'


def main() -> None:
    """Write the zip to `dist` and say where it is."""
    print("open", write_zip(paths.output_root() / "dist" / f"{FOLDER}.zip"))


def write_zip(file: Path) -> Path:
    """Pack what git tracks, and beside each script of `notebooks` itself as an .ipynb."""
    listed = subprocess.run(
        ["git", "-C", str(paths.ROOT), "ls-files", "-z"], capture_output=True, check=True, text=True
    )
    with atomic(file) as temporary, ZipFile(temporary, "w", ZIP_DEFLATED) as packed:
        for name in filter(None, listed.stdout.split("\0")):
            packed.write(paths.ROOT / name, f"{FOLDER}/{name}")
        for script in sorted((paths.ROOT / "notebooks").glob("*.py")):
            notebook = jupytext.read(script)
            notebook.cells.insert(0, nbformat.v4.new_code_cell(FIRST))
            name = f"{FOLDER}/notebooks/{script.stem}.ipynb"
            packed.writestr(name, jupytext.writes(notebook, fmt="ipynb"))
    return file


if __name__ == "__main__":
    raise SystemExit(exit_status(main))
