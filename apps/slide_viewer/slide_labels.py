"""Labels of slides from a table that a person fills in: an audit of the classes of slides.

All slides stand in the table in an order of chance, which a digest of their paths fixes. Whoever
fills it in from the top has labelled slides that were drawn by chance, as many as there are labels
without a gap; a label below a gap does not count, as somebody has chosen that slide. New slides
take their places among the others. No label teaches anything.
"""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import pandas as pd

from apps.labelling.answers import Problems, class_called
from lib import paths
from lib.artefacts import atomic
from lib.csv_tables import path_key, read_table, refuse
from lib.labels import NONE_OF_THESE, REFUSED
from lib.quality.audit import audit_sentence


def labels_file(folder: Path) -> Path:
    """Name the table of a folder of slides, which nothing removes: see `paths.answers_file`."""
    return paths.answers_file(folder).with_suffix(".slides.csv")


def read_labels(file: Path, class_names: Sequence[str]) -> dict[str, str]:
    """Read the label of each path, "" where there is none yet; there may be no table yet.

    Raises ValueError naming every line with an unknown class or a path that is there already.
    """
    rows = read_table(file, ("path", "label")) if file.is_file() else pd.DataFrame()
    labels, problems = dict[str, str](), Problems()
    for row in rows.to_dict("records"):
        with problems.at(f"line {row['line']}"):
            if (path := path_key(row["path"])) in labels:
                raise ValueError(f"{row['path']!r} is listed twice")
            label = row["label"] and (class_called(row["label"], class_names) or NONE_OF_THESE)
            labels[path] = label
    refuse(str(file), problems)
    return labels


def write_table(file: Path, slides: Sequence[str], labels: dict[str, str]) -> None:
    """Write all slides in the order of chance with their labels; what is gone stays, at the end."""
    gone = [path for path in labels if path not in {path_key(slide) for slide in slides}]
    lines = [(path, labels.get(path_key(path), "")) for path in [*_by_chance(slides), *gone]]
    with atomic(file) as temporary:
        pd.DataFrame(lines, columns=["path", "label"]).to_csv(temporary, index=False)


def _by_chance(slides: Sequence[str]) -> list[str]:
    return sorted(slides, key=lambda path: blake2b(path_key(path).encode()).digest())


def audit_lines(
    slides: pd.DataFrame, predicted: Sequence[str], labels: dict[str, str], file: Path
) -> list[str]:
    """Say what the labels tell of the classes of all slides, or where to put them.

    slides: with path; predicted: class of each, "" for none, which is incorrect, as is a slide that
    shows none of the classes. The interval is that of `audited_accuracy`: a number of correct ones
    in a sample of all slides is hypergeometric, for which its limits hold.
    """
    class_of = dict(zip(slides.path, predicted, strict=True))
    drawn: list[tuple[str, str, str]] = []
    for path in _by_chance(slides.path.tolist()):
        if not (label := labels.get(path_key(path), "")):
            break
        drawn.append((path, class_of[path], label))
    where = f"data/labels/{file.name}"  # the page is passed on: no path of this machine
    how = f"Fill in the column label of {where} from the top, where the order is by chance"
    if not drawn:
        return [
            "Nobody has audited these classes, and how far off estimates without labels are was "
            f"not measured for slides, so none is shown. {how}, or {NONE_OF_THESE!r} where a slide "
            "shows no class, and make the page again: it then says how many are correct."
        ]
    names = sorted({*predicted, *labels.values(), ""})
    sample = pd.DataFrame(drawn, columns=["tile", "predicted", "label"]).assign(counted=True)
    sample["predicted"] = sample.predicted.map(names.index)
    known = sample.label.map(names.index)
    sample["label"] = known.where(sample.label != NONE_OF_THESE, REFUSED)
    below = sum(bool(labels.get(path_key(path))) for path in slides.path) - len(drawn)
    left = f" {below} labels below a gap do not count: nobody drew these slides." * (below > 0)
    return [f"Audit: {audit_sentence(sample, len(slides), what='slides')}{left} {how}."]
