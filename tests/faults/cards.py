"""Cards of datasets and models, parameter files and parameters."""

import signal
from unittest import mock

import yaml
from miniatures import CARD_FIELDS

from lib import paths, runner
from lib.data import cards
from lib.parameters import resolve_parameters
from lib.vlm.cards import check_vlm, read_vlm_cards

from .fault import Fault, nothing, put

A, B = CARD_FIELDS["classes"]
OWN = paths.notebook_file("90_your_own_tiles")


def read(folder):
    """`toy.yaml` read as a card of the repository."""
    with mock.patch.object(
        paths, "card_file", lambda name: folder / f"{paths.dataset_name(name)}.yaml"
    ):
        return cards.read_card("toy").title


def written(values):
    return put({"toy.yaml": values if isinstance(values, str | bytes) else yaml.safe_dump(values)})


def changed(**changes):
    return written(CARD_FIELDS | changes)


TEXT = yaml.safe_dump(CARD_FIELDS)
# A line more than a good card, and what is said of that line.
LINES = {
    "a field twice": ("title: Other", "'title' is there twice"),
    "no as a field": ("counts: {no: 3}", "the name of a field is no text; put it in quotes"),
    "a number as a field": ("counts: {1: 3}", "the name of a field is no text"),
    "an alias": ("access: &x [*x]", "anchors and aliases are not read; write it out"),
    "an alias of nothing": ("access: *x", "anchors and aliases"),
    "a merge key": ("<<: {access: x}", "the name of a field is no text"),
    "an object": ("access: !!python/object/apply:os.getcwd []", "tags such as"),
    "an open bracket": ("group: {table: t.csv", "expected"),
    "an open quote": ("access: 'x", "found unexpected end of stream"),
    "a tabulator": ("group:\n\ttable: t.csv", "cannot start any token"),
    "a colon in a text": ("access: by form: there", "mapping values are not allowed here"),
    "an @": ("access: @home", "cannot start any token"),
    "a per cent": ("access: %x", "cannot start any token"),
    "depth": ("counts: " + "[" * 60 + "]" * 60, "deeper than 50 levels"),
    "a long text": ("access: " + "x" * 10_001, "longer than 10,000 letters"),
    "no day of the calendar": ("access: 2024-02-30", "day"),
    "two documents": ("---\ntitle: x", "another document"),
    "words": ("and the rest", "could not find expected ':'"),
}
# A wrong value of a field, and what is said of it.
FIELDS = {
    "a number as the folder": ({"folder": 3}, "folder: "),
    "a folder above": ({"folder": "../x"}, "folder: '../x' is no path below its folder"),
    "a folder from the root": ({"folder": "/x"}, "folder: '/x' is no path"),
    "a folder of Windows": ({"folder": "C:\\x"}, "folder: "),
    "a home as the folder": ({"folder": "~/x"}, "folder: '~/x' is no path"),
    "a hidden folder": ({"folder": ".x"}, "folder: '.x' is no path"),
    "no folder": ({"folder": ""}, "folder: '' is no path"),
    "null as the title": ({"title": None}, "title: "),
    "a list as the title": ({"title": ["a"]}, "title: "),
    "a number as the licence": ({"licence": 4.0}, "licence: "),
    "true as the citation": ({"citation": True}, "citation: "),
    "one text as the classes": ({"classes": "a, b"}, "classes: "),
    "words as the classes": ({"classes": ["a", "b"]}, "classes, 1: "),
    "one class": ({"classes": [A]}, "at least two classes are needed, it has 1"),
    "two classes of one name": ({"classes": [A, B | {"name": "a"}]}, "two classes have the name"),
    "two classes of one folder": (
        {"classes": [A, B | {"folder": "X"}]},
        "two classes have the name or folder 'x'",
    ),
    "one text as the prompts": (
        {"classes": [A, B | {"prompts": "fat tissue"}]},
        "classes, 2, prompts: ",
    ),
    "a number as a prompt": ({"classes": [A, B | {"prompts": [3]}]}, "classes, 2, prompts, 1: "),
    "an empty prompt": ({"classes": [A, B | {"prompts": [" "]}]}, "classes, 2, prompts, 1: "),
    "prompt for prompts": ({"classes": [A, B | {"prompt": ["x"]}]}, "classes, 2, prompt: unknown"),
    "a class without a folder": ({"classes": [A, {"name": "b"}]}, "classes, 2, folder: it is miss"),
    "a number as a class": ({"classes": [A, B | {"name": 1}]}, "classes, 2, name: "),
    "a slash in a class": ({"classes": [A, B | {"name": "a/b"}]}, "classes, 2, name: "),
    "an unknown field": ({"tile": "*.png"}, "unknown field 'tile'. Valid: "),
    "one text as the group": ({"group": "^(.)"}, "group: "),
    "a group of nothing": ({"group": {}}, "group needs either 'pattern'"),
    "a pattern without a group": ({"group": {"pattern": "^."}}, "group, pattern must be"),
    "a pattern of two groups": ({"group": {"pattern": "(.)(.)"}}, "group, pattern must be"),
    "a pattern that is none": ({"group": {"pattern": "(("}}, "group, pattern must be"),
    "a look-ahead": ({"group": {"pattern": "(?=x)(.)"}}, "group, pattern must be"),
    "a table and a pattern": (
        {"group": {"pattern": "(.)", "table": "t.csv", "column": "c"}},
        "group, pattern excludes 'table'",
    ),
    "a split alone": ({"splits": {"train": "x"}}, "splits, test: it is missing"),
    "a split more": ({"splits": {"train": "x", "test": "y", "val": "z"}}, "splits, val: unknown"),
    "counts of no class": ({"counts": {"c": 3}}, "counts has 'c': 3, no class and its number"),
    "a fraction as a count": ({"counts": {"a": 1.5}}, "counts has 'a': 1.5"),
    "fewer than none": ({"counts": {"a": -1}}, "counts has 'a': -1"),
    "a local address": (
        {"archives": [{"contains": "x", "url": "file:///x"}]},
        "archives, 1, url: ",
    ),
    "half a hash": ({"archives": [{"contains": "x", "hash": "md5:12"}]}, "archives, 1, hash: "),
    "an archive that is no list": ({"archives": {"contains": "x"}}, "archives: "),
    "a range that falls": ({"group_hash_range": [0.5, 0.2]}, "group_hash_range must be two"),
    "a range beyond one": ({"group_hash_range": [0, 2]}, "group_hash_range, 2: "),
    "a range of one": ({"group_hash_range": [0.5]}, "group_hash_range: "),
    "NaN": ({"restain": float("nan")}, "restain: "),
    "infinite": ({"restain": float("inf")}, "restain: "),
    "a number in quotes": ({"restain": "1"}, "restain: "),
    "one text as what is joined": ({"joined": "lc25k"}, "joined: "),
    "one text as other tissue": ({"other_tissue": "fat; muscle"}, "other_tissue: "),
    "a million slides": (
        {"synthetic": {"slides": 10**6, "tiles": 1, "size": 32, "shift": 0, "seed": 0}},
        "synthetic, slides: ",
    ),
    "half a recipe": ({"synthetic": {"slides": 1}}, "synthetic, tiles: it is missing"),
}
CARDS = [
    ("nothing in it", written(""), ["toy.yaml must hold named fields"]),
    ("words", written("a card"), ["toy.yaml must hold named fields"]),
    ("a list", written("- a\n- b\n"), ["toy.yaml must hold named fields"]),
    ("JSON of a list", written("[1, 2]"), ["toy.yaml must hold named fields"]),
    (
        "Latin-1",
        written("title: M\u00fcller\n".encode("latin-1")),
        ["toy.yaml, line 1: it is not UTF-8"],
    ),
    ("UTF-16", written(TEXT.encode("utf-16")), ["toy.yaml, line 1: it is not UTF-8"]),
    ("a picture", written(b"\x89PNG\r\n\x1a\n\0\xff"), ["toy.yaml, line 1"]),
    ("a control character", written(TEXT + "access: \x07\n"), ["toy.yaml, line", "special char"]),
    ("a megabyte", written("#" * (2**20 + 1)), ["toy.yaml is larger than 1,048,576 bytes"]),
    ("no card", nothing, ["there is no dataset 'toy'"]),
    ("extends itself", written("extends: toy"), ["toy.yaml extends 'toy', which extends it"]),
    (
        "extends in a circle",
        put({"toy.yaml": "extends: b", "b.yaml": "extends: toy"}),
        ["b.yaml extends 'toy', which extends it"],
    ),
    ("extends nothing", written("extends: gone"), ["toy.yaml extends 'gone', which has no card"]),
    ("extends a number", written("extends: 3"), ["toy.yaml extends 3, which has no card"]),
    ("extends a path", written("extends: ../../x"), ["'../../x' is no name of a dataset"]),
]


