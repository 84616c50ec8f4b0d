"""The grid in which a person labels tiles: the half in the kernel; `widget.js` is in the browser.

The browser asks for one tile at a time and sends each answer; it moves on when it is told that the
answer is on the disk. What is shown follows from the file of answers alone, so nothing is lost with
a closed tab or a killed kernel, and several tabs or people can label side by side.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import numpy as np
import pandas as pd
import traitlets
from PIL import Image

from apps.labelling import answers
from apps.labelling.answers import Answer
from apps.labelling.people import ASK, seen_differently
from lib.data.images import open_image, read_square
from lib.labels import NONE_OF_THESE, REFUSED

if TYPE_CHECKING:
    from apps.labelling.session import OwnTiles

NEIGHBOURS = 8
LARGE, SMALL = 640, 144  # pixels of a side
SKIPPED = -1  # in `status`; a class index or REFUSED is an answer
PICTURES = 1000  # kept in memory


def neighbours(features: np.ndarray, tile: int, n: int = NEIGHBOURS) -> np.ndarray:
    """Find the n other tiles with the highest cosine to one, nearest first."""
    one, cosine = features[tile].astype(np.float32), np.empty(len(features), np.float32)
    for start in range(0, len(features), 4096):  # the features may be larger than the memory
        rows = features[start : start + 4096].astype(np.float32)
        cosine[start : start + 4096] = rows @ one / np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
    cosine[tile] = -np.inf
    return np.argsort(-cosine, kind="stable")[: min(n, len(features) - 1)]


def picture(file: Path, max_side: int) -> bytes:
    """Read a tile as a JPEG of at most max_side pixels a side."""
    with open_image(file) as opened:
        side = min(opened.size)
    tile, _ = read_square(file, min(side, max_side))
    buffer = BytesIO()
    Image.fromarray(tile).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


class LabelGrid(anywidget.AnyWidget):
    """Label the tiles of a query with the keyboard or the mouse; every answer is on disk at once.

    There is one at a time in a kernel: the next takes its place.

    Parameters
    ----------
    own : tiles, classes and features, in which neighbours are near
    probs : [N, C], the suggestions
    wanted : tile numbers, in the order in which they are shown
    file : of the answers
    who : the name that they get
    ask : "query" for tiles that nobody has judged, "second" for those that this person has not,
        "disputed" to ask once more for what people see differently, "audit" for tiles drawn by
        chance, of which no suggestion is shown
    on_finish : called when the person has finished; returns the tiles of the next query, none when
        there is none

    Raises
    ------
    ValueError : for an empty name, another `ask`, and a class called "none of these"

    """

    shown: ClassVar["LabelGrid | None"] = None
    _esm = Path(__file__).with_name("widget.js")
    _css = Path(__file__).with_name("widget.css")
    classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    who = traitlets.Unicode().tag(sync=True)
    ask = traitlets.Unicode().tag(sync=True)
    # Its number, at another of which the browser begins again, and the status of its tiles:
    # {"mine": class, REFUSED, SKIPPED or None, "open": bool}.
    query = traitlets.Dict().tag(sync=True)
    phase = traitlets.Unicode("label").tag(sync=True)  # label, busy, done, failed
    note = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        own: "OwnTiles",
        probs: np.ndarray,
        wanted: Sequence[int],
        file: Path,
        *,
        who: str,
        ask: str = "query",
        on_finish: Callable[[], Sequence[int] | None] | None = None,
    ):
        if ask not in ASK:
            raise ValueError(f"ask must be {', '.join(ASK)}, not {ask!r}")
        if not who.strip():
            raise ValueError("say who labels: answers carry a name")
        if NONE_OF_THESE in own.class_names:
            raise ValueError(f"{NONE_OF_THESE!r} stands for no class: call it otherwise")
        if LabelGrid.shown:
            LabelGrid.shown.close()
        LabelGrid.shown = self
        self.own, self.probs, self.file, self.on_finish = own, probs, file, on_finish
        self._digests = own.unique.digest.tolist()
        self._for: dict[str, Any] = {"ask": ask}
        self._picture = lru_cache(PICTURES)(picture)
        self._since = len(self._lines())
        super().__init__(classes=list(own.class_names), who=who.strip(), ask=ask)
        self._show(wanted)
        self.on_msg(self._receive)

    def close(self) -> None:
        """Let go of tiles and networks too: IPython keeps all that a cell has shown."""
        super().close()
        self.__dict__.update(own=None, probs=None, on_finish=None, _picture=None)

    # --- what is shown

    def _lines(self) -> pd.DataFrame:
        return answers.read(self.file).lines

    def _asked(self) -> pd.DataFrame:
        """What counts as answered here: of disputed tiles only what was said since they are."""
        lines = self._lines()
        return answers.standing(lines[self._since :] if self.ask == "disputed" else lines)

    def _show(self, wanted: Sequence[int]) -> None:
        self.wanted = [int(tile) for tile in wanted]
        number = self.query.get("number", 0) + 1
        self.query = {"number": number, "status": self._status()}
        self.phase = "label" if self.wanted else "done"

    def _status(self) -> list[dict[str, Any]]:
        """Say what this person has answered for each tile, and whether it is still open."""
        lines, latest = self._lines(), self._asked()
        others = set(answers.standing(lines).query("who != @self.who").tile)
        if self.ask == "disputed":
            others -= set(seen_differently(lines).index)
        mine = {a.tile: self._code(a) for a in latest[latest.who == self.who].itertuples()}
        status = []
        for digest in (self._digests[tile] for tile in self.wanted):
            code = mine.get(digest)
            judged = code is not None or (self.ask != "second" and digest in others)
            status.append({"mine": code, "open": not judged})
        return status

    def _code(self, answer: Any) -> int | None:
        if answer.action == "skip":
            return SKIPPED
        if not isinstance(answer.label, str):
            return REFUSED
        return self.classes.index(answer.label) if answer.label in self.classes else None

    # --- messages of the browser

    def _receive(self, _: Any, content: Mapping[str, Any], __: Any) -> None:
        what = content.get("kind")
        reply: dict[str, Any] = {"kind": what, "id": content.get("id")}
        buffers: list[bytes] = []
        try:
            if content.get("query") != self.query["number"]:
                raise ValueError("this query is done: another tab has finished it")
            if what == "tile":
                more, buffers = self._tile(content["n"])
                reply |= more
            elif what in ("label", "skip"):
                self._answer(content)
            elif what == "undo":
                reply["n"] = self._undo()
            elif what == "finish":
                self._finish()
        except Exception as error:  # whatever it is, the person must see it: nothing was saved
            reply["error"] = f"{type(error).__name__}: {error}"
        self.send(reply, buffers)

    def _tile(self, n: int) -> tuple[dict[str, Any], list[bytes]]:
        tile = self.wanted[n]
        near = neighbours(self.own.features, tile)
        latest = answers.standing(self._lines())
        latest = latest[(latest.who == self.who) & (latest.action == "label")]
        mine = dict(zip(latest.tile, latest.label, strict=True))
        captions = [mine.get(self._digests[other], "") or "" for other in near]
        probs = self.probs[tile]
        suggestion = {"class": int(probs.argmax()), "probability": float(probs.max())}
        shown = {} if self.ask == "audit" else {"suggestion": suggestion}
        files = [self.own.folder / self.own.unique.path[t] for t in (tile, *near)]
        pictures = [self._picture(files[0], LARGE), *(self._picture(f, SMALL) for f in files[1:])]
        text = {"n": n, "path": self.own.unique.path[tile], "captions": captions}
        return text | shown, pictures

    def _answer(self, content: Mapping[str, Any]) -> None:
        label, digest = content.get("label"), self._digests[self.wanted[content["n"]]]
        name = None if label in (None, REFUSED) else self.classes[label]
        noted = {"seconds": round(float(content["seconds"]), 2), "action": content["kind"]}
        noted |= self._for
        suggestion = bool(content["suggestion"])
        self._write([Answer(digest, name, self.who, suggestion=suggestion, **noted)])

    def _undo(self) -> int | None:
        """Take back this person's last answer in the query; returns which tile of it it was."""
        position = {self._digests[tile]: n for n, tile in enumerate(self.wanted)}
        latest = self._asked()
        mine = latest[(latest.who == self.who) & latest.tile.isin(list(position))]
        if mine.empty:
            return None
        digest = mine.tile[mine.line.idxmax()]
        self._write([Answer(digest, None, self.who, action="undo", **self._for)])
        return position[digest]

    def _finish(self) -> None:
        """Leave out what is still open, and show the next query."""
        status = self._status()
        left = [t for t, s in zip(self.wanted, status, strict=True) if s["open"]]
        skipped: dict[str, Any] = {"action": "skip", **self._for}
        self._write([Answer(self._digests[t], None, self.who, **skipped) for t in left])
        if self.on_finish is None:
            self.phase = "done"
            return
        self.phase = "busy"
        try:
            wanted = self.on_finish()
            self._show(() if wanted is None else wanted)
        except Exception as error:
            self.phase, self.note = "failed", f"{type(error).__name__}: {error}"

    def _write(self, lines: Sequence[Answer]) -> None:
        answers.append(self.file, lines)
        self.query = self.query | {"status": self._status()}
