"""Results on the disk that were cut, changed or are of another version."""

import numpy as np
import pandas as pd
from made_up_results import made, scored

from lib import record
from lib.run_folder import Run

from .fault import Fault, put


def written(folder):
    """A record with one evaluation, `r`."""
    made(scored("zero-shot", 0.5)).write(folder / "r")


def changed(name, content):
    """The record with another content of one of its files, or without it."""

    def write(folder):
        written(folder)
        file = folder / name
        if content is None:
            file.unlink()
        elif callable(content):
            content(file)
        else:
            file.write_bytes(content)

    return write


def read(folder):
    return str(len(record.read(folder / "r").facts))


def cut(file):
    file.write_bytes(file.read_bytes()[:-20])


def other_table(file):
    pd.DataFrame({"x": [1]}).to_parquet(file)


RUN = "results/data/runs/toy/v/seed0/"


def load(name):
    return lambda _: str(np.shape(Run("10_zero_shot_inference", "toy", "v", 0).load(name)))


def settings(_):
    return str(Run("10_zero_shot_inference", "toy", "v", 0).settings["seed"])


def array(file):
    np.save(file, np.array([{}], object), allow_pickle=True)


def half(file):
    np.save(file, np.ones(100))
    cut(file)


COUNTS, FACTS, SETTINGS = "r.parquet", "r.facts.parquet", "r.settings.json"
RECORD = [
    ("no counts", COUNTS, None, ["r.parquet"]),
    ("no settings", SETTINGS, None, ["r.settings.json"]),
    ("no facts", FACTS, None, ["r.facts.parquet"]),
    ("counts that are empty", COUNTS, b"", ["r.parquet", "remove it"]),
    ("facts that are empty", FACTS, b"", ["r.facts.parquet", "remove it"]),
    ("counts that were cut", COUNTS, cut, ["r.parquet", "remove it"]),
    ("facts that were cut", FACTS, cut, ["r.facts.parquet", "remove it"]),
    ("facts of words", FACTS, b"hello", ["r.facts.parquet", "remove it"]),
    ("counts of another table", COUNTS, other_table, ["r.parquet", "remove it"]),
    ("facts of another table", FACTS, other_table, ["r.facts.parquet", "remove it"]),
    ("settings that are empty", SETTINGS, b"", ["r.settings.json", "remove it"]),
    ("settings that were cut", SETTINGS, cut, ["r.settings.json", "remove it"]),
    ("settings of a list", SETTINGS, b"[]", ["r.settings.json", "remove it"]),
    ("settings of another record", SETTINGS, b"{}", ["r.settings.json", "remove it"]),
    ("settings in another encoding", SETTINGS, b'{"\xff": 1}', ["r.settings.json", "remove it"]),
]
ARTEFACTS = [
    ("no array", {}, load("votes"), ["holds no 'votes'", "run"]),
    ("an empty array", {"votes.npy": b""}, load("votes"), ["votes.npy", "remove it"]),
    ("an array that was cut", {"votes.npy": half}, load("votes"), ["votes.npy", "remove it"]),
    ("an array of objects", {"votes.npy": array}, load("votes"), ["votes.npy", "remove it"]),
    ("an array of words", {"votes.npy": b"hello"}, load("votes"), ["votes.npy", "remove it"]),
    (
        "a table that was cut",
        {"tiles.parquet": b"PAR1"},
        load("tiles"),
        ["tiles.parquet", "remove it"],
    ),
    (
        "settings that were cut",
        {"settings.json": b'{"a": '},
        settings,
        ["settings.json", "remove it"],
    ),
    ("settings of a list", {"settings.json": b"[1]"}, settings, ["settings.json", "remove it"]),
    (
        "settings in UTF-16",
        {"settings.json": "{}".encode("utf-16")},
        settings,
        ["settings.json", "remove it"],
    ),
]
LEAVES = [RUN + "settings.json"]
FAULTS = [Fault("records", f"a record: {n}", changed(f, c), read, s) for n, f, c, s in RECORD]
FAULTS += [
    Fault(
        "records",
        f"a run: {n}",
        put({RUN + f: c for f, c in given.items()}),
        does,
        says,
        leaves=LEAVES,
    )
    for n, given, does, says in ARTEFACTS
]
FAULTS += [
    Fault(
        "records",
        "a run: a fold that is none",
        put({RUN + "tiles.parquet": lambda f: pd.DataFrame({"fold": [0, 1]}).to_parquet(f)}),
        lambda _: str(Run("12_prompt_feature_consensus", "toy", "v", 0, 7).split()),
        ["toy has no fold 7; its folds are [0, 1]"],
        leaves=[RUN + "fold7/settings.json"],
    ),
    Fault(
        "records",
        "a run: another kind of network",
        put({"x": ""}),
        lambda _: Run("10_zero_shot_inference", "toy", "v", 0, network="deep").notebook,
        ["network must be frozen or fine-tune, not 'deep'"],
    ),
]
