"""The notebooks, the rooms of `lib`, the README and the record keep in step."""

import ast
import functools
import graphlib
import re
import subprocess
from pathlib import Path

import jupytext
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


# --- notebooks -----------------------------------------------------------------------------------


cells = functools.cache(runner.cells)
declared_parameters = functools.cache(parameters.declared_parameters)
parsed = functools.cache(ast.parse)


def code_cells(notebook: Path) -> list:
    return [cell for cell in cells(notebook) if cell.cell_type == "code"]


def tree(cell) -> ast.Module:
    return parsed(cell.source.rstrip().rstrip(";"))


def is_import_cell(cell) -> bool:
    return any(isinstance(node, ast.Import | ast.ImportFrom) for node in tree(cell).body)


def has_tag(cell, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def is_parameters_cell(cell) -> bool:
    return has_tag(cell, "parameters")


def test_names_are_numbers_and_noun_phrases_and_numbers_are_unique():
    for notebook in NOTEBOOKS:
        assert re.fullmatch(r"\d\d(_[a-z0-9]+)+", notebook.stem)
    assert len({notebook.stem[:2] for notebook in NOTEBOOKS}) == len(NOTEBOOKS) > 10


def test_round_trip_gives_the_same_bytes():
    for notebook in NOTEBOOKS:
        source = notebook.read_text()
        config = load_jupytext_config(str(notebook))
        as_ipynb = jupytext.writes(jupytext.reads(source, fmt="py:percent"), fmt="ipynb")
        again = jupytext.reads(as_ipynb, fmt="ipynb")
        written = jupytext.writes(again, fmt="py:percent", config=config)
        assert written == source, notebook.stem


def test_one_parameters_cell_with_a_comment_each():
    for notebook in NOTEBOOKS:
        assert declared_parameters(notebook)
        tagged = [cell for cell in cells(notebook) if is_parameters_cell(cell)]
        for line in tagged[0].source.splitlines():
            assert re.fullmatch(r"\w+ = .+  # .+", line), f"{notebook.stem}: {line}"


def test_one_import_cell():
    for notebook in NOTEBOOKS:
        with_imports = [cell for cell in code_cells(notebook) if is_import_cell(cell)]
        assert len(with_imports) == 1, notebook.stem


def test_notebooks_open_with_title_and_equation_and_end_with_a_recap():
    for notebook in NOTEBOOKS:
        first, *_, last = cells(notebook)
        assert first.source.startswith("# ") and "$$" in first.source, notebook.stem
        assert last.source.startswith("**Recap.**"), notebook.stem


def test_lines_of_code_cells_fit_100_columns():
    for notebook in NOTEBOOKS:
        for cell in code_cells(notebook):
            lines = [] if is_parameters_cell(cell) else cell.source.splitlines()
            assert not [line for line in lines if len(line) > 100], notebook.stem


def names_from_lib(notebook: Path) -> set[str]:
    """What a notebook's imports from `lib` are called in it."""
    nodes = [node for cell in code_cells(notebook) for node in ast.walk(tree(cell))]
    imported = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname or alias.name
        for node in imported
        if room(node.module or "") in ("lib", "apps", "figures")
        for alias in node.names
    }


COMPARISONS = {"array_equal", "allclose"}
ALGORITHMS = ("01", "02", "10", "11", "12", "13", "20", "21", "22", "30")


def test_one_cell_states_the_algorithm_and_asserts_that_lib_agrees():
    for notebook in [file for file in NOTEBOOKS if file.stem[:2] in ALGORITHMS]:
        (cell,) = [cell for cell in code_cells(notebook) if has_tag(cell, "algorithm")]
        asserts = [node for node in tree(cell).body if isinstance(node, ast.Assert)]
        assert len(asserts) == 1, notebook.stem
        compared = {ast.unparse(n.func) for n in ast.walk(asserts[0]) if isinstance(n, ast.Call)}
        assert {name.rpartition(".")[2] for name in compared} & COMPARISONS, notebook.stem
        called = {ast.unparse(n.func) for n in ast.walk(tree(cell)) if isinstance(n, ast.Call)}
        of_lib = {c for c in called if c.partition(".")[0] in names_from_lib(notebook)}
        functions = {c for c in of_lib if c.rpartition(".")[2].islower()}
        assert len(functions) <= 1 and functions <= compared, f"{notebook.stem}: {functions}"


def test_every_notebook_of_a_single_run_opens_its_run_by_its_name():
    for name, step in chain.CHAIN.items():
        calls = re.findall(r"^run = open_run\((.*)\)$", paths.notebook_file(name).read_text(), re.M)
        assert calls == ([] if step.per == "dataset" else [f'"{name}", globals()']), name


def test_every_notebook_stands_in_the_chain_or_in_a_command():
    commands = (ROOT / "Makefile").read_text()
    for notebook in NOTEBOOKS:
        in_a_command = f"notebooks/{notebook.name}" in commands
        assert notebook.stem in chain.CHAIN or in_a_command, notebook.stem


def test_the_chain_names_only_notebooks_that_exist():
    assert set(chain.CHAIN) <= {notebook.stem for notebook in NOTEBOOKS}


