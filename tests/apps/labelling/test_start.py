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
    monkeypatch.setenv("LAB_ARGS", "--port=1 'two words' $(touch x) \"it's\" -x")
    start.main(["--no-browser"])
    words = ["--no-browser", "--port=1", "two words", "$(touch", "x)", "it's", "-x"]
    assert opened == [[sys.executable, "-m", "jupyterlab", *words]]


def test_a_quote_that_does_not_end_is_refused_in_a_line(opened, monkeypatch, capsys):
    monkeypatch.setenv("LAB_ARGS", "it's")
    assert start.main([]) == 1
    assert capsys.readouterr().err == "error: LAB_ARGS=it's: No closing quotation\n"
    assert not opened


def test_a_value_may_begin_with_a_dash(opened, monkeypatch):
    named = {"folder": "-x", "classes": "--help", "vlm": "a=b"}
    monkeypatch.setattr(start, "label_notebook", lambda values: values)
    start.main([word for pair in named.items() for word in ("-p", *pair)])
    assert opened == [[sys.executable, "-m", "jupyterlab", str(named)]]
