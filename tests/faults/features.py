"""Features of slides in HDF5, of other programs or damaged."""

import h5py
import numpy as np
import pandas as pd

from lib.slides.cohort import Cohort
from lib.slides.features_file import read_features

from .fault import Fault, put

COORDS = np.arange(6).reshape(3, 2)
FEATURES = np.ones((3, 5), np.float32)


def h5(change=lambda opened: None, **arrays):
    """A file of arrays, changed."""

    def write(file):
        with h5py.File(file, "w") as opened:
            for name, array in ({"coords": COORDS, "features": FEATURES} | arrays).items():
                if array is not None:
                    opened.create_dataset(name, data=array)
            change(opened)

    return write


def replaced(name, make):
    def change(opened):
        del opened[name]
        make(opened, name)

    return h5(change)


def virtual(opened, name):
    layout = h5py.VirtualLayout((3, 5), "f4")
    layout[:] = h5py.VirtualSource("b.h5", "features", (3, 5))
    opened.create_virtual_dataset(name, layout)


def cut(part):
    def write(file):
        h5()(file)
        file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])

    return write


def read(folder):
    return str(read_features(folder / "a.h5")[1])


def gather(folder):
    table = pd.DataFrame({"slide": [0, 1], "name": ["a", "b"], "path": ["a.tif", "b.tif"]})
    return str(len(Cohort(folder, table, folder, 32, 1.0).gather_tiles()))


DAMAGED = "a.h5 is damaged or no HDF5 file"
CASES = [
    ("empty", b"", [DAMAGED]),
    ("words", "hello", [DAMAGED]),
    ("a page", "<html>", [DAMAGED]),
    ("cut in half", cut(0.5), [DAMAGED]),
    ("cut at its end", cut(0.98), [DAMAGED]),
    ("no coords", h5(coords=None), ["a.h5 has no array 'coords'"]),
    ("no features", h5(features=None), ["a.h5 has no array 'features'"]),
    ("a group as features", replaced("features", lambda o, n: o.create_group(n)), ["no array 'fe"]),
    ("fewer coords", h5(coords=COORDS[:2]), ["coords and features are [2, 2] and [3, 5]"]),
    ("coords in three axes", h5(coords=np.zeros((3, 3))), ["[3, 3] and [3, 5]"]),
    ("features of one axis", h5(features=np.ones(3)), ["[3, 2] and [3]"]),
    ("features of three axes", h5(features=np.ones((1, 3, 5))), ["[3, 2] and [1, 3, 5]"]),
    ("words as features", h5(features=np.array([b"a"] * 3)), ["is of |S1, not of numbers"]),
    (
        "objects as features",
        replaced("features", lambda o, n: o.create_dataset(n, data=["a"])),
        ["not of numbers"],
    ),
    (
        "NaN",
        h5(features=FEATURES * np.nan),
        ["a.h5: the array 'features' has numbers that are not finite"],
    ),
    ("infinite", h5(features=FEATURES * np.inf), ["'features' has numbers that are not finite"]),
    ("no tile", h5(coords=COORDS[:0], features=FEATURES[:0]), ["a.h5 holds no tile"]),
    (
        "a link away",
        replaced("features", lambda o, n: o.__setitem__(n, h5py.ExternalLink("b.h5", "x"))),
        ["'features' is a link to somewhere else"],
    ),
    (
        "a link inside",
        replaced("features", lambda o, n: o.__setitem__(n, h5py.SoftLink("/coords"))),
        ["is a link"],
    ),
    (
        "numbers elsewhere",
        replaced("features", lambda o, n: o.create_dataset(n, (3, 5), "f4", external="b.raw")),
        ["needs another file or a library"],
    ),
    ("a virtual array", replaced("features", virtual), ["needs another file or a library"]),
    (
        "more than memory",
        replaced("features", lambda o, n: o.create_dataset(n, (3, 2**36), "f4", chunks=(1, 1024))),
        ["claim far more bytes"],
    ),
]
FAULTS = [Fault("features", n, put({"a.h5": content}), read, says) for n, content, says in CASES]
FAULTS += [
    Fault(
        "features",
        "none of a slide",
        put({"a.h5": h5()}),
        gather,
        ["1 of 2 slides have no features, the first: b"],
    ),
    Fault(
        "features",
        "of another program",
        put({"a.h5": h5(), "b.h5": h5()}),
        gather,
        ["a.h5 is of another program: remove it"],
    ),
]