def test_parameter_files_hold_only_declared_differences():
    for file in (ROOT / "notebooks" / "params").glob("*.yaml"):
        for notebook in NOTEBOOKS:
            parameters.resolve_parameters(notebook, {"dataset": file.stem})
        values = yaml.safe_load(file.read_text()) or {}
        for name, section in values.items():
            for key, value in section.items() if isinstance(section, dict) else ():
                default = declared_parameters(paths.notebook_file(name))[key]
                assert value != default, f"{file.name}: {key} is the default of {name}"


def test_no_executed_notebook_is_tracked():
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "*.ipynb"], capture_output=True, text=True, check=False
    )
    assert not listed.stdout.strip()


# --- the rooms of lib ----------------------------------------------------------------------------

LEAVES = {
    "artefacts",
    "chain",
    "command_line",
    "labels",
    "packaged_weights",
    "parameters",
    "paths",
    "random_draws",
    "record",
    "csv_tables",
    "workers",
    "yaml_files",
}
ROOMS = {"data", "vlm", "learning", "active", "slides", "report", "quality", "figures"}
# What the modules of a room, or of the top, may import beside the leaves and their own room.
MAY_IMPORT = {
    "clusters": set(),
    "consensus": {"clusters"},
    "alarm": {"clusters"},
    "data": set(),
    "vlm": {"data"},
    "learning": {"data", "vlm", "consensus", "clusters", "alarm"},
    "active": {"learning", "consensus", "clusters", "alarm"},
    "slides": {"alarm", "data", "vlm", "learning", "consensus", "report"},
    "report": {"consensus", "alarm", "learning", "active"},  # of the last two, types alone
    "quality": {"learning", "active", "consensus", "clusters", "alarm", "report"},
    "figures": {"alarm", "consensus", "report", "slides", "quality"},
    "runner": {"vlm"},
    "reproduce": {"runner"},
    "run_folder": {"data"},
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


def test_imports_keep_to_the_rooms():
    wrong = []
    for module, file in MODULES.items():
        allowed = LEAVES | {room(module)} | MAY_IMPORT.get(room(module), set())
        if module in LEAVES:
            allowed = LEAVES
        for name in imports(file):
            assert name in MODULES, f"{module} imports {name}: name its modules"
            if name not in allowed and room(name) not in allowed:
                wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(["", *wrong])


def test_lib_imports_no_app():
    importing = r"^ *(?:from|import) apps"
    users = {m for m, file in MODULES.items() if re.search(importing, file.read_text(), re.M)}
    assert not users


def test_imports_never_go_round_in_a_circle():
    graph = {module: imports(file) for module, file in MODULES.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


def test_every_module_has_its_place():
    top = {module for module in MODULES if "." not in module}
    assert top == LEAVES | (MAY_IMPORT.keys() - ROOMS)
    assert {room(module) for module in MODULES if "." in module} == ROOMS and len(ROOMS) <= 9


def test_a_room_has_at_most_a_dozen_modules():
    for name in ROOMS:
        modules = [module for module in MODULES if module.startswith(f"{name}.")]
        assert len(modules) <= 12, f"{name}: {len(modules)}"


def test_a_room_says_in_its_docstring_what_lives_there_and_does_nothing_else():
    for file in (ROOT / "lib").rglob("__init__.py"):
        module = parsed(file.read_text())
        assert ast.get_docstring(module) and len(module.body) == 1, file


CODE = [f for d in ("lib", "apps", "data/prepare", "figures") for f in (ROOT / d).rglob("*.py")]
# Still longer than seven; the list only shrinks.
LONG_SIGNATURES = {*("random_view", "embed_views", "DualViewTraining.__init__")}


def test_every_package_is_installed():
    text = (ROOT / "pyproject.toml").read_text()
    for folder in {file.parent.relative_to(ROOT) for file in CODE}:
        assert f'"{".".join(folder.parts)}"' in text, folder


def test_a_function_has_at_most_seven_parameters():
    for file in CODE:
        tree = parsed(file.read_text())
        methods = {d: c.name for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for d in c.body}
        for node in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]:
            name = f"{methods[node]}.{node.name}" if node in methods else node.name
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            names = [a.arg for a in arguments if a.arg not in ("self", "cls")]
            assert len(names) <= 7 or name in LONG_SIGNATURES, f"{file}: {name}"


def test_few_lines_are_kept_from_the_formatter():
    files = [*CODE, *NOTEBOOKS, *(ROOT / "tests").rglob("*.py")]
    assert sum(file.read_text().count("# fmt: " + "skip") for file in files) <= 40


def test_modules_stay_under_400_lines():
    for module, file in MODULES.items():
        assert len(file.read_text().splitlines()) < 400, module


def test_public_functions_say_what_they_do():
    for module, file in MODULES.items():
        for node in parsed(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                short = len(node.body) <= 2  # a name and one line can say it all
                assert ast.get_docstring(node) or short, f"{module}: {node.name}"


def test_tests_are_named_after_what_they_test():
    folders = {file.parent.name for file in (ROOT / "tests").rglob("test_*.py")} - {"tests"}
    assert folders <= ROOMS | {"prepare", "publish", "labelling", "own_tiles", "slide_viewer"}
    names = [file.name for file in (ROOT / "tests").glob("test_*.py")]
    assert "test_repository.py" in names and not [n for n in names if n.startswith("test_layout")]


# --- the record and the README -------------------------------------------------------------------


def test_readme_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    for link in links:
        assert link.startswith("http") or (ROOT / link).exists(), f"README links to {link}"
