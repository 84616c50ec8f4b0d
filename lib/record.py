"""The record: how often every evaluation was correct, and what else is known of it.

Two tables and the settings, in a run folder and in `data/record` alike:

- `<stem>.parquet`, counts: of each evaluation the tiles (or slides) `n` of each true class `label`
  in each `group`, and how many of them were `correct`. Accuracy, balanced accuracy, intervals and
  the area under a learning curve follow from them. A `group` of "" stands for all groups.
- `<stem>.facts.parquet`: one line per evaluation with everything else: scores that are no counts,
  labels that were kept, estimates, alarms, seconds.
- `<stem>.settings.json`: the settings of the runs, prompts included, by the digest in the facts.
"""

import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from lib import paths
from lib.artefacts import atomic, naming

# What was evaluated. unit: "tile", "slide", or "curve", the mean over the rounds of a learning
# curve; varied, value: parameters that differ from the run's settings, and what they are.
TEXTS = "dataset vlm method variant training network unit split pooling varied value".split()
NUMBERS = "seed fold budget round".split()
MOST_CLASSES = 10_000
IDENTITY = [*TEXTS[:6], "seed", "fold", "unit", "split", "pooling", "budget", "round", *TEXTS[-2:]]
CODE = ("lib", "notebooks", "data/cards", "data/prepare", "data/vlms.yaml", "data/encoders.yaml")
COUNTS = ["label", "group", "n", "correct"]
SCORES = "macro_f1 auroc ece".split()
LABELS = (
    "kept share precision per_class lost_classes alarms confident disagreeing filled irrelevant "
    "irrelevant_dropped relevant_dropped truth estimates interval coverage half_width raised "
    "rounds query_precision"
).split()
FIELDS = [
    *(*IDENTITY, "n", *SCORES, *LABELS, "params"),
    *("settings", "seconds", "device", "commit", "versions", "machine"),
]
NESTED = [
    *"per_class lost_classes alarms estimates interval raised rounds".split(),
    *("params", "versions", "machine"),
]


@dataclass(frozen=True, eq=False)
class Record:
    """Evaluations, as a line of `facts` each, and their counts.

    Attributes
    ----------
    facts
        Columns `FIELDS`; besides, for reading, `accuracy` and `balanced_accuracy`, `class_n` and
        `class_correct` (arrays over the classes) and every setting and parameter that is a number
        or a word, by its name. The index is the number of the evaluation.
    counts
        Columns evaluation and `COUNTS`.

    """

    facts: pd.DataFrame
    counts: pd.DataFrame

    def __getitem__(self, mask: pd.Series) -> "Record":
        """The evaluations of a mask over the facts."""
        return Record(self.facts[mask], self.counts)

    def write(self, stem: Path) -> None:
        """Write the three files of `stem`, replacing what is there."""
        facts = self.facts[FIELDS].copy()
        counts = facts[IDENTITY].merge(self.counts, left_index=True, right_on="evaluation")
        digests, settings = {}, {}
        for each in {id(s): s for s in facts.settings}.values():
            text = _text(each)
            digests[id(each)] = blake2b(text.encode(), digest_size=4).hexdigest()
            settings[digests[id(each)]] = each
        facts["settings"] = facts.settings.map(lambda each: digests[id(each)])
        for name in NESTED:
            facts[name] = facts[name].map(_text, na_action="ignore")
        for part, frame in (("", counts), (".facts", facts)):
            with atomic(_file(stem, f"{part}.parquet")) as file:
                frame.to_parquet(file)
        with atomic(_file(stem, ".settings.json")) as file:
            lines = (f"{json.dumps(key)}: {_text(settings[key])}" for key in sorted(settings))
            file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def read(*stems: Path) -> Record:
    """Read the evaluations of some stems; a later one replaces an earlier one of the same."""
    return concat(map(_read, stems))


def _read(stem: Path) -> Record:
    with naming(_file(stem, ".facts.parquet")) as file:
        facts = _table(file, [*IDENTITY, "settings"], [*NUMBERS, *SCORES, "precision", "seconds"])
        facts = facts.reindex(columns=FIELDS)
        for name in NESTED:
            texts = {text: json.loads(text) for text in facts[name].dropna().unique()}
            facts[name] = [texts.get(text) for text in facts[name]]
        _refuse_unnamed(facts.params)
    with naming(_file(stem, ".parquet")) as file:
        needed = ["evaluation", *COUNTS]
        counts = _table(file, needed, ["evaluation", "label", "n", "correct"])[needed]
        if len(counts) and not 0 <= counts.label.min() <= counts.label.max() < MOST_CLASSES:
            raise ValueError("a label is no number of a class")
    with naming(_file(stem, ".settings.json")) as file:
        settings = json.loads(file.read_text())
        facts["settings"] = [settings[digest] for digest in facts.settings]
        _refuse_unnamed(facts.settings)
    return Record(facts, counts)


