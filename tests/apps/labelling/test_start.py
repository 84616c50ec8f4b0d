"""What `make lab` and `make label` hand over to JupyterLab."""

import os
import sys

import pytest

from apps.labelling import start


@pytest.fixture
def opened(monkeypatch) -> list[list[str]]:
    """The commands that the process would have become."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: commands.append(command))
    return commands


def test_words_for_jupyterlab_are_quoted_as_in_a_shell_and_none_is_run(opened, monkeypatch):
    """An option that is named is not given twice, which JupyterLab refuses."""
    monkeypatch.setenv("LAB_ARGS", "--port=1 'two words' $(touch x) \"it's\" -x")
    start.main(["--no-browser", "--ServerApp.root_dir=."])
    words = ["--no-browser", "--ServerApp.root_dir=.", "--port=1", "two words", "$(touch", "x)"]
    address = "--LabApp.default_url=/lab/tree/notebooks/00_tiles_and_splits.py"
    first = [sys.executable, "-m", "jupyterlab", address, f"{start.MANAGER}={start.FILES}"]
    assert opened == [[*first, *words, "it's", "-x"]]


def test_a_quote_that_does_not_end_is_refused_in_a_line(opened, monkeypatch, capsys):
    monkeypatch.setenv("LAB_ARGS", "it's")
    assert start.main([]) == 1
    assert capsys.readouterr().err == "error: LAB_ARGS=it's: No closing quotation\n"
    assert not opened


def test_a_value_may_begin_with_a_dash_and_the_address_of_the_notebook_is_opened(
    opened, monkeypatch, tmp_path
):
    named, values = {"folder": "-x", "classes": "--help", "vlm": "a=b"}, []
    file = tmp_path / "my tiles" / "91_label_tiles.ipynb"
    monkeypatch.setattr(start, "label_notebook", lambda given: values.append(given) or file)
    start.main([word for pair in named.items() for word in ("-p", *pair)])
    assert values == [named]
    assert f"--ServerApp.root_dir={file.parent}" in opened[0]
    assert "--LabApp.default_url=/lab/tree/91_label_tiles.ipynb" in opened[0]
