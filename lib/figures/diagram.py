"""The diagram of both methods on the front page: an SVG, drawn for light and for dark pages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from lib.artefacts import atomic

WIDTH, HEIGHT = 800, 446  # pixels at which it is to be read
STEP_WIDTH, STEP_HEIGHT, GAP = 138, 156, 25
MARGIN = (WIDTH - 5 * STEP_WIDTH - 4 * GAP) / 2
FONT = "-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
THEMES = {
    "methods.svg": {
        "ink": "#1f2328", "faint": "#59636e", "line": "#818b98", "panel": "#f6f8fa",
        "edge": "#d1d9e0", "one": "#0072B2", "two": "#D55E00", "free": "#afb8c1",
        "tissue": "#f4d3e0", "nuclei": "#7a3f8f", "lumen": "#ffffff", "page": "#ffffff",
    },
    "methods_dark.svg": {
        "ink": "#f0f6fc", "faint": "#a9b4c0", "line": "#8b949e", "panel": "#151b23",
        "edge": "#3d444d", "one": "#56B4E9", "two": "#F0903F", "free": "#6e7681",
        "tissue": "#e3bccd", "nuclei": "#6b3380", "lumen": "#fdf7fa", "page": "#0d1117",
    },
}  # fmt: skip


def write(folder: Path) -> None:
    """Write methods.svg and methods_dark.svg."""
    for name, theme in THEMES.items():
        with atomic(folder / name) as file:
            file.write_text(diagram(theme))


def diagram(theme: Mapping[str, str]) -> str:
    """VLM-CPL above and UniSAL below, five steps each, as SVG."""
    page = Canvas(theme)
    page.text(MARGIN, 19, "VLM-CPL: no labels", size=17, bold=True)
    for column, (title, lines, draw) in enumerate(VLM_CPL):
        _step(page, column, 32, title, lines, draw)
    _legend(page, 13)
    page.text(MARGIN, 227, "UniSAL: few labels", size=17, bold=True)
    for column, (title, lines, draw) in enumerate(UNISAL):
        _step(page, column, 239, title, lines, draw)
    _loop(page, 239 + STEP_HEIGHT)
    return page.svg()


@dataclass
class Canvas:
    """SVG elements, with the colours of one theme by name."""

    theme: Mapping[str, str]
    elements: list[str] = field(default_factory=list)

    def add(self, tag: str, *content: str, **attributes: object) -> None:
        """An element; underscores in names become hyphens, names of colours their values."""
        pairs = (
            f'{name.replace("_", "-")}="{escape(self.theme.get(str(value), _short(value)))}"'
            for name, value in attributes.items()
        )
        self.elements.append(f"<{tag} {' '.join(pairs)}>{''.join(content)}</{tag}>")

    def text(
        self, x: float, y: float, words: str, *, size: float = 12.5, colour: str = "ink",
        bold: bool = False, anchor: str = "start",
    ) -> None:  # fmt: skip
        self.add("text", escape(words), x=x, y=y, font_size=size, fill=colour,
                 font_weight=600 if bold else 400, text_anchor=anchor)  # fmt: skip

    def line(self, points: Sequence[tuple[float, float]], *, head: bool = True) -> None:
        """A line through some points, with an arrow head at its end."""
        path = "M" + " L".join(f"{_short(x)} {_short(y)}" for x, y in points)
        end = "url(#head)" if head else "none"
        self.add("path", d=path, fill="none", stroke="line", stroke_width=1.6, marker_end=end)

    def dot(self, x: float, y: float, radius: float, colour: str, **attributes: object) -> None:
        self.add("circle", cx=x, cy=y, r=radius, fill=colour, **attributes)

    def tile(self, x: float, y: float, side: float, kind: int, label: str = "free") -> None:
        """A tile of one of two kinds of tissue, framed in the colour of its label."""
        self.add("rect", x=x, y=y, width=side, height=side, rx=2, fill="tissue")
        unit = side / 26
        if kind == 1:  # a round gland, nuclei in a ring
            self.dot(x + side / 2, y + side / 2, 4.2 * unit, "lumen")
            ring = [(13, 5.5), (18.3, 7.7), (20.5, 13), (18.3, 18.3)]
            ring += [(13, 20.5), (7.7, 18.3), (5.5, 13), (7.7, 7.7)]
        else:  # crowded nuclei without order
            ring = [(5, 6), (11, 4.5), (18, 6), (21.5, 11), (14.5, 10), (7.5, 12)]
            ring += [(5, 19), (11.5, 16.5), (17.5, 16), (21, 20.5), (14.5, 21.5)]
        for dx, dy in ring:
            self.dot(x + dx * unit, y + dy * unit, 2.1 * unit, "nuclei")
        self.add("rect", x=x, y=y, width=side, height=side, rx=2, fill="none", stroke=label,
                 stroke_width=2.6)  # fmt: skip

    def network(self, x: float, y: float, name: str) -> None:
        self.dot(x, y, 12, "panel", stroke="ink", stroke_width=1.6)
        self.text(x, y + 4.5, name, bold=True, anchor="middle")

    def svg(self) -> str:
        head = (
            '<marker id="head" viewBox="0 0 8 8" refX="6.5" refY="4" markerWidth="6" '
            'markerHeight="6" orient="auto-start-reverse">'
            f'<path d="M0 0.5 L7.5 4 L0 7.5 z" fill="{self.theme["line"]}"/></marker>'
        )
        body = "\n".join(self.elements)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" font-family="{FONT}" role="img">\n'
            f"<title>VLM-CPL and UniSAL, step by step</title>\n"
            f"<defs>{head}</defs>\n{body}\n</svg>\n"
        )


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _step(
    page: Canvas,
    column: int,
    top: float,
    title: str,
    lines: Sequence[str],
    draw: Callable[[Canvas, float, float], None],
) -> None:
    """A panel with a picture, a title and two lines; an arrow leads to it from the one before."""
    left = MARGIN + column * (STEP_WIDTH + GAP)
    page.add("rect", x=left, y=top, width=STEP_WIDTH, height=STEP_HEIGHT, rx=8, fill="panel",
             stroke="edge")  # fmt: skip
    if column:
        page.line([(left - GAP + 3, top + 54), (left - 4, top + 54)])
    draw(page, left + STEP_WIDTH / 2, top + 54)
    page.text(left + STEP_WIDTH / 2, top + 117, title, size=13, bold=True, anchor="middle")
    for number, words in enumerate(lines):
        page.text(left + STEP_WIDTH / 2, top + 133 + 14 * number, words, size=11.5,
                  colour="faint", anchor="middle")  # fmt: skip


def _legend(page: Canvas, y: float) -> None:
    """What the colour of a frame means, at the right end of a line."""
    x = WIDTH - MARGIN - 268
    page.text(x, y + 4, "label:", colour="faint")
    for dx, label, word in (
        (42, "one", "benign"),
        (113, "two", "carcinoma"),
        (204, "free", "none"),
    ):
        page.add("rect", x=x + dx, y=y - 6, width=12, height=12, rx=2, fill="tissue",
                 stroke=label, stroke_width=2.6)  # fmt: skip
        page.text(x + dx + 19, y + 4, word, colour="faint")


def _loop(page: Canvas, bottom: float) -> None:
    """From the expert back to training."""
    first, last = (MARGIN + n * (STEP_WIDTH + GAP) + STEP_WIDTH / 2 for n in (1, 4))
    page.line([(last, bottom + 2), (last, bottom + 22), (first, bottom + 22), (first, bottom + 4)])
    page.text((first + last) / 2, bottom + 40, "next round: train again with more labels",
              colour="faint", anchor="middle")  # fmt: skip


# --- pictures of the steps, each around (x, y), 120 pixels wide and 84 high ----------------------

KINDS = (1, 2, 1, 2, 2, 1)  # of six tiles
KEYS = {1: "one", 2: "two"}


def _six(page: Canvas, x: float, y: float, labels: Sequence[str]) -> None:
    for number, (kind, label) in enumerate(zip(KINDS, labels, strict=True)):
        column, row = number % 3, number // 3
        page.tile(x - 52 + 37 * column, y - 33 + 37 * row, 30, kind, label)


def _unlabelled(page: Canvas, x: float, y: float) -> None:
    _six(page, x, y, ["free"] * 6)


def _few_labelled(page: Canvas, x: float, y: float) -> None:
    _six(page, x, y, ["one", "free", "free", "free", "two", "free"])


def _prompts(page: Canvas, x: float, y: float) -> None:
    page.tile(x - 59, y - 15, 30, 1, "one")
    for top, name, share, colour in ((-34, "“benign tissue”", 68, "one"),
                                     (4, "“carcinoma”", 22, "two")):  # fmt: skip
        page.text(x - 19, y + top + 10, name, size=11)
        page.add("rect", x=x - 19, y=y + top + 15, width=share, height=9, rx=2, fill=colour)


def _views(page: Canvas, x: float, y: float) -> None:
    rows = ((-34, "1111", 1, True), (8, "1221", 2, False))
    for top, votes, kind, agreed in rows:
        page.tile(x - 61, y + top, 26, kind, "one" if agreed else "free")
        for number, vote in enumerate(votes):
            left = x - 28 + 17 * number
            page.tile(left, y + top + 2, 12, kind, KEYS[int(vote)])
            page.add("rect", x=left - 1, y=y + top + 19, width=14, height=5, rx=1,
                     fill=KEYS[int(vote)])  # fmt: skip
        _mark(page, x + 51, y + top + 13, agreed)


def _mark(page: Canvas, x: float, y: float, good: bool) -> None:
    """A tick or a cross."""
    shape = f"M{x - 6} {y} l4 5 l8 -11" if good else f"M{x - 5} {y - 5} l10 10 m0 -10 l-10 10"
    page.add("path", d=shape, fill="none", stroke="ink" if good else "free",
             stroke_width=2.4, stroke_linecap="round")  # fmt: skip


def _clusters(page: Canvas, x: float, y: float) -> None:
    groups = {
        "one": (-29, -3, [(-13, -13), (6, -17), (15, 0), (-15, 9), (3, 17), (0, -2)]),
        "two": (30, 3, [(-13, -10), (5, -17), (15, -2), (-14, 10), (8, 15), (0, 0)]),
    }
    for colour, (dx, dy, points) in groups.items():
        page.add("circle", cx=x + dx, cy=y + dy, r=27, fill=colour, fill_opacity=0.16,
                 stroke=colour, stroke_dasharray="3 3")  # fmt: skip
        for px, py in points[:-1]:
            page.dot(x + dx + px, y + dy + py, 4.2, colour)
        odd = "two" if colour == "one" else "one"  # the prompt gave the other class
        left, top = x + dx + points[-1][0], y + dy + points[-1][1]
        page.dot(left, top, 4.2, odd)
        page.add("path", d=f"M{left - 6.5} {top - 6.5} l13 13 m0 -13 l-13 13", stroke="ink",
                 stroke_width=1.8, stroke_linecap="round")  # fmt: skip


def _cross_supervision(page: Canvas, x: float, y: float) -> None:
    for row, labels in ((-32, ("one", "two")), (6, ("free", "free"))):
        for column, (kind, label) in enumerate(zip((1, 2), labels, strict=True)):
            page.tile(x - 61 + 30 * column, y + row, 25, kind, label)
    _pair(page, x + 42, y)
    page.line([(x + 1, y - 20), (x + 24, y - 24)])
    page.line([(x + 1, y + 18), (x + 24, y + 23)])


def _pair(page: Canvas, x: float, y: float) -> None:
    """Two networks that teach each other."""
    page.line([(x - 5, y - 10), (x - 5, y + 11)])
    page.line([(x + 5, y + 10), (x + 5, y - 11)])
    page.network(x, y - 26, "A")
    page.network(x, y + 26, "B")


def _dual_view(page: Canvas, x: float, y: float) -> None:
    page.tile(x - 60, y - 15, 30, 2, "two")
    for dy in (-26, 26):
        page.line([(x - 27, y + dy / 4), (x - 15, y + dy * 0.8)], head=False)
        page.line([(x + 10, y + dy), (x + 25, y + dy)])
    page.tile(x - 13, y - 37, 20, 2, "two")
    page.elements.append(f'<g transform="rotate(90 {x - 3:.2f} {y + 26:.2f})">')
    page.tile(x - 13, y + 16, 20, 2, "two")
    page.elements.append("</g>")
    _pair(page, x + 42, y)


def _disagreement(page: Canvas, x: float, y: float) -> None:
    page.tile(x - 64, y - 14, 28, 2)
    for dy, name, colour, word in ((-26, "A", "one", "benign"), (26, "B", "two", "carcinoma")):
        page.line([(x - 33, y + dy / 4), (x - 23, y + dy * 0.72)], head=False)
        page.network(x - 10, y + dy, name)
        page.text(x + 7, y + dy + 4, word, size=11.5, colour=colour, bold=True)
    page.text(x + 28, y + 6, "≠", size=20, bold=True, anchor="middle")


def _compact(page: Canvas, x: float, y: float) -> None:
    for dx, dy in ((-38, -14), (2, 16), (40, -15)):
        page.add("circle", cx=x + dx, cy=y + dy, r=22, fill="free", fill_opacity=0.16,
                 stroke="free", stroke_dasharray="3 3")  # fmt: skip
        for px, py in ((-11, -8), (9, -11), (12, 6), (-8, 11)):
            page.dot(x + dx + px, y + dy + py, 3.4, "free")
        page.tile(x + dx - 8, y + dy - 8, 16, 2 if dx else 1, "ink")


def _expert(page: Canvas, x: float, y: float) -> None:
    page.dot(x - 33, y - 17, 12, "line")
    page.add("path", d=f"M{x - 56} {y + 32} a23 27 0 0 1 46 0 z", fill="line")
    for row, kind in ((-34, 1), (4, 2)):
        page.tile(x + 12, y + row, 30, kind, KEYS[kind])


VLM_CPL = (
    ("Unlabelled tiles", ("and one line of text", "for each class"), _unlabelled),
    ("Prompts label", ("a vision-language", "model guesses"), _prompts),
    ("Views vote", ("keep labels on which", "random views agree"), _views),
    ("Clusters confirm", ("drop labels that do", "not fit their cluster"), _clusters),
    ("Two networks", ("learn from kept labels", "and from each other"), _cross_supervision),
)
UNISAL = (
    ("A few labels", ("of tiles drawn", "at random"), _few_labelled),
    ("Two networks", ("see two views, and", "learn from each other"), _dual_view),
    ("They disagree", ("on some unlabelled", "tiles: look at those"), _disagreement),
    ("Compact choice", ("one tile from each", "cluster of those"), _compact),
    ("An expert", ("labels the", "chosen tiles"), _expert),
)