def _table(file: Path, needed: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(file)
    except FileNotFoundError:
        raise
    except OSError as error:  # as Arrow says that it is damaged
        raise ValueError(error) from error
    if lacking := {*needed} - {*table}:
        raise ValueError(f"no column {min(lacking)!r}")
    for name in {*numbers} & {*table}:
        if not (is_numeric_dtype(table[name]) or table[name].isna().all()):
            raise ValueError(f"column {name!r} is not of numbers")
    return table


def _refuse_unnamed(values: Iterable[Any]) -> None:
    for value in values:
        if not isinstance(value, dict):
            raise ValueError(f"{value!r:.80} are no named values")


def published(dataset: str = "*") -> Record:
    """Read what `data/record` holds of a dataset, or of all."""
    return read(*stems(paths.record_folder(), dataset))


def stems(folder: Path, pattern: str = "*") -> list[Path]:
    """What `read` can read in a folder, sorted by name."""
    ending = ".facts.parquet"
    files = sorted(folder.glob(pattern + ending), key=lambda file: (file.name, file))
    return [file.with_name(file.name.removesuffix(ending)) for file in files]


def make(
    evaluations: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Record:
    """Make a record of what notebooks have evaluated.

    Parameters
    ----------
    evaluations
        Of each its fields; `scores` and `labels`, dictionaries of further fields; `params`, what it
        was measured with beside the settings, where `varied` lists names that differ from them; and
        `counts`, a frame with the columns `COUNTS`.
    settings
        Of the run.
    fields
        Fields of all evaluations, which an evaluation may set itself.

    Raises
    ------
    TypeError
        A field is none of the record.

    """
    lines, counts, shared = [], [_empty(["evaluation", *COUNTS])], dict(settings or {})
    for number, evaluation in enumerate(evaluations):
        line = provenance() | {"unit": "tile", "settings": shared} | fields | dict(evaluation)
        counted = line.pop("counts", None)
        if counted is not None:
            counts.append(counted[COUNTS].assign(evaluation=number))
        params = dict(line.get("params") or {})
        line |= (line.pop("scores", None) or {}) | (line.pop("labels", None) or {})
        line["pooling"] = params.pop("pooling", "")
        varied = params.pop("varied", ())
        line |= {"varied": ", ".join(varied), "value": ", ".join(str(params[v]) for v in varied)}
        line["params"] = {
            name: value
            for name, value in params.items()
            if name in varied or line["settings"].get(name) != value
        }
        unknown = line.keys() - set(FIELDS)
        if unknown:
            raise TypeError(f"not a field of the record: {', '.join(sorted(unknown))}")
        lines.append(line)
    return _complete(pd.DataFrame(lines, columns=FIELDS), _joined(counts))


def concat(records: Iterable[Record]) -> Record:
    """Join records; a later evaluation replaces an earlier one of the same."""
    facts, counts, last = [_empty(FIELDS)], [_empty(["evaluation", *COUNTS])], 0
    for each in records:
        kept = each.counts[each.counts.evaluation.isin(each.facts.index)]
        facts.append(each.facts[FIELDS].set_axis(each.facts.index + last))
        counts.append(kept.assign(evaluation=kept.evaluation + last))
        last = int(facts[-1].index.max()) + 1 if len(each.facts) else last
    return _complete(_joined(facts), _joined(counts))


HEADLINES = {
    "cold-start": "UniSAL after VLM-CPL",
    "typical-first": "UniSAL",
    "unisal-coverage": "UniSAL, first tiles by chance",
    "vlm-cpl": "VLM-CPL",
    "zero-shot": "zero-shot",
    "mvc+pfc": "MVC, then PFC",
    "mvc": "MVC",
}


def headline(some: Record) -> str:
    """Name VLM-CPL or UniSAL in our variant and its accuracy on the test set; empty without it.

    Of notebooks before the training: zero-shot, or the precision of the pseudo labels.
    """
    facts = some.facts[(some.facts.varied == "") & (some.facts.unit != "curve")]
    for method, name in HEADLINES.items():
        rated = facts[facts.method == method]
        ours = rated[rated.variant == "ours"]
        rated = ours if len(ours) else rated
        tested = rated[rated.accuracy.notna() & (rated.split == "test")]
        aligned = tested[tested.training.isin(["", "dual-view-aligned"])]
        tested = (aligned if len(aligned) else tested).fillna({"budget": 0})
        for line in tested.sort_values("budget", kind="stable").tail(1).itertuples():
            labels = f", {line.budget:.0f} labels" if line.budget else ""
            variant = f", {line.variant}" if line.variant else ""
            return f"{name}{variant}{labels}: accuracy {line.accuracy:.3f}"
        for line in rated[rated.precision.notna()].tail(1).itertuples():
            return f"{name}, ours: pseudo-label precision {line.precision:.3f}"
    return ""


@cache
def provenance() -> dict[str, Any]:
    """Commit, versions and machine of a result; a trailing `+` means uncommitted changes."""
    try:
        git = ["git", "-C", str(paths.ROOT)]
        commit = subprocess.check_output(
            [*git, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL
        )[:12]
        changed = subprocess.check_output([*git, "status", "--porcelain", *CODE])
        commit += "+" if changed else ""
    except (OSError, subprocess.CalledProcessError):
        commit = None
    names = ["torch", "open_clip_torch", "timm", "scikit-learn", "numpy"]
    versions = {name: metadata.version(name) for name in names}
    return {
        "commit": commit,
        "versions": {"python": platform.python_version()} | versions,
        "machine": _machine(),
    }


def _machine() -> dict[str, Any]:
    """Processor, instruction set that PyTorch computes with, and threads: they decide last bits."""
    import torch

    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


# --- what is read from the fields ----------------------------------------------------------------


def _complete(facts: pd.DataFrame, counts: pd.DataFrame) -> Record:
    """Facts without repeats, with the columns that follow from settings, parameters and counts."""
    facts[TEXTS] = facts[TEXTS].astype(object).fillna("").astype(str)
    facts["fold"] = facts.fold.fillna(0).astype(int)
    facts[NESTED] = facts[NESTED].astype(object).where(facts[NESTED].notna(), None)
    numbers = ["budget", "round", *SCORES, "precision", "seconds"]
    facts[numbers] = facts[numbers].astype(float)
    texts = facts[["params", "settings"]].map(_remembered())
    repeated = (
        facts[IDENTITY].assign(params=texts.params, settings=texts.settings).duplicated(keep="last")
    )
    facts = facts[~repeated]
    keys = texts[~repeated].apply(tuple, axis=1)
    first = facts[~keys.duplicated()]
    flat = pd.DataFrame(
        [
            {n: v for n, v in (s | p).items() if n not in FIELDS and not isinstance(v, list | dict)}
            for s, p in zip(first.settings, first.params, strict=True)
        ],
        index=keys[~keys.duplicated()],
    )
    flat = flat.loc[keys].set_index(facts.index) if len(facts) else flat
    counts = counts[["evaluation", *COUNTS]]
    return Record(pd.concat([facts, flat, _scores(facts.index, counts)], axis=1), counts)


def _scores(evaluations: pd.Index, counts: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, balanced accuracy and the counts per class of each evaluation; NaN without any."""
    lines, labels = evaluations.get_indexer(counts.evaluation), counts.label.astype(int)
    sums = np.zeros((2, len(evaluations), max(labels, default=-1) + 1))
    for counted, name in zip(sums, ("n", "correct"), strict=True):
        np.add.at(counted, (lines[lines >= 0], labels[lines >= 0]), counts[name][lines >= 0])
    n, correct = sums
    with np.errstate(invalid="ignore"):
        recall, accuracy = correct / n, correct.sum(1) / n.sum(1)
    scores = {"accuracy": accuracy, "balanced_accuracy": pd.DataFrame(recall).mean(axis=1).values}
    scores |= {"class_n": list(n), "class_correct": list(correct)}
    return pd.DataFrame(scores, index=evaluations)


def _remembered() -> Any:
    """`_text` of an object that is met again without making it again."""
    texts: dict[int, str] = {}
    return lambda value: texts.get(id(value)) or texts.setdefault(id(value), _text(value))


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled) if filled else frames[0]


def _empty(columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame({name: [] for name in columns})


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, sort_keys=False)


def _file(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)
