"""The only place that knows folders.

Environment variables: `DATA_ROOT` is a second place to look for datasets (the first is `data/raw`);
`OUTPUT_ROOT` redirects everything that is written (runs, models, generated tiles, record, figures).
Both are read at each call, and a relative value counts from the repository's root.
"""

import os
import re
import shutil
import unicodedata
from hashlib import blake2b
from pathlib import Path

STAND_IN = "stand-in-"  # + the name of its source card
LITE2 = "lite2-"  # between them: a stand-in on the larger of two image towers
ROOT = Path(__file__).resolve().parents[1]


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name, "")
    return (ROOT / Path(value).expanduser()).resolve() if value else None


def output_root() -> Path:
    """Root of everything that is written; the repository unless `OUTPUT_ROOT` says otherwise."""
    return _from_environment("OUTPUT_ROOT") or ROOT


def raw_folders() -> list[Path]:
    """Where datasets are looked up, in this order."""
    data_root = _from_environment("DATA_ROOT")
    return [output_root() / "data" / "raw"] + ([data_root] if data_root else [])


def card_file(dataset: str) -> Path:
    return ROOT / "data" / "cards" / f"{dataset_name(dataset)}.yaml"


def vlms_file() -> Path:
    return ROOT / "data" / "vlms.yaml"


def templates_file() -> Path:
    return ROOT / "data" / "templates.yaml"


def encoders_file() -> Path:
    return ROOT / "data" / "encoders.yaml"


def notebook_file(name: str) -> Path:
    return ROOT / "notebooks" / f"{name}.py"


def params_file(dataset: str) -> Path:
    return ROOT / "notebooks" / "params" / f"{dataset_name(dataset)}.yaml"


def pixels_folder(dataset: str) -> Path:
    """Decoded tiles of a dataset, shared by its runs."""
    return output_root() / "data" / "runs" / dataset_name(dataset) / "pixels"


def runs_folder(dataset: str, vlm: str) -> Path:
    """All seeds of one dataset and one VLM."""
    return output_root() / "data" / "runs" / dataset_name(dataset) / file_name(vlm)


def run_folder(dataset: str, vlm: str, seed: int | str, fold: int | str | None = None) -> Path:
    """One run, a dataset, a VLM and a seed; with a fold what depends on the split, below it."""
    folder = runs_folder(dataset, vlm) / f"seed{seed}"
    return folder if fold is None else folder / f"fold{fold}"


def shares_folder(run: Path, notebook: str) -> Path:
    """What the jobs that share the work of a notebook have done, until it has ended."""
    return run / f"{notebook}-shares"


def own_folder(dataset: str, vlm: str, seed: int, tiles: Path) -> Path:
    """What a run makes of a user's own folder of tiles."""
    return run_folder(dataset, vlm, seed) / folder_name(tiles)


def answers_file(tiles: Path) -> Path:
    """What people answered for a folder of tiles: of no run, and nothing removes it.

    Files had another name once, which two folders could share: one is taken over by a copy, for
    answers belong to pictures, whatever folder they are in.
    """
    file = output_root() / "data" / "labels" / f"{folder_name(tiles)}.jsonl"
    before = re.sub(r"[^\w.-]+", "-", str(tiles.resolve())).strip("-") + ".jsonl"
    if not file.exists() and os.path.isfile(file.with_name(before)):  # too long a name is no file
        shutil.copyfile(file.with_name(before), file)
    return file


def model_folder(vlm: str, seed: int) -> Path:
    """A stand-in VLM; each seed of a run has its own, so that its errors vary too."""
    return output_root() / "data" / "models" / file_name(vlm) / f"seed{seed}"


def source_of(stand_in: str) -> str:
    """The card that a stand-in VLM learns on, by its name."""
    return stand_in.removeprefix(STAND_IN).removeprefix(LITE2)


def record_folder() -> Path:
    """The published rows."""
    return output_root() / "data" / "record"


def figures_folder() -> Path:
    return output_root() / "figures"


def dataset_name(dataset: str) -> str:
    """The name of a dataset as it is. Raises ValueError for one that could lead elsewhere."""
    if not re.fullmatch(r"\w[\w.-]{0,99}", dataset):
        raise ValueError(
            f"{dataset!r} is no name of a dataset: letters, digits, '_', '-' and '.' make one"
        )
    return dataset


def file_name(name: str) -> str:
    """`hf-hub:org/model` and the like as a single name of a file or folder.

    Different names give different ones: where it is not the name as it is, it ends in a digest.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
    return plain if plain and plain == name else f"{plain}-{_digest(name)}".lstrip("-")


def folder_name(folder: Path) -> str:
    """A user's folder as a single name: its own, and a digest of where it lies."""
    path = folder.resolve()
    plain = re.sub(r"[^\w.-]+", "-", path.name).strip("-.")[:40]
    return f"{plain}-{_digest(str(path))}".lstrip("-")


def _digest(text: str) -> str:
    # As macOS and Linux may write the same letters in two ways.
    normal = unicodedata.normalize("NFC", text)
    return blake2b(os.fsencode(normal), digest_size=5).hexdigest()
