"""The set-up files agree with each other, and `make` does what its help says."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import pytest
import yaml
from cases import case
from processes import make as run_make

ROOT = Path(__file__).resolve().parents[1]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
make = partial(run_make, seconds=30)


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: list[str]) -> dict[str, str]:
    """Name → version bound, names as package indexes compare them."""
    split = [re.match(r"([\w.-]+)\s*(.*)", r).groups() for r in requirements]
    return {normalised(name): bound for name, bound in split}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def fake_python(folder: Path, version: str) -> Path:
    """A program that answers every call with a version and does nothing."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    return program


def test_environment_and_project_name_the_same_dependencies(project):
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    by_pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    assert named(by_pip) == named(project["project"]["dependencies"])


def test_citation_and_changelog_know_the_version(project):
    version = project["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_environment_has_the_oldest_supported_python(project):
    oldest = project["project"]["requires-python"].removeprefix(">=")
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert f"python={oldest}" in listed


def test_every_direct_and_build_dependency_is_locked(project):
    direct = project["project"]["dependencies"] + project["build-system"]["requires"]
    for extra in project["project"]["optional-dependencies"].values():
        direct = direct + extra
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = {normalised(line.split("==")[0]) for line in lines if re.match(r"[\w.-]+==\d", line)}
    assert set(named(direct)) <= pins


def test_lock_is_exact_and_names_no_place():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    for line in lines:
        pin, digest = r"[\w.-]+==\S+( ; .+)? \\$", r"    --hash=sha256:[0-9a-f]{64}( \\)?$"
        assert line.startswith("#") or re.match(pin, line) or re.match(digest, line), line
        assert not re.search(r"://|file:|index-url|find-links|(^|\s)/\w", line), line


@needs_make
def test_help_is_the_default_and_lists_every_target():
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    printed = make("help")
    listed = dict(re.findall(r"^  ([\w-]+)\s+(\S.*)$", printed.stdout, re.M))
    assert printed.returncode == 0
    assert set(listed) == set(targets)
    assert make().stdout == printed.stdout


@needs_make
def test_an_old_python_is_refused_by_name(tmp_path):
    for version in ("2.7.18", "3.9.2", "3.10.14"):
        program = fake_python(tmp_path, version)
        run = make("test", f"PYTHON={program}", f"VENV={tmp_path}/venv")
        with case(version):
            assert run.returncode != 0
            assert f"Python 3.11 or newer is needed; {program} is {version}." in run.stderr
            assert "make test PYTHON=" in run.stderr
            assert not (tmp_path / "venv").exists()


@needs_make
def test_an_absent_python_is_refused_by_name(tmp_path):
    run = make("check", f"PYTHON={tmp_path}/none", f"VENV={tmp_path}/venv")
    assert run.returncode != 0
    assert f"{tmp_path}/none does not run" in run.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
def test_a_set_up_that_fails_is_not_taken_for_done(tmp_path):
    for version in ("3.11.0", "3.12.4", "3.20.1"):
        program = fake_python(tmp_path, version)
        run = make("test", f"PYTHON={program}", f"VENV={tmp_path}/venv")
        with case(version):
            assert "Setting up" in run.stdout
            assert run.returncode != 0
            assert not (tmp_path / "venv" / ".installed").exists()


@needs_make
@pytest.mark.slow
def test_a_set_up_removes_nothing_else_of_its_folder(tmp_path, monkeypatch):
    """Where its Python is gone it is made again; pip is kept from the network, so it ends there."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    mine = tmp_path / "-x" / "mine.txt"
    (mine.parent / "bin").mkdir(parents=True)
    mine.touch()
    (mine.parent / "pyvenv.cfg").touch()
    (mine.parent / "bin" / "python").symlink_to(tmp_path / "gone")
    command = [ROOT / "set_up.sh", "-x", sys.executable]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "requirements.lock" in run.stderr
    assert mine.exists() and (mine.parent / "bin" / "python").exists()
    assert not (mine.parent / ".installed").exists()


@needs_make
def test_a_python_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "bin").mkdir()
    fake_python(tmp_path / "bin", "3.12.4")
    lost = tmp_path / "lib" / "python3" / "site-packages" / "x.dist-info"
    lost.mkdir(parents=True)
    run = make("check", f"VENV={tmp_path}")
    assert run.returncode != 0 and "is no virtual environment" in run.stderr
    assert lost.exists()
    run = make("check", "VENV=")
    assert run.returncode != 0 and "VENV=.venv" in run.stderr


def test_a_python_that_drops_checks_is_refused():
    for options, optimize in ((["-O"], ""), ([], "1")):
        told = os.environ | {"PYTHONOPTIMIZE": optimize}
        command = [sys.executable, *options, "-c", "import lib"]
        run = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True)
        with case(options):
            assert run.returncode == 1
            assert run.stderr.startswith("error: ") and "PYTHONOPTIMIZE" in run.stderr
            assert "Traceback" not in run.stderr
