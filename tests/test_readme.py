"""The front page: short, its links lead somewhere, its commands exist and its code runs."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_models import SMALL, write_model

from data.prepare.datasets import prepare
from figures.card_tables import PUBLIC, vlms_table
from lib import parameters
from lib.data import cards
from lib.learning import setups
from lib.learning.setups import frozen
from lib.vlm import loading
from lib.vlm.loading import load_vlm

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = ("README.md", "data/README.md", "notebooks/README.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [ROOT / name for name in PAGES]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
VARIABLES = set(re.findall(r"^([A-Z_]+) \?=", (ROOT / "Makefile").read_text(), re.M))


def code(text: str) -> str:
    """What is set as code, in blocks and in lines, without comments."""
    parts = re.findall(r"```.*?```|`[^`]+`", text, re.S)
    return re.sub(r"#.*", "", "\n".join(parts))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_front_page_is_short():
    assert len(README.splitlines()) < 150
    prose = [
        n
        for n, line in enumerate(README.splitlines(), 1)
        if len(line) > 125 and not re.match(r"\||\s*<", line)
    ]
    assert not prose, f"long lines: {prose}"


def test_every_notebook_is_named_once_and_no_other():
    page = (ROOT / "notebooks" / "README.md").read_text().partition("## Glossary")[0]
    linked = re.findall(r"\[`(\w+)`\]\((\w+)\.py\)", page)
    assert all(shown == file for shown, file in linked)
    written = sorted(file.stem for file in (ROOT / "notebooks").glob("*.py"))
    assert [file for _, file in linked] == written


def test_links_and_pictures_lead_somewhere():
    for page in PAGES:
        text = page.read_text()
        links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
        for link in links:
            if not link.startswith("http"):
                path, _, anchor = link.partition("#")
                target = page.parent / path if path else page
                assert target.exists(), f"{page.name} links to {link}"
                assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_every_score_in_prose_is_one_of_the_results():
    """To as many digits as it is given; a score that the record no longer has fails here."""
    prose = README.partition("How far to trust this")[2].partition("\n## ")[0]
    results = (ROOT / "figures" / "RESULTS.md").read_text()
    known = [float(text) for text in re.findall(r"\b[01]\.\d{3}\b", results)]
    scores = re.findall(r"\b0\.\d{2,3}\b", prose)
    assert len(scores) > 20
    for score in scores:
        digits = len(score) - 2
        assert any(f"{value:.{digits}f}" == score for value in known), score


def test_every_picture_has_a_dark_twin_and_a_description():
    pictures = re.findall(r"<picture>(.*?)</picture>", README, re.S)
    assert len(pictures) == 2
    for picture in pictures:
        (dark,) = re.findall(r'prefers-color-scheme: dark\)" srcset="([^"]+)_dark\.svg"', picture)
        assert f'src="{dark}.svg"' in picture and re.search(r'alt="[^"]{40,}"', picture)


def test_commands_are_targets_of_make_with_its_own_variables():
    for page in PAGES:
        for target, words in re.findall(
            r"\bmake(?: ([a-z-]+))?((?: [A-Z_]+=\S*)*)", code(page.read_text())
        ):
            assert not target or target in TARGETS, f"{page.name} names `make {target}`"
            named = set(re.findall(r"([A-Z_]+)=", words))
            assert named <= VARIABLES, f"{page.name}: make {target}{words}"
    assert {"reproduce", "test", "test-fast", "lab", "own", "ablations"} <= set(
        re.findall(r"\bmake ([a-z-]+)", README)
    )


@pytest.mark.slow
def test_notebooks_are_run_with_parameters_that_they_declare():
    for page in PAGES:
        commands = re.findall(r"lib\.runner notebooks/(\w+)\.py(.*)", page.read_text())
        for name, words in commands:
            declared = parameters.declared_parameters(ROOT / "notebooks" / f"{name}.py")
            assert set(re.findall(r"-p (\w+) ", words)) <= set(declared), f"{page.name}: {name}"


def test_files_named_in_code_exist():
    for page in PAGES:
        named = re.findall(
            r"`((?:lib|tests|data|notebooks|figures)/[\w./-]+\.\w+)`", page.read_text()
        )
        absent = [name for name in named if not (ROOT / name).exists()]
        assert not absent, f"{page.name} names {absent}"


def test_datasets_and_models_are_listed_on_the_page_of_the_data():
    listed = (ROOT / "data" / "README.md").read_text()
    for name in PUBLIC:
        assert f"[`{name}`]" in listed
    for name in vlms_table().model:
        assert name in listed
    for name in ("HPH", "LC25000", "NCT-CRC", "DigestPath", "CRC-5000", "Chaoyang", "EBHI-Seg"):
        assert name in README
    for name in ("CLIP", "PLIP", "BiomedCLIP", "QuiltNet", "CONCH"):
        assert name in README


def method() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    return block


def test_the_method_has_ten_lines():
    _, lines = method().split("\n\n")
    *steps, shown = lines.splitlines()
    assert len(steps) <= 10 and shown.startswith("print(")
    assert max(map(len, method().splitlines())) <= 96  # a line of GitHub's page
    assert "import" not in lines


@pytest.mark.slow
def test_the_ten_lines_run(tmp_path, monkeypatch, capsys):
    """As they stand, on few small tiles, with a small random model and a short training."""
    smoke = cards.read_card("smoke")
    few = replace(smoke, synthetic={**smoke.synthetic, "tiles": 60})
    monkeypatch.setattr(cards, "read_card", {"demo": few}.__getitem__)
    small = load_vlm(write_model(tmp_path / "small", SMALL), device="cpu")
    monkeypatch.setattr(loading, "load_vlm", {"stand-in-demo_other_lab": small}.__getitem__)
    monkeypatch.setattr(
        setups, "frozen", lambda *args, steps, **kwargs: frozen(*args, steps=steps // 50, **kwargs)
    )
    prepare(few)
    names: dict = {"__name__": "readme"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a random model may leave a class without a label
        exec(compile(method(), "README.md", "exec"), names)
    predicted, prompts = names["predicted"], names["before"]
    labels = names["pseudo"].training_label.values
    assert predicted.shape == labels.shape == prompts.shape == (60,)
    kept = labels != -1
    assert 0 < kept.sum() < 60 and set(predicted) <= set(labels[kept])
    truth = names["table"].label.values
    before, after = map(float, capsys.readouterr().out.split()[-2:])
    assert before == np.mean(prompts == truth) and after == np.mean(predicted == truth)
    assert names["run"].folder.is_relative_to(tmp_path)
