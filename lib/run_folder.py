"""One run: a dataset, a vision-language model and a seed, with its folders, settings and rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import chain, paths, record
from lib.artefacts import atomic, locked


class Run:
    """What one notebook reads of a run and writes to it.

    `parameters` are the notebook's own: they become settings of the run, which later notebooks read
    from `settings` and every row of a notebook carries, with those of all notebooks before it. A
    setting has one owner, the earliest notebook that gives it. fold: for notebooks that depend on
    the split; they read what the folds share and write to a folder of their fold. network:
    "frozen", or "fine-tune" for whole networks, whose settings, tables and rows are kept apart from
    those of the heads.

    Raises ValueError when an earlier notebook of this run gave a setting another value.
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
        """Give settings of this run their values; see the class for who may."""
        own_file = self._settings_file(self.variant if self.notebook in chain.PER_NETWORK else "")
        own_file.parent.mkdir(parents=True, exist_ok=True)
        with locked(own_file.with_name(".settings.lock")):
            self._own |= _as_json(settings)
            owned = dict(self._own)
            for notebook, given in self._sections().items():
                for name in given.keys() & owned.keys() if notebook < self.notebook else ():
                    if given[name] != owned.pop(name):
                        raise ValueError(
                            f"{self.notebook}: {name}={self._own[name]!r}, but {notebook} has run "
                            f"with {name}={given[name]!r}. Run both with the same value, or remove "
                            f"{self.folder} to start over"
                        )
            sections = _read(own_file)
            for notebook in sections:
                if notebook > self.notebook:
                    sections[notebook] = {
                        n: v for n, v in sections[notebook].items() if n not in owned
                    }
            with atomic(own_file) as file:
                text = json.dumps(sections | {self.notebook: owned}, indent=1, ensure_ascii=False)
                file.write_text(text)

    @property
    def settings(self) -> Mapping[str, Any]:
        """All settings of the run so far, by name; one that is missing is a ValueError."""
        flat = {name: v for given in self._sections().values() for name, v in given.items()}
        return _Settings(flat | self._own, f"{self.notebook} of {self.folder}")

    def _settings_file(self, variant: str) -> Path:
        return self.folder / f"settings{variant}.json"

    def _sections(self) -> dict[str, dict[str, Any]]:
        """Settings by the notebook that owns them, as far as they belong to this network."""
        sections = _read(self.shared / "settings.json") | _read(self._settings_file(""))
        if not self.variant:
            return sections
        before = set(chain.ancestors(self.notebook)) - set(chain.PER_NETWORK)
        sections = {name: given for name, given in sections.items() if name in before}
        return sections | _read(self._settings_file(self.variant))

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
                return np.load(array, mmap_mode="r", allow_pickle=False)
            if table.is_file():
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

    # --- rows

    def record(self, evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Make rows of evaluations, replace this notebook's rows by them and return them.

        An evaluation holds fields of a row (`record.ROW_FIELDS`), such as the fold where the
        notebook serves all of them; its `params` are what it alone
        was measured with, and are joined by the settings of this notebook and of those before it.
        """
        sections = self._sections()
        inherited = {
            name: value
            for notebook in chain.ancestors(self.notebook)
            for name, value in sections.get(notebook, {}).items()
        }
        fixed = {"dataset": self.dataset, "vlm": self.vlm, "fold": self.fold, "seed": self.seed}
        rows = [
            record.row(**fixed | dict(e) | {"params": inherited | self._own | e.get("params", {})})
            for e in evaluations
        ]
        record.write_rows(self.folder / "rows" / f"{self.notebook}{self.variant}.jsonl", rows)
        return rows

    def rows(self, *notebooks: str) -> list[dict[str, Any]]:
        """Rows of this fold that some notebooks have recorded; without a name, of all."""
        names = [f"{name}*" for name in notebooks] or ["[0-9]*"]
        folders = (self.shared, self.folder)
        files = {f for place in folders for name in names for f in place.glob(f"rows/{name}.jsonl")}
        rows = record.read_rows(*sorted(files, key=lambda file: file.name))
        return [row for row in rows if self.fold in (None, row["fold"])]


class _Settings(dict):
    """Settings by name, with an error that says where one is missing."""

    def __init__(self, settings: Mapping[str, Any], where: str):
        super().__init__(settings)
        self.where = where

    def __missing__(self, name: str) -> Any:
        raise ValueError(
            f"no notebook has decided {name!r} before {self.where}: run the chain up to there"
        )


def _as_json(value: Any) -> Any:
    """The value as settings.json gives it back."""
    return json.loads(json.dumps(value))


def _read(file: Path) -> dict[str, dict[str, Any]]:
    return json.loads(file.read_text()) if file.is_file() else {}
