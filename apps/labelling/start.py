"""Open JupyterLab: on the first notebook, or with parameters on 91, to label own tiles.

python -m apps.labelling.start -p folder my_tiles -p classes "benign tissue; adenocarcinoma"

Arguments of JupyterLab may follow, and more in the environment's `LAB_ARGS`, quoted as in a shell.
"""

from lib import command_line

if __name__ == "__main__":  # before what takes seconds to import
    command_line.begin()

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from apps.own_tiles.classifier import DESCRIPTION
from apps.own_tiles.results import made_from
from apps.own_tiles.tile_folder import list_tiles, tiles_folder
from apps.own_tiles.words import parse_words
from lib import parameters, paths, runner
from lib.artefacts import atomic
from lib.command_line import end_by_exception, exit_status, say
from lib.vlm.prompts import PAPERS, parse_templates

FIRST, RESULT, LABEL = "00_tiles_and_splits", "90_your_own_tiles", "91_label_tiles"
MANAGER, FILES = "--ServerApp.contents_manager_class", "apps.labelling.notebook_files.NotebookFiles"


def label_notebook(values: Mapping[str, Any]) -> Path:
    """Write notebook 91 with its parameters filled in, beside the result of notebook 90.

    values: parameters of either; notebook 90 is run first unless its result for the same tiles,
    words, labels and settings is there. Raises ValueError for an unknown parameter and RuntimeError
    when notebook 90 fails.
    """
    import jupytext

    sources = {name: paths.notebook_file(name) for name in (RESULT, LABEL)}
    declared = {name: parameters.declared_parameters(file) for name, file in sources.items()}
    for name in values.keys() - declared[RESULT].keys() - declared[LABEL].keys():
        raise ValueError(f"unknown parameter {name!r}")
    if values.get("folder"):
        values = dict(values) | {"folder": str(Path(values["folder"]).expanduser().resolve())}
    for_own, for_label = (
        {k: v for k, v in values.items() if k in declared[name]} for name in (RESULT, LABEL)
    )
    own = parameters.resolve_parameters(sources[RESULT], for_own)
    label = parameters.resolve_parameters(sources[LABEL], for_label)
    tiles = tiles_folder(own["folder"])
    out = paths.own_folder(own["dataset"], own["vlm"], own["seed"], tiles)
    if not has_result(out, tiles, own):
        print(f"{RESULT} runs first …", file=sys.stderr, flush=True)
        runner.run_notebook(sources[RESULT], for_own)
    with atomic(out / f"{LABEL}.ipynb") as file:
        file.write_text(jupytext.writes(runner.filled(sources[LABEL], label), fmt="ipynb"))
    return out / f"{LABEL}.ipynb"


def has_result(out: Path, tiles: Path, own: Mapping[str, Any]) -> bool:
    """Check whether notebook 90 has been here with these tiles, words, labels and settings.

    Without words, with whatever they were. own: parameters of notebook 90.
    """
    if not (out / "classifier" / DESCRIPTION).is_file():
        return False
    description = json.loads((out / "classifier" / DESCRIPTION).read_text())
    settings = {name: own[name] for name in ("image_size", "n_views", "keep_ratio", "n_steps")}
    unique, before = list_tiles(tiles).unique, description.get("made_from", {})
    prompts, others = description["classes"], before.get("other_tissue", [])
    if own["classes"] or own["other_tissue"]:
        templates = parse_templates(own["templates"]) or [PAPERS]
        prompts, others = parse_words(own["classes"], own["other_tissue"], templates)
    settings |= {"other_tissue": others} if others else {}
    if before != made_from(unique, own["labels"], **settings):
        print(f"tiles, labels or settings have changed since {out}", file=sys.stderr)
        return False
    if [*description["classes"].items()] != [*prompts.items()]:
        print(f"the words of the classes have changed since {out}", file=sys.stderr)
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; does not return once JupyterLab has taken over."""
    parser = argparse.ArgumentParser(prog="python -m apps.labelling.start", description=__doc__)
    parser.add_argument("-p", action="append", type=runner.name_and_value, metavar="NAME VALUE")
    arguments = runner.joined_parameters(sys.argv[1:] if arguments is None else arguments)
    options, lab = parser.parse_known_args(arguments)
    end_by_exception()
    return exit_status(lambda: _open(dict(options.p or ()), lab))


def _open(values: Mapping[str, Any], lab: Sequence[str]) -> None:
    """Become JupyterLab, on the notebook that the values name; lab: its own arguments."""
    lab = [*lab, *_words("LAB_ARGS")]
    notebook = label_notebook(values) if values else paths.notebook_file(FIRST)
    # JupyterLab prints the address that it opens, with its token. It takes each option once.
    root = notebook.parent if values else paths.ROOT
    address = quote(f"/lab/tree/{notebook.relative_to(root).as_posix()}")
    named = {option.partition("=")[0] for option in lab}
    ours = {"--ServerApp.root_dir": root, "--LabApp.default_url": address, MANAGER: FILES}
    lab = [f"{name}={value}" for name, value in ours.items() if name not in named] + lab
    if values:
        say(f"run all cells of {notebook}")
    # Of its arguments none is read by a shell.
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *lab])  # nosec B606


def _words(variable: str) -> list[str]:
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise ValueError(f"{variable}={os.environ[variable]}: {error}") from None


if __name__ == "__main__":
    raise SystemExit(main())
