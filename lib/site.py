"""The executed notebooks of a run, its results and pages as one static site, for any browser.

    DATASET=lc25k_colon python -m lib.site

It needs no server, no network and no script: TeX becomes MathML, which browsers draw themselves.
"""

import os
import posixpath
import re
import shutil
from collections.abc import Mapping, Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

from lib import paths
from lib.artefacts import atomic
from lib.command_line import exit_status

TEMPLATE = Path(__file__).with_name("site.html.jinja")
PAPERS = "notebooks/README.md"  # what of each paper stands where
RECORD = "figures/RESULTS.md"
PAGES = ("seed*/*/index.html", "seed*/*/page/index.html", "seed*/fold*/slides/page/index.html")


def main() -> None:
    """Write the site of each VLM that the notebooks of DATASET ran with, and say where it is."""
    dataset = os.environ.get("DATASET") or "demo"
    runs = paths.output_root() / "data" / "runs" / paths.dataset_name(dataset)
    folders = [folder for folder in sorted(runs.glob("*")) if _executed(folder)]
    if not folders:
        raise ValueError(f"no notebook of {dataset} was run: make reproduce DATASET={dataset}")
    for folder in folders:
        print("open", write_site(folder))


def write_site(folder: Path) -> Path:
    """Write the site of the runs of a dataset with a VLM to `html` in their folder.

    A page per executed notebook, in which its algorithm and the equation above it lead to each
    other; the tables of these runs and of the record with their figures; what of each paper stands
    where; a copy of the pages of own tiles and slides; and contents. Pages of notebooks that are
    newer than these stay. Returns the contents.
    """
    out, files = folder / "html", _executed(folder)
    names = {file: _page_name(folder, file) for file in files}
    links = {f"notebooks/{file.stem}.py": names[file] for file in reversed(files)}
    links |= {PAPERS: "papers.html", RECORD: "record.html"}
    changed = max(Path(file).stat().st_mtime for file in (__file__, TEMPLATE))
    steps: dict[str, dict[str, Any]] = {}
    for file in files:
        notebook, page = nbformat.read(file, 4), out / names[file]
        title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        if not page.is_file() or page.stat().st_mtime < max(changed, file.stat().st_mtime):
            _write(page, f"{file.stem[:2]} {title}", _notebook(notebook, links))
        run = file.parents[1].relative_to(folder).as_posix().replace("/", ", ").strip(".")
        seconds = f"{notebook.metadata.papermill.duration:.0f} s"
        step = {
            "number": file.stem[:2],
            "title": title,
            "equation": _equation(notebook),
            "runs": [],
        }
        steps.setdefault(file.stem, step)["runs"].append((names[file], run or "all", seconds))
    texts = {"results.html": folder / "figures" / "RESULTS.md"}
    texts |= {links[name]: paths.ROOT / name for name in (RECORD, PAPERS)}
    titles = {}
    for name, file in texts.items():
        if file.is_file():
            titles[name] = _text(out, name, file, links)
    contents = {"steps": [*steps.values()], "texts": titles, "pages": _copy_pages(folder, out)}
    _write(out / "index.html", " with ".join(folder.parts[-2:]), "", **contents)
    return out / "index.html"


def _executed(folder: Path) -> list[Path]:
    """The executed notebooks below a folder, in their order."""
    files = [f for f in folder.rglob("executed/[0-9]*.ipynb") if ".failed" not in f.name]
    return sorted(files, key=lambda file: (file.name, str(file)))


def _page_name(folder: Path, file: Path) -> str:
    return "-".join([file.stem, *file.parents[1].relative_to(folder).parts]) + ".html"