def own(**passed):
    """Parameters as `make own` passes them."""
    return lambda _: str(resolve_parameters(OWN, {"dataset": "own"} | passed))


def of_file(text):
    """A parameter file of the dataset "toy"."""
    return put({"params/toy.yaml": text})


def resolved(folder):
    file = folder / "params" / "toy.yaml"
    with mock.patch.object(paths, "params_file", lambda _: file):
        return str(resolve_parameters(OWN, {"dataset": "toy"}))


def command(*arguments):
    """`python -m lib.runner`, which ends before a notebook starts."""

    def run(_):
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            if runner.main(list(arguments)):
                raise ValueError("")
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return run


PARAMETERS = [
    ("n_steps 0", own(n_steps=0), "parameter 'n_steps' must be 1 \u2026 "),
    ("n_steps below zero", own(n_steps=-5), "parameter 'n_steps' must be 1"),
    ("a million million steps", own(n_steps=10**12), "parameter 'n_steps' must be 1"),
    ("n_views 0", own(n_views=0), "parameter 'n_views' must be 1"),
    ("n_views 100000", own(n_views=100_000), "parameter 'n_views' must be 1"),
    ("image_size 100000", own(image_size=100_000), "parameter 'image_size' must be 32"),
    ("image_size 0", own(image_size=0), "parameter 'image_size' must be 32"),
    ("a seed below zero", own(seed=-1), "parameter 'seed' must be 0"),
    ("a seed of 40 bits", own(seed=2**40), "parameter 'seed' must be 0"),
    ("keep_ratio 0", own(keep_ratio=0.0), "parameter 'keep_ratio' must be"),
    ("keep_ratio 30", own(keep_ratio=30), "parameter 'keep_ratio' must be"),
    ("keep_ratio NaN", own(keep_ratio=float("nan")), "parameter 'keep_ratio' must be"),
    ("keep_ratio infinite", own(keep_ratio=float("inf")), "parameter 'keep_ratio' must be"),
    ("a word as a number", own(n_steps="many"), "'n_steps' must be int like 1000, not 'many'"),
    ("a fraction as a whole", own(n_views=2.5), "'n_views' must be int like 10, not 2.5"),
    ("true as a number", own(n_views=True), "'n_views' must be int like 10, not True"),
    ("yes as true", own(by_folder="yes"), "'by_folder' must be bool like False, not 'yes'"),
    ("a list as classes", own(classes=["a", "b"]), "'classes' must be str"),
    ("an unknown one", own(nsteps=3), "unknown parameter 'nsteps': did you mean n_steps"),
    ("a dataset that climbs", own(dataset="../x"), "'../x' is no name of a dataset"),
    ("a VLM that is none", lambda _: check_vlm("plipp"), "no VLM 'plipp': did you mean plip?"),
    ("half a VLM", lambda _: check_vlm("plip+"), "there is no VLM ''"),
    ("a stand-in of no card", lambda _: check_vlm("stand-in-x"), "there is no dataset 'x'"),
]
FILES = [
    ("of no notebook", "99_x: {seed: 1}\n", ["toy.yaml: there is no notebook '99_x'"]),
    ("of no parameter", "sede: 1\n", ["toy.yaml: unknown parameter 'sede': did you mean seed"]),
    ("a list", "- vlm\n", ["toy.yaml must hold named fields"]),
    ("a word", "plip\n", ["toy.yaml must hold named fields"]),
    ("another type", "seed: one\n", ["toy.yaml", "'seed' must be int"]),
    ("out of range", "90_your_own_tiles: {n_views: 0}\n", ["toy.yaml", "'n_views' must be 1"]),
    ("an open bracket", "vlm: [plip\n", ["toy.yaml, line"]),
    ("Latin-1", "vlm: pl\u00efp\n".encode("latin-1"), ["toy.yaml, line 1: it is not UTF-8"]),
    ("twice", "seed: 1\nseed: 2\n", ["toy.yaml, line 2: 'seed' is there twice"]),
    ("a section of nothing", "90_your_own_tiles:\n", ["toy.yaml", "90_your_own_tiles"]),
]
COMMANDS = [
    (
        "no notebook",
        command("notebooks/14_comparisons.py"),
        ["14_comparisons.py: did you mean 14_comparison"],
    ),
    ("no value", command(str(OWN), "-p", "seed", "[1"), ["parameter 'seed', line 1"]),
    ("steps of 0", command(str(OWN), "-p", "n_steps", "0"), ["error: ", "'n_steps' must be 1"]),
    ("an alias", command(str(OWN), "-p", "seed", "&x 1"), ["anchors and aliases"]),
]
# Of data/vlms.yaml: a model's field, and what is said.
PLIP = {"title": "P", "weights": "x", "source": "https://x.org", "input_size": 224}
PLIP |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "prompt_style": "{class}"}
PLIP |= {"licence": "MIT", "citation": "C"}
MODELS = [
    ("no size", {"input_size": "large"}, "input_size: "),
    ("two colours", {"mean": [0.5, 0.5]}, "mean"),
    ("colours of 255", {"std": [128, 128, 128]}, "std"),
    ("no address", {"source": "hub"}, "source: 'hub' is no address of the web"),
    ("an unknown field", {"license": "MIT"}, "unknown field 'license'"),
    ("an empty licence", {"licence": ""}, "licence: '' is no text"),
]


