"""One run: a dataset, a vision-language model and a seed, with its folders, settings and rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import chain, paths, record
from lib.artefacts import atomic, locked, naming
from lib.data import datasets
from lib.data.cards import read_card
from lib.data.tiles import decode_tiles
from lib.parameters import declared_parameters
from lib.record import Record

NO_SETTINGS = ("part", "parts")  # which job it is decides no result


class Run:
    """What one notebook reads of a run and writes to it.

    `parameters` of the notebook become settings of the run, which stand below the notebook's name;
    its results refer to them and to those of all notebooks before it. fold: for notebooks that
    depend on the split; they read what the folds share and write to a folder of their fold.
    network: "frozen", or "fine-tune" for whole networks, whose settings, tables and results are
    kept apart from those of the heads.
    """

    def __init__(
        self,
        notebook: str,
        dataset: str,
        vlm: str,
        seed: int,
        fold: int | None = None,
        *,
        network: str = "frozen",
        **parameters: Any,
    ):
        if network not in ("frozen", "fine-tune"):
            raise ValueError(f"network must be frozen or fine-tune, not {network!r}")
        self.notebook, self.dataset, self.vlm, self.seed = notebook, dataset, vlm, seed
        self.fold, self.network = fold, network
        self.variant = chain.variant(network)
        self.shared = paths.run_folder(dataset, vlm, seed)
        self.folder = paths.run_folder(dataset, vlm, seed, fold)
        self._own: dict[str, Any] = {}
        self.decide(**parameters)

    # --- settings

    def decide(self, **settings: Any) -> None:
        """Add settings to those of this notebook; its earlier ones of another run are dropped."""
        file = self._settings_file(self.variant if self.notebook in chain.PER_NETWORK else "")
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.with_name(".settings.lock")), atomic(file) as temporary:
            self._own |= json.loads(json.dumps(settings))  # as they are read again
            sections = _read(file) | {self.notebook: self._own}
            temporary.write_text(json.dumps(sections, indent=1, ensure_ascii=False))

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of this notebook and of all before it, by name; see `settings_of`."""
        return self.settings_of(self.notebook)

    def settings_of(self, notebook: str) -> Mapping[str, Any]:
        """Settings of a notebook and of those that it rests on, by name.

        A notebook's own setting wins over one of the same name before it. What two notebooks, none
        of which rests on the other, decided differently has the number of the notebook before its
        name, as in "13.threshold". A setting that is missing is a ValueError.
        """
        sections = self._sections()
        by_owner: dict[str, dict[str, Any]] = {}
        for owner in [*chain.ancestors(notebook), notebook]:
            before = chain.ancestors(owner)
            for name, value in sections.get(owner, {}).items():
                others = {o: v for o, v in by_owner.get(name, {}).items() if o not in before}
                by_owner[name] = others | {owner: value}
        settings: dict[str, Any] = {}
        for name, values in by_owner.items():
            first, *rest = values.values()
            same = all(value == first for value in rest)
            settings |= {name if same else f"{o[:2]}.{name}": v for o, v in values.items()}
        return _Settings(settings, f"{self.notebook} of {self.folder}")

    def _settings_file(self, variant: str) -> Path:
        return self.folder / f"settings{variant}.json"

    def _sections(self) -> dict[str, dict[str, Any]]:
        """Settings by notebook, as far as they belong to this network."""
        sections = _read(self.shared / "settings.json") | _read(self._settings_file(""))
        if self.variant:
            sections = {name: s for name, s in sections.items() if name not in chain.PER_NETWORK}
            sections |= _read(self._settings_file(self.variant))
        return sections | {self.notebook: self._own}  # another job may just have opened it

    # --- arrays and tables

    def file(self, name: str) -> Path:
        return self.folder / name

    def load(self, *names: str) -> Any:
        """Arrays (mapped, read-only) and tables by name; one alone, or a tuple of several.

        Raises FileNotFoundError naming what is missing.
        """
        loaded = tuple(self._load(name) for name in names)
        return loaded[0] if len(loaded) == 1 else loaded

    def _load(self, name: str) -> Any:
        stems = dict.fromkeys((name + self.variant, name))
        for place in [folder / stem for folder in (self.folder, self.shared) for stem in stems]:
            array, table = (place.with_name(f"{place.name}.{kind}") for kind in ("npy", "parquet"))
            if array.is_file():
                with naming(array):
                    return np.load(array, mmap_mode="r", allow_pickle=False)
            if table.is_file():
                with naming(table):
                    return pd.read_parquet(table)
        before = ", ".join(chain.ancestors(self.notebook)) or "the notebooks before it"
        raise FileNotFoundError(
            f"{self.folder} holds no {name!r}, which {self.notebook} reads: run {before} first, "
            "with the same dataset, vlm and seed; `make reproduce` runs them all"
        )

    def split(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Training tiles and test set of this fold, from `tiles.parquet`.

        Raises ValueError naming the folds that there are when it is none of them.
        """
        table = self.load("tiles")
        tested = table.fold == self.fold
        if not tested.any():
            folds = sorted(set(table.fold[table.fold >= 0]))
            raise ValueError(f"{self.dataset} has no fold {self.fold}; its folds are {folds}")
        return table[~tested].reset_index(drop=True), table[tested].reset_index(drop=True)

    def save(self, **artefacts: np.ndarray | pd.DataFrame) -> None:
        """Write arrays as .npy and tables as .parquet, each complete or not at all."""
        variant = self.variant if self.notebook in chain.PER_NETWORK else ""
        for name, artefact in artefacts.items():
            kind = "parquet" if isinstance(artefact, pd.DataFrame) else "npy"
            with atomic(self.folder / f"{name}{variant}.{kind}") as file:
                if isinstance(artefact, pd.DataFrame):
                    artefact.to_parquet(file)
                else:
                    with file.open("wb") as opened:
                        np.save(opened, artefact)

    # --- decoded tiles

    def pixels_file(self, size: int = 0, *, shift: str = "") -> Path:
        """Decode the tiles of `tiles.parquet`, once for all runs, and return the file.

        size: of the model's input, without it that of the run; shift: see `lib.data.shifts`.
        """
        folder = datasets.locate_tiles(read_card(self.dataset))
        size = size or self.settings["input_size"]
        with locked(paths.pixels_folder(self.dataset) / ".decoding.lock"):
            return decode_tiles(self.load("tiles"), folder, self.dataset, size, shift=shift)

    def pixels(self, size: int = 0, *, shift: str = "") -> np.ndarray:
        """Decoded tiles, uint8 [N, S, S, 3], mapped from `pixels_file`."""
        return np.load(self.pixels_file(size, shift=shift), mmap_mode="r", allow_pickle=False)

    # --- results

    def record(self, evaluations: Sequence[Mapping[str, Any]]) -> Record:
        """Replace this notebook's results by evaluations, see `record.make`, and return them."""
        fixed = {"dataset": self.dataset, "vlm": self.vlm, "fold": self.fold, "seed": self.seed}
        made = record.make(evaluations, self.settings, **fixed)
        made.write(self.folder / "results" / f"{self.notebook}{self.variant}")
        return made

    def results(self, *notebooks: str) -> Record:
        """What some notebooks, or without a name all, have recorded of this fold."""
        folders = dict.fromkeys(folder / "results" for folder in (self.shared, self.folder))
        stems = [
            stem
            for folder in folders
            for name in notebooks or [""]
            for stem in record.stems(folder, f"{name}*")
        ]
        some = record.read(*sorted(stems, key=lambda stem: stem.name))
        return some if self.fold is None else some[some.facts.fold == self.fold]


class _Settings(dict):
    """Settings by name, with an error that says where one is missing."""

    def __init__(self, settings: Mapping[str, Any], where: str):
        super().__init__(settings)
        self.where = where

    def __missing__(self, name: str) -> Any:
        raise ValueError(
            f"no notebook has decided {name!r} before {self.where}: run the chain up to there"
        )


def open_run(notebook: str, values: Mapping[str, Any]) -> Run:
    """Open the run that a notebook's parameters name; all others become settings of the run.

    values: `globals()` of the notebook, of which the names in its parameters cell count.
    """
    names = declared_parameters(paths.notebook_file(notebook))
    return Run(notebook, **{name: values[name] for name in names if name not in NO_SETTINGS})


def _read(file: Path) -> dict[str, dict[str, Any]]:
    with naming(file):
        return dict(json.loads(file.read_text())) if file.is_file() else {}