def _write(page: Path, title: str, body: str, **contents: Any) -> None:
    style = {"light": HtmlFormatter(style="default"), "dark": HtmlFormatter(style="github-dark")}
    known: dict[str, Any] = {name: by.get_style_defs(".highlight") for name, by in style.items()}
    known |= {"steps": [], "texts": {}, "pages": [], **contents}
    loader = FileSystemLoader(TEMPLATE.parent)
    templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    text = templates.get_template(TEMPLATE.name).render(title=title, body=body, **known)
    with atomic(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _text(out: Path, name: str, file: Path, links: Mapping[str, str]) -> str:
    """Write a text as a page, and the pictures beside it to a folder of that name; its title."""
    source, pictures = file.read_text(encoding="utf-8"), Path(name).stem
    title = source.splitlines()[0].lstrip("# ")
    cell = nbformat.v4.new_markdown_cell(source)
    exporter = _Exporter(links, f"{file.parent.name}/", f"{pictures}/")
    body, _ = exporter.from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    _write(out / name, title, body)
    if listed := sorted(file.parent.glob("*.png")):
        with atomic(out / pictures) as folder:
            folder.mkdir()
            for picture in listed:
                shutil.copyfile(picture, folder / picture.name)
    return title


def _copy_pages(folder: Path, out: Path) -> list[tuple[str, str]]:
    """Copy the pages of own tiles and slides; the address and the name of each."""
    copied = []
    for page in sorted(page for pattern in PAGES for page in folder.glob(pattern)):
        whole = page.parent.name == "page"
        at = page.parent.parent if whole else page.parent
        name = "-".join(at.relative_to(folder).parts)
        with atomic(out / "pages" / name) as temporary:
            if whole:
                shutil.copytree(page.parent, temporary)
            else:
                temporary.mkdir()
                shutil.copyfile(page, temporary / page.name)
        copied.append((f"pages/{name}/index.html", at.name))
    return copied


# --- a notebook ----------------------------------------------------------------------------------


def _equations(notebook: nbformat.NotebookNode) -> tuple[list[str], list[int]]:
    """The displayed equations, and how many of them stand above each cell of an algorithm."""
    found: list[str] = []
    above: list[int] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found += re.findall(r"\$\$(.+?)\$\$", cell.source, re.S)
        elif "algorithm" in cell.metadata.get("tags", []):
            above.append(len(found))
    return found, above


def _equation(notebook: nbformat.NotebookNode) -> tuple[str, int, bool]:
    """The equation of a notebook as MathML, its number, and whether a cell writes it as code.

    That above its first algorithm, else the first; without any "" and 0.
    """
    found, above = _equations(notebook)
    number = [*above, min(1, len(found))][0]
    return mathml(found[number - 1], "block") if number else "", number, bool(above)


def _notebook(notebook: nbformat.NotebookNode, links: Mapping[str, str]) -> str:
    """A notebook as HTML; each cell of an algorithm leads to the equation above it, and back."""
    _, above = _equations(notebook)
    cells = iter(enumerate(above, 1))

    def lead_up(tag: re.Match[str]) -> str:
        k, n = next(cells)
        up = f'<a href="#equation-{n}">the equation</a> as code'
        return f'<p class="step" id="algorithm-{k}">{up}</p>{tag[0]}'

    body, _ = _Exporter(links, "notebooks/", above=above).from_notebook_node(notebook)
    return re.sub(r'<div class="[^"]*celltag_algorithm[^"]*"', lead_up, body)


def mathml(tex: str, display: str) -> str:
    r"""TeX as MathML, "block" or "inline". `\arg` is written out, as the converter lacks it."""
    return convert(tex.strip().replace(r"\arg", r"\operatorname{arg}"), display=display)


class _Exporter(HTMLExporter):
    """HTML without styles and scripts; links lead to pages of the site, or are text."""

    def __init__(
        self, links: Mapping[str, str], base: str, pictures: str = "", above: Sequence[int] = ()
    ) -> None:
        super().__init__(template_name="basic")
        self.renderer = _Renderer(escape=False, exclude_anchor_links=True)
        self.renderer.site = links, base, pictures, above

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        return str(MarkdownWithMath(renderer=self.renderer).render(source))


class _Renderer(IPythonRenderer):
    """Markdown with MathML, and anchors as GitHub makes them."""

    site: tuple[Mapping[str, str], str, str, Sequence[int]]
    n_equations = 0

    def block_math(self, body: str) -> str:
        self.n_equations += 1
        n, above = self.n_equations, self.site[3]
        code = f"#algorithm-{above.index(n) + 1}" if n in above else ""
        link = f'<a class="code" href="{code}">as code</a>' if code else ""
        return f'<span class="equation" id="equation-{n}">{mathml(body, "block")}{link}</span>'

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def heading(self, text: str, level: int, **attributes: Any) -> str:
        plain = unescape(re.sub(r"<[^>]+>", "", text)).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        return f'<h{level} id="{anchor}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        links, base, _, _ = self.site
        path, _, anchor = url.partition("#")
        if path and "://" not in path:
            path = links.get(posixpath.normpath(base + path), "")
            if not path:
                return text
        return f'<a href="{escape(path + "#" * bool(anchor) + anchor)}">{text}</a>'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return f'<img src="{escape(self.site[2] + url)}" alt="{escape(text)}">'


if __name__ == "__main__":
    raise SystemExit(exit_status(main))
