"""Open JupyterLab; with parameters on the first query: own tiles, then notebook 91 with the same.

python -m apps.labelling.start -p folder my_tiles -p classes "benign tissue; adenocarcinoma"

Arguments of JupyterLab may follow, and more in the environment's `LAB_ARGS`, quoted as in a shell.
"""

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib import parameters, paths, runner
from lib.artefacts import atomic

RESULT, LABEL = "90_your_own_tiles", "91_label_tiles"


def label_notebook(given: Mapping[str, Any]) -> Path:
    """Notebook 91 with its parameters filled in, beside the result of notebook 90.

    given: parameters of either; notebook 90 is run first unless its result for the same classes is
    there. Raises ValueError for an unknown parameter and RuntimeError when notebook 90 fails.
    """
    sources = {name: paths.notebook_file(name) for name in (RESULT, LABEL)}
    declared = {name: parameters.declared_parameters(file) for name, file in sources.items()}
    for name in given.keys() - declared[RESULT].keys() - declared[LABEL].keys():
        raise ValueError(f"unknown parameter {name!r}")
    if given.get("folder"):
        given = dict(given) | {"folder": str(Path(given["folder"]).expanduser().resolve())}
    of = {name: {k: v for k, v in given.items() if k in declared[name]} for name in sources}
    own = parameters.resolve_parameters(sources[RESULT], of[RESULT])
    label = parameters.resolve_parameters(sources[LABEL], of[LABEL])
    folder = Path(own["folder"]) if own["folder"] else _demo_tiles()
    out = paths.own_folder(own["dataset"], own["vlm"], own["seed"], folder)
    if not _has_result(out, folder, own):
        print(f"{RESULT} runs first …", file=sys.stderr, flush=True)
        runner.run_notebook(sources[RESULT], of[RESULT])
    notebook = out / f"{LABEL}.ipynb"
    with atomic(notebook) as file:
        file.write_text(_filled(sources[LABEL], label))
    return notebook


def _demo_tiles() -> Path:
    from data.prepare.datasets import prepare
    from lib.data.cards import read_card

    return prepare(read_card("demo"))


def _has_result(out: Path, folder: Path, own: Mapping[str, Any]) -> bool:
    """Whether notebook 90 has been here with these tiles, words, labels and settings.

    Without words, with whatever they were. own: parameters of notebook 90.
    """
    from apps.own_tiles import classifier
    from lib.vlm.prompts import PAPERS, parse_classes, parse_templates

    file = out / "classifier" / classifier.DESCRIPTION
    if not file.is_file():
        return False
    description = json.loads(file.read_text())
    sizes = {name: own[name] for name in ("image_size", "n_views", "keep_ratio", "n_steps")}
    unique = classifier.unique_tiles(classifier.list_tiles(folder))
    if description.get("made_from") != classifier.made_from(unique, own["labels"], **sizes):
        print(f"tiles, labels or settings have changed since {out}", file=sys.stderr)
        return False
    templates = parse_templates(own["templates"]) or [PAPERS]
    return not own["classes"] or description["classes"] == parse_classes(own["classes"], templates)


def _filled(notebook: Path, parameters: Mapping[str, Any]) -> str:
    """The notebook as .ipynb, its literals replaced by the parameters."""
    import jupytext

    content = jupytext.read(notebook)
    for cell in content.cells:
        if "parameters" in cell.metadata.get("tags", []):
            lines = (re.match(r"(\w+) = .*?(  # .*)", line) for line in cell.source.splitlines())
            pairs = [(line[1], line[2]) for line in lines if line]
            cell.source = "\n".join(f"{name} = {parameters[name]!r}{end}" for name, end in pairs)
    return jupytext.writes(content, fmt="ipynb")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; does not return once JupyterLab has taken over."""
    parser = argparse.ArgumentParser(prog="python -m apps.labelling.start", description=__doc__)
    parser.add_argument("-p", action="append", type=runner.name_and_value, metavar="NAME VALUE")
    arguments = runner.joined_parameters(sys.argv[1:] if arguments is None else arguments)
    options, lab = parser.parse_known_args(arguments)
    try:
        lab += _words("LAB_ARGS")
        notebook = label_notebook(dict(options.p)) if options.p else None
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if notebook:
        print(f"open {notebook} and run all cells", file=sys.stderr, flush=True)
        lab.insert(0, str(notebook))
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *lab])


def _words(variable: str) -> list[str]:
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise ValueError(f"{variable}={os.environ[variable]}: {error}") from None


if __name__ == "__main__":
    raise SystemExit(main())
