"""The notebooks, the README and the record keep in step."""

import ast
import re
import subprocess
from pathlib import Path

import jupytext
import pandas as pd
import pytest
import yaml
from jupytext.config import load_jupytext_config

from lib import runner
from lib.data import cards
from lib.report import active_learning, comparison, format
from lib.report import pseudo_labels as pseudo_labels
from lib.vlm import cards as vlm_cards

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)


def code_cells(notebook: Path) -> list:
    return [cell for cell in runner.cells(notebook) if cell.cell_type == "code"]


def is_import_cell(source: str) -> bool:
    return any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(source).body)


@each_notebook
def test_name_is_number_and_noun_phrase(notebook):
    assert re.fullmatch(r"\d\d(_[a-z0-9]+)+", notebook.stem)


def test_numbers_are_unique():
    numbers = [notebook.stem[:2] for notebook in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers)


@each_notebook
def test_round_trip_gives_the_same_bytes(notebook):
    source = notebook.read_text()
    config = load_jupytext_config(str(notebook))
    as_ipynb = jupytext.writes(jupytext.reads(source, fmt="py:percent"), fmt="ipynb")
    again = jupytext.reads(as_ipynb, fmt="ipynb")
    assert jupytext.writes(again, fmt="py:percent", config=config) == source


@each_notebook
def test_one_parameters_cell_with_a_comment_each(notebook):
    assert runner.declared_parameters(notebook)
    tagged = [c for c in runner.cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    for line in tagged[0].source.splitlines():
        assert re.fullmatch(r"\w+ = .+  # .+", line), f"{notebook.stem}: {line}"


@each_notebook
def test_one_import_cell(notebook):
    with_imports = [cell for cell in code_cells(notebook) if is_import_cell(cell.source)]
    assert len(with_imports) == 1


@each_notebook
def test_opens_with_title_and_equation_and_ends_with_a_recap(notebook):
    cells = runner.cells(notebook)
    assert cells[0].source.startswith("# ") and "$$" in cells[0].source
    assert cells[-1].source.startswith("**Recap.**")


@each_notebook
def test_stays_short_and_calls_lib(notebook):
    cells = code_cells(notebook)
    assert len(cells) <= 16
    for cell in cells:
        for node in ast.walk(ast.parse(cell.source.rstrip().rstrip(";"))):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef), notebook.stem


@each_notebook
def test_is_named_in_the_readme_and_in_the_chain(notebook):
    assert f"notebooks/{notebook.name}" in (ROOT / "README.md").read_text()
    chain, commands = (ROOT / "Snakefile").read_text(), (ROOT / "Makefile").read_text()
    assert f'"{notebook.stem}"' in chain or f"notebooks/{notebook.name}" in commands


def test_readme_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    for link in links:
        assert link.startswith("http") or (ROOT / link).exists(), f"README links to {link}"


def test_parameter_files_hold_only_declared_differences():
    for file in (ROOT / "notebooks" / "params").glob("*.yaml"):
        for name, value in yaml.safe_load(file.read_text()).items():
            declared = [p for n in NOTEBOOKS if name in (p := runner.declared_parameters(n))]
            assert declared, f"{file.name}: no notebook declares {name}"
            assert any(p[name] != value for p in declared), f"{file.name}: {name} is the default"
        for notebook in NOTEBOOKS:
            runner.resolve_parameters(notebook, {"dataset": file.stem})


def test_one_default_per_parameter_name():
    defaults: dict = {}
    for notebook in NOTEBOOKS:
        for name, value in runner.declared_parameters(notebook).items():
            assert defaults.setdefault(name, value) == value, f"{notebook.stem}: {name}"


def test_modules_stay_under_400_lines():
    for module in (ROOT / "lib").glob("*.py"):
        assert len(module.read_text().splitlines()) < 400, module.name


def test_public_functions_say_what_they_do():
    for module in (ROOT / "lib").glob("*.py"):
        for node in ast.parse(module.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                short = len(node.body) <= 2  # a name and one line can say it all
                assert ast.get_docstring(node) or short, f"{module.name}: {node.name}"


def test_no_executed_notebook_is_tracked():
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "*.ipynb"], capture_output=True, text=True, check=False
    )
    assert not listed.stdout.strip()


RECORDS = sorted((ROOT / "data" / "record").glob("*.jsonl"))


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_record_rows_follow_the_schema(file):
    rows = record.read_rows(file)
    assert len(rows) == len(file.read_text().splitlines())
    for row in rows:
        assert list(row) == record.ROW_FIELDS
        assert row["dataset"] == file.stem and row["commit"] and row["params"]


def recorded() -> list:
    return [row for file in RECORDS for row in record.read_rows(file)]


def test_readme_tables_are_those_of_the_record():
    text = (ROOT / "README.md").read_text()
    made = {
        "consensus": lambda rows, _: pseudo_labels.consensus_table(
            pseudo_labels.pseudo_label_frame(rows)
        ),
        "scores": comparison.scores_table,
        "parts": lambda rows, _: comparison.on_off_table(
            *comparison.ablation_frames(rows).values()
        ),
    }
    blocks = re.findall(r"<!-- (consensus|scores|parts) (\w+) -->\n(.*?)<!-- /", text, re.S)
    assert {kind for kind, *_ in blocks} == set(made)
    summary = re.search(r"<!-- summary -->\n(.*?)<!-- /", text, re.S)
    everything = comparison.of_own_vlm(recorded())
    assert summary and summary[1] == format.markdown(comparison.summary_table(everything))
    for kind, dataset, block in blocks:
        file = ROOT / "data" / "record" / f"{dataset}.jsonl"
        groups = comparison.groups_of_record(file.with_suffix(".groups.parquet"))
        rows = comparison.of_own_vlm(record.read_rows(file))
        assert block == format.markdown(made[kind](rows, groups))
    several = re.search(r"<!-- several -->\n(.*?)<!-- /", text, re.S)
    assert several and several[1] == format.markdown(comparison.vlm_comparison(recorded()))


def test_readme_tables_of_datasets_and_models_are_those_of_the_cards():
    text = (ROOT / "README.md").read_text()
    made = {"datasets": cards.datasets_table(), "vlms": vlm_cards.vlms_table()}
    for name, table in made.items():
        block = re.search(rf"<!-- {name} -->\n(.*?)<!-- /", text, re.S)
        assert block and block[1] == format.markdown(table), "`make figures` writes it anew"


def test_readme_tables_of_active_learning_are_those_of_the_record():
    text = (ROOT / "README.md").read_text()
    everything = active_learning.rounds_frame(comparison.of_own_vlm(recorded()))
    summary = re.search(r"<!-- unisal -->\n(.*?)<!-- /", text, re.S)
    assert summary and summary[1] == format.markdown(active_learning.summary_table(everything))
    blocks = re.findall(r"<!-- rounds (\w+) ([\w-]+) -->\n(.*?)<!-- /", text, re.S)
    assert blocks
    for dataset, network, block in blocks:
        chosen = (everything.dataset == dataset) & (everything.network == network)
        curves = everything[chosen & (everything.varied == ())]
        groups = pd.read_parquet(ROOT / "data" / "record" / f"{dataset}.rounds.parquet")
        table = active_learning.rounds_table(curves, groups[groups.network == network])
        assert block == format.markdown(table)
    for dataset, block in re.findall(r"<!-- round-parts (\w+) -->\n(.*?)<!-- /", text, re.S):
        chosen = (everything.dataset == dataset) & (everything.network == "frozen")
        assert block == format.markdown(active_learning.on_off_table(everything[chosen]))
