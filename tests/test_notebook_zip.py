"""The zip of notebooks runs where it is unpacked, from the folder of the notebooks."""

from zipfile import ZipFile

import nbformat
import pytest
from nbclient import NotebookClient

from lib import notebook_zip, paths


@pytest.mark.slow
def test_an_unpacked_notebook_runs_from_its_own_folder_with_the_code_beside_it(
    tmp_path, monkeypatch
):
    with ZipFile(notebook_zip.write_zip(tmp_path / "n.zip")) as packed:
        packed.extractall(tmp_path)
    root = tmp_path / notebook_zip.FOLDER
    scripts = {file.stem for file in (paths.ROOT / "notebooks").glob("*.py")}
    assert {file.stem for file in (root / "notebooks").glob("*.ipynb")} == scripts
    for name in ("PYTHONPATH", "OUTPUT_ROOT", "DATA_ROOT"):
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.read(root / "notebooks" / "00_tiles_and_splits.ipynb", 4)
    [cell] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    cell.source = cell.source.replace('"demo"', '"smoke"').replace(
        "stand-in-demo", "stand-in-smoke"
    )
    where = {"metadata": {"path": str(root / "notebooks")}}
    NotebookClient(notebook, resources=where, timeout=300).execute()
    assert list((root / "data" / "runs" / "smoke").rglob("tiles.parquet"))