def models(folder):
    with mock.patch.object(paths, "vlms_file", lambda: folder / "vlms.yaml"):
        return str(read_vlm_cards())


AREA = "cards and params"
FAULTS = [Fault(AREA, f"a card: {n}", given, read, says) for n, given, says in CARDS]
FAULTS += [
    Fault(AREA, f"a card's line: {n}", written(TEXT + more + "\n"), read, ["toy.yaml, line ", says])
    for n, (more, says) in LINES.items()
]
FAULTS += [
    Fault(AREA, f"a card's field: {n}", changed(**changes), read, ["toy.yaml: " + says])
    for n, (changes, says) in FIELDS.items()
]
FAULTS += [
    Fault(
        AREA,
        f"a card without {field}",
        written({n: v for n, v in CARD_FIELDS.items() if n != field}),
        read,
        [f"toy.yaml: {field}: it is missing"],
    )
    for field in CARD_FIELDS
]
FAULTS += [Fault(AREA, f"a parameter: {n}", nothing, does, [says]) for n, does, says in PARAMETERS]
FAULTS += [Fault(AREA, f"a parameter file: {n}", of_file(t), resolved, s) for n, t, s in FILES]
FAULTS += [Fault(AREA, f"a command: {n}", nothing, does, says) for n, does, says in COMMANDS]
FAULTS += [
    Fault(
        AREA,
        f"a model's card: {n}",
        put({"vlms.yaml": yaml.safe_dump({"plip": PLIP | changes})}),
        models,
        ["vlms.yaml, plip: " + says],
    )
    for n, changes, says in MODELS
]
