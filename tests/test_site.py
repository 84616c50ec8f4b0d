"""The static site of a run: every link leads somewhere, nothing is fetched, all TeX is drawn."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from lib import paths, runner, site

TEX = r"\$\$(.+?)\$\$|(?<![\\$`])\$([^$`\n]+?)\$"
NASTY = "<b>&"


class Page(HTMLParser):
    def __init__(self, file):
        super().__init__()
        self.links, self.ids, self.tags = [], set(), set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        known = dict(attributes)
        self.ids |= {known.get("id")}
        self.links += [known[name] for name in ("href", "src") if name in known]


def executed(folder, name, *cells, tags=()):
    """A notebook as papermill leaves it."""
    made = [
        nbformat.v4.new_markdown_cell(c[3:])
        if c.startswith("md ")
        else nbformat.v4.new_code_cell(c)
        for c in cells
    ]
    for number in tags:
        made[number].metadata["tags"] = ["algorithm"]
    notebook = nbformat.v4.new_notebook(cells=made, metadata={"papermill": {"duration": 2.0}})
    (folder / "executed").mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / "executed" / f"{name}.ipynb")


@pytest.fixture
def runs(output_root):
    """Two notebooks, one of two folds, tables with a figure, and pages of tiles and slides."""
    folder = output_root / "data" / "runs" / "toy" / "none"
    cells = ["md # A toy\n\n$$a_1 = b^*$$\n\nand $c^*$", "md $$\\arg\\max_x f$$", "one()"]
    cells += ["md $$z$$\n\n`$HOME` and [next](11_other.py), [none](99_none.py), [3](#md)", "two()"]
    for fold in (0, 1):
        executed(folder / f"seed0/fold{fold}", "10_toy", *cells, tags=(2, 4))
    executed(
        folder / "seed0", "11_other", f"md # Other {NASTY}\n\n[papers](README.md#vlm-cpl)", "x"
    )
    executed(folder / "seed0", "12.failed", "md # Failed")
    for file in ("figures/RESULTS.md", "seed0/mine/index.html", "seed0/my slides/page/index.html"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text("# Results\n\n![a](a.png)" if "figures" in file else "<p>page")
    (folder / "figures/a.png").write_bytes(b"x")
    return folder


def test_every_link_of_the_site_leads_somewhere_and_nothing_is_fetched(runs):
    contents = site.write_site(runs)
    pages = {file: Page(file) for file in contents.parent.rglob("*.html")}
    assert len(pages) == 9  # three of notebooks, results, record, papers, two copies, contents
    for file, page in pages.items():
        assert not {"script", "link"} & page.tags
        for link in page.links:
            path, _, anchor = link.partition("#")
            if "://" in link:
                assert file.name in ("papers.html", "record.html"), link  # to be followed
                continue
            target = (file.parent / unquote(path)).resolve() if path else file
            assert target.exists(), f"{file.name}: {link}"
            assert not anchor or anchor in pages[target].ids or "md" in anchor, f"{file}: {link}"
    assert "b" not in pages[contents].tags
    shown = [link for link in pages[contents].links if link.startswith("1")]
    first, second = "10_toy-seed0-fold0.html", "10_toy-seed0-fold1.html"
    assert shown[:5] == [first, f"{first}#equation-2", f"{first}#algorithm-1", first, second]
    assert "pages/seed0-my slides/index.html" in map(unquote, pages[contents].links)


def test_an_algorithm_and_the_equation_above_it_lead_to_each_other(runs):
    site.write_site(runs)
    text = (runs / "html" / "10_toy-seed0-fold0.html").read_text()
    for number, above in ((1, 2), (2, 3)):
        up = f'id="algorithm-{number}"><a href="#equation-{above}">'
        equation = text.partition(f'id="equation-{above}"')[2].partition("</span>")[0]
        assert up in text and f'href="#algorithm-{number}"' in equation
    assert "algorithm" not in text.partition('id="equation-1"')[2].partition("</span>")[0]
    assert text.count("<math") == 4 and "<em>" not in text and "$HOME" in text


def test_a_page_is_written_again_when_its_notebook_has_run_again(runs):
    site.write_site(runs)
    page = runs / "html" / "11_other-seed0.html"
    before = page.stat().st_mtime_ns
    site.write_site(runs)
    assert page.stat().st_mtime_ns == before
    executed(runs / "seed0", "11_other", "md # Anew")
    site.write_site(runs)
    assert "Anew" in page.read_text()


def test_a_dataset_that_has_not_run_is_refused_by_name(output_root, monkeypatch):
    monkeypatch.setenv("DATASET", "toy")
    with pytest.raises(ValueError, match=r"no notebook of toy was run: make reproduce DATASET=toy"):
        site.main()


@pytest.mark.parametrize("notebook", sorted(Path(paths.ROOT / "notebooks").glob("*.py")), ids=str)
def test_all_tex_of_a_notebook_becomes_mathml(notebook):
    for cell in runner.cells(notebook):
        for block, inline in re.findall(TEX, cell.source * (cell.cell_type == "markdown"), re.S):
            drawn = site.mathml(block or inline, "block" if block else "inline")
            assert drawn.startswith("<math") and "\\" not in drawn, block or inline
