"""The notebooks, the rooms of `lib` and the packages keep in step."""

import ast
import functools
import graphlib
import re
import subprocess
from pathlib import Path

import jupytext
import pytest
import yaml
from jupytext.config import load_jupytext_config

from lib import chain, parameters, paths, runner

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
MODULES = {
    ".".join(file.relative_to(ROOT / "lib").with_suffix("").parts): file
    for file in sorted((ROOT / "lib").rglob("*.py"))
    if file.name != "__init__.py"
}
CODE = [f for d in ("lib", "apps", "data/prepare", "figures") for f in (ROOT / d).rglob("*.py")]

# --- notebooks -----------------------------------------------------------------------------------

ALGORITHMS = ("01", "02", "10", "11", "12", "13", "20", "21", "22", "30")
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem[:2])
cells = functools.cache(runner.cells)
parsed = functools.cache(ast.parse)


def code_cells(notebook: Path, tag: str = "") -> list:
    """Its code cells, or those of a tag."""
    code = [cell for cell in cells(notebook) if cell.cell_type == "code"]
    return [cell for cell in code if not tag or tag in cell.metadata.get("tags", [])]


def nodes(cell, *kinds: type) -> list:
    return [n for n in ast.walk(parsed(cell.source.rstrip().rstrip(";"))) if isinstance(n, kinds)]


def test_notebooks_have_numbers_of_their_own_and_run_in_the_chain_or_by_a_command():
    commands = (ROOT / "Makefile").read_text()
    for notebook in NOTEBOOKS:
        assert re.fullmatch(r"\d\d(_[a-z0-9]+)+", notebook.stem)
        in_a_command = f"notebooks/{notebook.name}" in commands
        assert notebook.stem in chain.CHAIN or in_a_command, notebook.stem
    assert len({notebook.stem[:2] for notebook in NOTEBOOKS}) == len(NOTEBOOKS) > 10
    assert set(chain.CHAIN) <= {notebook.stem for notebook in NOTEBOOKS}


@each_notebook
def test_round_trip_gives_the_same_bytes(notebook):
    source, config = notebook.read_text(), load_jupytext_config(str(notebook))
    as_ipynb = jupytext.writes(jupytext.reads(source, fmt="py:percent"), fmt="ipynb")
    again = jupytext.reads(as_ipynb, fmt="ipynb")
    assert jupytext.writes(again, fmt="py:percent", config=config) == source


@each_notebook
def test_a_notebook_opens_with_its_equation_and_ends_with_a_recap(notebook):
    """In between it has one cell of imports, commented parameters, and lines that fit a page."""
    first, *_, last = cells(notebook)
    assert first.source.startswith("# ") and "$$" in first.source
    assert last.source.startswith("**Recap.**")
    assert sum(bool(nodes(c, ast.Import, ast.ImportFrom)) for c in code_cells(notebook)) == 1
    (tagged,) = code_cells(notebook, "parameters")
    for line in tagged.source.splitlines():
        assert re.fullmatch(r"\w+ = .+  # .+", line), line
    others = [cell for cell in code_cells(notebook) if cell is not tagged]
    assert not [line for c in others for line in c.source.splitlines() if len(line) > 100]


def names_from_lib(notebook: Path) -> set[str]:
    """What a notebook's imports from `lib` are called in it."""
    imported = [n for cell in code_cells(notebook) for n in nodes(cell, ast.ImportFrom)]
    ours = [n for n in imported if room(n.module or "") in ("lib", "apps", "figures")]
    return {alias.asname or alias.name for node in ours for alias in node.names}


@pytest.mark.parametrize("notebook", [n for n in NOTEBOOKS if n.stem[:2] in ALGORITHMS])
def test_one_cell_states_the_algorithm_and_asserts_that_lib_agrees(notebook):
    (cell,) = code_cells(notebook, "algorithm")
    (agrees,) = nodes(cell, ast.Assert)
    compared = {ast.unparse(n.func) for n in ast.walk(agrees) if isinstance(n, ast.Call)}
    assert {name.rpartition(".")[2] for name in compared} & {"array_equal", "allclose"}
    called = {ast.unparse(n.func) for n in nodes(cell, ast.Call)}
    of_lib = {c for c in called if c.partition(".")[0] in names_from_lib(notebook)}
    functions = {c for c in of_lib if c.rpartition(".")[2].islower()}
    assert len(functions) <= 1 and functions <= compared, functions


def test_every_notebook_of_a_single_run_opens_its_run_by_its_name():
    for name, step in chain.CHAIN.items():
        calls = re.findall(r"^run = open_run\((.*)\)$", paths.notebook_file(name).read_text(), re.M)
        assert calls == ([] if step.per == "dataset" else [f'"{name}", globals()']), name


