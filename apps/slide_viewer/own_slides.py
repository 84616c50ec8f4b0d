"""The slides in a folder of a user, which has no table of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pandas as pd
from openslide import OpenSlide, OpenSlideError

from apps.own_tiles.words import parse_classes, shared
from lib.alarm import Alarm
from lib.csv_tables import path_key, read_table
from lib.data.cards import Card
from lib.slides.cohort import Cohort
from lib.slides.open_set import OTHER_TISSUE
from lib.slides.reading import companions
from lib.slides.slide_table import mpp_by_path, number_slides
from lib.vlm.cards import split_name
from lib.vlm.prompts import PAPERS, by_semicolon, parse_templates

SHOWN = 3  # files of a line


def words(
    classes: str, other_tissue: str, templates: str, card: Card | None = None
) -> tuple[dict[str, list[str]], list[str]]:
    """Read the prompts of each class and the names of other tissue, or take those of a card.

    Raises ValueError as `parse_classes` does, and for a class that is other tissue too.
    """
    if card:
        return {c.name: list(c.prompts) for c in card.classes}, list(card.other_tissue)
    prompts = parse_classes(classes, parse_templates(templates) or [PAPERS])
    others = by_semicolon(other_tissue)
    if twice := shared(others):
        raise ValueError(f"other tissue {twice!r} is there twice")
    if twice := shared([*prompts, *others]):
        raise ValueError(f"{twice!r} is both a class and other tissue")
    return prompts, others or list(OTHER_TISSUE)


def list_slides(
    folder: Path, listed: Path | None = None, *, by_folder: bool = False
) -> tuple[pd.DataFrame, dict[str, str]]:
    """List the slides below a folder, and why each other file below it is left out.

    The table is as of `read_slide_table`, with label −1. Whatever OpenSlide can read counts, but
    hidden files; one of several files counts once, and its parts are not left out. listed: a CSV
    with columns path and mpp, case or both: µm per pixel of slides that do not say it, and the case
    of a slide. by_folder: cases that it does not name are the first folders. Any other slide is a
    case by itself, called by its path. Raises FileNotFoundError without the folder, ValueError
    without a slide in it or naming all lines of `listed` that are wrong.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files = {f.relative_to(folder).as_posix(): f for f in sorted(folder.rglob("*"))}
    files = {p: f for p, f in files.items() if not f.is_dir() or f.is_symlink()}
    files = {p: f for p, f in files.items() if not f"/{p}".count("/.")}
    reasons = {path: _why_no_slide(path, file) for path, file in files.items()}
    first: dict[tuple[Path, str], str] = {}  # of each DICOM series
    parts: set[str] = set()
    for path in [path for path, reason in reasons.items() if not reason]:
        series = _dicom_series(files[path])
        if series and first.setdefault((files[path].parent, series), path) != path:
            parts.add(path)
        parts.update(p.relative_to(folder).as_posix() for p in companions(files[path]))
    slides = [path for path in files if path not in parts and not reasons[path]]
    left_out = {_printable(p): why for p, why in reasons.items() if why and p not in parts}
    if not slides:
        raise ValueError(f"{folder} holds {len(files)} files, and none is a slide")
    mpp: dict[str, float] = {}
    cases = {path: path.partition("/")[0] if by_folder else path for path in slides}
    if listed:
        lines = read_table(listed, ("path",), ("mpp", "case"))
        if not {"mpp", "case"} & {*lines}:
            raise ValueError(f"{listed} has neither a column 'mpp' nor a column 'case'")
        known = {path_key(path) for path in [*slides, *left_out]}
        problems = [
            f"line {row.line}: names {row.path!r}, which is no slide in {folder}"
            for row in lines.itertuples()
            if path_key(row.path) not in known
        ]
        mpp = mpp_by_path(listed, lines, problems)
        if "case" in lines:
            named = dict(zip(lines.path.map(path_key), lines["case"], strict=True))
            cases = {path: named.get(path_key(path)) or case for path, case in cases.items()}
    table = number_slides(pd.Series(slides), mpp).assign(label=-1)
    return table.assign(group=table.path.map(cases)), left_out


def given_folder(features: str, tissue: str, vlm: str) -> Path | None:
    """The folder of features of others, see `read_given`; None where none is named.

    Raises FileNotFoundError without the folder, ValueError where corrected tissue or another
    encoder is named too, which would decide the same.
    """
    if not features:
        return None
    folder = Path(features).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} with features")
    if tissue or split_name(vlm)[1]:
        besides = "corrected tissue" if tissue else "another encoder"
        raise ValueError(f"features come with their tiles and encoder: name no {besides} as well")
    print("note: heads read the features as they are, for there are no views of them")
    return folder


def _why_no_slide(path: str, file: Path) -> str:
    if file.is_dir():
        return "a link to a folder is not followed"
    try:
        path.encode()
        if file.is_file() and OpenSlide.detect_format(file):
            return ""
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return str(error)
    return "no slide that OpenSlide reads: empty, cut, or of another format"


def _dicom_series(path: Path) -> str:
    """The series of a DICOM file, all files of which are one slide; "" for any other slide.

    A file that OpenSlide cannot open has none.
    """
    if OpenSlide.detect_format(path) != "dicom":
        return ""
    try:
        with OpenSlide(path) as opened:
            return opened.properties.get("dicom.SeriesInstanceUID", "")
    except OpenSlideError:
        return ""


def _printable(text: str) -> str:
    """A text that stays a line of letters, whatever a file is called."""
    return "".join(c if c.isprintable() else "�" for c in text)


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
    """Say why files are left out, a line per reason with the first files that it is true of."""
    lines = []
    for reason in dict.fromkeys(left_out.values()):
        files = [file for file, why in left_out.items() if why == reason]
        more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
        lines.append(_printable(f"left out: {', '.join(files[:SHOWN])}{more}: {reason}"))
    return lines


def without_failed(cohort: Cohort, report: pd.DataFrame) -> tuple[Cohort, dict[str, str]]:
    """Leave out the slides that could not be read, and say why. report: of `embed_slides`.

    Prints what was made anew. Raises ValueError when none could be read.
    """
    for line in report[report.anew != ""].itertuples():
        print(f"made anew: {line.name}: other {line.anew}")
    for line in report[report.without != ""].itertuples():
        print(_printable(f"left out of the corrected tissue of {line.name}: {line.without}"))
    failed = (report.error != "").values
    unread = dict(zip(cohort.table.path[failed], report.error[failed], strict=True))
    table = cohort.table[~failed].reset_index(drop=True)
    if table.empty:
        raise ValueError("; ".join(["no slide could be read", *left_out_lines(unread)]))
    return replace(cohort, table=table.assign(slide=range(len(table)))), unread


def alarm_lines(alarms: Sequence[Alarm]) -> Iterator[str]:
    """Say what the alarms say, those of one name together, with their advice once."""
    yield f"alarm: {len(alarms)} in all" if alarms else "no alarm"
    for name, alike in groupby(alarms, lambda alarm: alarm.name):
        texts = [alarm.text.split(". ", 1) for alarm in alike]
        yield f"alarm: {name}. {texts[0][-1]}"
        yield from (f"alarm:   - {text[0]}" for text in texts)