def test_parameter_files_hold_only_declared_differences():
    for file in (ROOT / "notebooks" / "params").glob("*.yaml"):
        parameters.resolve_parameters(NOTEBOOKS[0], {"dataset": file.stem})
        for name, section in (yaml.safe_load(file.read_text()) or {}).items():
            if isinstance(section, dict):
                defaults = parameters.declared_parameters(paths.notebook_file(name))
                same = [key for key, value in section.items() if value == defaults[key]]
                assert not same, f"{file.name}: {same} are the defaults of {name}"


def test_every_number_among_the_parameters_has_bounds_that_hold_its_default():
    for notebook in NOTEBOOKS:
        for name, value in parameters.declared_parameters(notebook).items():
            if type(value) in (int, float):
                low, high = parameters.RANGES[name]
                assert low <= value <= high, f"{notebook.name}: {name}"


def test_no_executed_notebook_is_tracked():
    command = ["git", "-C", ROOT, "ls-files", "*.ipynb"]
    assert not subprocess.run(command, capture_output=True, check=False).stdout


# --- the rooms of lib ----------------------------------------------------------------------------

LEAVES = set(
    "artefacts blocks chain command_line csv_tables json_files labels packaged_weights parameters "
    "paths random_draws record yaml_files".split()
)
# What the modules of a room, or of the top, may import beside the leaves and their own room.
MAY_IMPORT = {
    "consensus": {"clusters"},
    "alarm": {"clusters"},
    "vlm": {"data"},
    "learning": {"data", "vlm", "consensus", "clusters", "alarm"},
    "active": {"learning", "consensus", "clusters", "alarm"},
    "slides": {"alarm", "data", "vlm", "learning", "consensus", "report"},
    "report": {"consensus", "alarm", "learning", "active"},  # of the last two, types alone
    "quality": {"learning", "active", "consensus", "clusters", "alarm", "report"},
    "figures": {"alarm", "consensus", "report", "slides", "quality"},
    "runner": {"vlm", "warm"},
    "reproduce": {"runner", "warm", "site"},
    "warm_server": {"runner", "warm", "kernel"},
    "run_folder": {"data"},
    "shares": {"run_folder", "vlm"},
}


def room(module: str) -> str:
    return module.partition(".")[0]


def imports(file: Path) -> set[str]:
    """The modules of `lib` that a module imports, wherever in it, as in "data.cards"."""
    names = set()
    for node in ast.walk(parsed(file.read_text())):
        if isinstance(node, ast.ImportFrom) and room(node.module or "") == "lib":
            inside = node.module.removeprefix("lib").removeprefix(".")
            for alias in node.names:
                within = f"{inside}.{alias.name}".removeprefix(".")
                names.add(within if within in MODULES else inside)
        elif isinstance(node, ast.Import):
            names |= {a.name.removeprefix("lib.") for a in node.names if room(a.name) == "lib"}
    return names


def test_imports_keep_to_the_rooms_and_never_go_round_in_a_circle():
    wrong, graph = [], {module: imports(file) for module, file in MODULES.items()}
    for module, names in graph.items():
        assert names <= MODULES.keys(), f"{module} imports {names - MODULES.keys()}"
        beside = set() if module in LEAVES else {room(module), *MAY_IMPORT.get(room(module), ())}
        wrong += [f"{module}: {n}" for n in names if not {n, room(n)} & (LEAVES | beside)]
    assert not wrong, "\n".join(["", *wrong])
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


def test_lib_imports_no_app():
    importing = r"^ *(?:from|import) apps"
    assert not [m for m, f in MODULES.items() if re.search(importing, f.read_text(), re.M)]


def test_a_room_says_in_its_docstring_what_lives_there_and_does_nothing_else():
    for file in (ROOT / "lib").glob("*/__init__.py"):
        module = parsed(file.read_text())
        assert ast.get_docstring(module) and len(module.body) == 1, file


def test_every_package_is_installed():
    text = (ROOT / "pyproject.toml").read_text()
    for folder in {file.parent.relative_to(ROOT) for file in CODE}:
        assert f'"{".".join(folder.parts)}"' in text, folder


# Still longer than seven; the list only shrinks.
LONG_SIGNATURES = {"random_view", "embed_views", "DualViewTraining.__init__"}


def test_a_function_has_at_most_seven_parameters():
    for file in CODE:
        tree = parsed(file.read_text())
        methods = {d: c.name for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for d in c.body}
        for node in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]:
            name = f"{methods[node]}.{node.name}" if node in methods else node.name
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            names = [a.arg for a in arguments if a.arg not in ("self", "cls")]
            assert len(names) <= 7 or name in LONG_SIGNATURES, f"{file}: {name}"


def test_public_functions_say_what_they_do():
    for module, file in MODULES.items():
        for node in parsed(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                short = len(node.body) <= 2  # a name and one line can say it all
                assert ast.get_docstring(node) or short, f"{module}: {node.name}"
