"""Labels of people: CSV, answers, Label Studio, QuPath."""

import json

import pandas as pd

from apps.labelling import exchange, label_studio

from .fault import Fault, put

TABLE = pd.DataFrame(
    {"path": ["a.png", "b.png"], "digest": ["da", "db"], "x": [0, 32], "y": [0, 0], "side": 32}
)
NAMES = ["fat", "muscle"]


def read(name):
    """What `make own LABELS=…` says of a file."""

    def labels(folder):
        said, problems = exchange.read_labels(folder / name, TABLE, NAMES)
        return [f"{len(said)} tiles have a label", *problems]

    return labels


def studio(folder):
    given, problems = label_studio.read_export(folder / "e.json", NAMES, list(TABLE.digest))
    return [f"{len(given)} answers", *problems]


def qupath(folder):
    given, problems = exchange.read_qupath(folder / "q.geojson", TABLE, NAMES, unchanged=True)
    return [f"{len(given)} answers", *problems]


HEAD, LINE = "path,label\n", "a.png,fat\n"
REFUSED = [
    ("no file", "gone.csv", "l.csv", LINE, ["there is no file of labels", "gone.csv"]),
    ("another suffix", "l.xlsx", "l.xlsx", "PK", ["l.xlsx: labels are read from .csv and .jsonl"]),
    ("no suffix", "l", "l", HEAD, ["labels are read from .csv and .jsonl"]),
    ("a workbook", "l.csv", "l.csv", b"PK\x03\x04\xff", ["l.csv is a workbook"]),
    ("cp1252", "l.csv", "l.csv", HEAD.encode() + b"a.png,f\xe4t\n", ["l.csv, line 2", "cp1252"]),
    ("no column", "l.csv", "l.csv", "path,class\na.png,fat\n", ["has no column 'label'"]),
    ("nothing", "l.csv", "l.csv", HEAD, ["l.csv holds no answer for these tiles and classes"]),
    ("nothing in answers", "l.jsonl", "l.jsonl", "", ["l.jsonl holds no answer"]),
    ("answers in UTF-16", "l.jsonl", "l.jsonl", "{}".encode("utf-16"), ["is UTF-16: save it as"]),
    ("other classes", "l.csv", "l.csv", HEAD + "a.png,bone\n", ["no answer", "'bone' is none of"]),
    (
        "other tiles",
        "l.csv",
        "l.csv",
        HEAD + "z.png,fat\n",
        ["no answer", "no tile called 'z.png'"],
    ),
]
# One bad line beside a good one.
CSV = [
    ("an unknown class", "b.png,bone", "line 3: the class 'bone' is none of fat, muscle"),
    ("a class in capitals", "b.png,Fat", "line 3: the class 'Fat' is none of fat, muscle"),
    ("an unknown tile", "z.png,fat", "line 3: there is no tile called 'z.png'"),
    ("a tile above", "../b.png,fat", "line 3: there is no tile called '../b.png'"),
    ("no path", ",fat", "line 3: there is no tile called ''"),
    ("two labels", "b.png,fat\nb.png,muscle", "line 4: csv gives this tile two classes"),
    ("too few cells", "b.png", "line 3: 1 cells, where the header has 2"),
    ("too many cells", "b.png,fat,x,y", "line 3: 4 cells, where the header has 2"),
]
TIMED = [
    ("seconds that are a word", "b.png,fat,soon,", "line 3: seconds: 'soon' is no number"),
    ("seconds below zero", "b.png,fat,-3,", "line 3: seconds"),
    ("seconds of ages", "b.png,fat,1e300,", "line 3: seconds"),
    ("a time that is none", "b.png,fat,,yesterday", "line 3: when"),
]
TAKEN = [
    ("semicolons", "path;label;seconds\na.png;fat;2,5\nb.png;fat;1\n", "l.csv"),
    ("tabs", "path\tlabel\na.png\tfat\nb.png\tfat\n", "l.csv"),
    ("UTF-16", (HEAD + LINE + "b.png,fat\n").encode("utf-16"), "l.csv"),
    ("the suffix in capitals", HEAD + LINE + "b.png,fat\n", "l.CSV"),
    ("backslashes", HEAD + ".\\a.png,fat\n./b.png,fat\n", "l.csv"),
    ("a label twice", HEAD + LINE + LINE + "b.png,muscle\n", "l.csv"),
    (
        "answers with a mark",
        '\ufeff{"tile":"da","label":"fat","who":"a"}\n{"tile":"db","label":"fat","who":"a"}',
        "l.jsonl",
    ),
]


def answer(**changes):
    return json.dumps({"tile": "db", "label": "fat", "who": "anna"} | changes)


GOOD = json.dumps({"tile": "da", "label": "fat", "who": "anna"})
JSONL = [
    ("words", "hello", "line 2: no whole line of JSON"),
    ("cut off", answer()[:-9], "line 2: cut off while it was written"),
    ("a list", "[1]", "line 2: "),
    ("a number", "3", "line 2: "),
    ("deep", "[" * 10**5, "line 2: "),
    ("a number of many digits", answer(seconds=1)[:-2] + "9" * 5000 + "}", "line 2: "),
    ("NaN", answer(seconds=float("nan")), "line 2: seconds"),
    ("no tile", '{"label": "fat", "who": "a"}', "line 2: tile"),
    ("no person", '{"tile": "db", "label": "fat"}', "line 2: who"),
    ("an empty person", answer(who=" "), "line 2: who"),
    ("an unknown tile", answer(tile="dz"), "line 2: no tile here has the digest 'dz'"),
    ("an unknown class", answer(label="bone"), "line 2: the class 'bone' is none of"),
    ("a number as a class", answer(label=3), "line 2: label"),
    ("an unknown field", answer(colour="x"), "line 2: colour"),
    ("an unknown action", answer(action="jump"), "line 2: action"),
    ("a time that is none", answer(when="soon"), "line 2: when"),
    ("another encoding", answer().encode()[:-1] + b', "x": "\xff"}', "line 2: no whole line"),
]


def task(**changes):
    annotation = {"result": [{"from_name": "choice", "value": {"choices": ["fat"]}}]}
    return {"id": 2, "data": {"tile": "db"}, "annotations": [annotation]} | changes


def chosen(*choices, **more):
    result = [{"from_name": "choice", "value": {"choices": list(choices)}}]
    return task(annotations=[{"result": result} | more])


EXPORT = "e.json is no export of Label Studio"
FILES = [
    ("no file", None, ["e.json"]),
    ("empty", "", [EXPORT]),
    ("words", "hello", [EXPORT]),
    ("CSV", "id,image\n1,x\n", [EXPORT]),
    ("fields", '{"id": 1}', [EXPORT]),
    ("numbers", "[1, 2]", [EXPORT]),
    ("deep", "[" * 10**5, [EXPORT]),
    ("another encoding", b'[{"id": "\xff"}]', [EXPORT]),
]
TASKS = [
    ("of another tile", task(data={"tile": "dz"}), "task 2: no tile here has the digest 'dz'"),
    ("without data", {"id": 2}, "task 2: no tile here has the digest None"),
    ("with a list as data", task(data=[1]), "task 2: it is no task"),
    ("with a list as tile", task(data={"tile": ["db"]}), "task 2: it is no task"),
    ("with a word as annotations", task(annotations="x"), "task 2: it is no task"),
    ("without a result", task(annotations=[{}]), "task 2: it is no task"),
    ("without a choice", task(annotations=[{"result": []}]), "task 2: 0 choices, not one"),
    ("with two choices", chosen("fat", "muscle"), "task 2: 2 choices, not one"),
    ("of another class", chosen("bone"), "task 2: the class 'bone' is none of"),
    ("with a number as a class", chosen(3), "task 2: "),
    ("cancelled", chosen("fat", was_cancelled=True), "task 2: its annotation was cancelled"),
    ("with a time that is none", chosen("fat", updated_at="soon"), "task 2: when"),
    ("with a number as its time", chosen("fat", updated_at=3), "task 2: when"),
    ("with a word as its seconds", chosen("fat", lead_time="long"), "task 2: seconds"),
    ("with seconds of ages", chosen("fat", lead_time=1e300), "task 2: seconds"),
]


def feature(x=32, name="fat", kind="tile", **more):
    ring = [[[x, 0], [x + 32, 0], [x + 32, 32], [x, 32], [x, 0]]]
    geometry = {"type": "Polygon", "coordinates": ring}
    properties = {"objectType": kind, "classification": {"name": name}} | more
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def moved(place):
    changed = feature()
    changed["geometry"]["coordinates"][0][0] = place
    return changed


def collection(*features):
    return json.dumps({"type": "FeatureCollection", "features": features})


POINT = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}
RULER = feature(kind="annotation") | {
    "geometry": {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}
}
ONE = feature(0)
OBJECTS = [
    ("NaN", moved([float("nan"), 0]), "are left out: features 1"),
    ("infinite", moved([float("inf"), 0]), "are left out: features 1"),
    ("a point", POINT, "are left out: features 1"),
    ("a ruler", RULER, "are left out: features 1"),
    ("an annotation", feature(kind="annotation"), "are left out: features 1"),
    ("a word", "tile", "are left out: features 1"),
    ("null", None, "are left out: features 1"),
    ("no properties", {"type": "Feature", "geometry": ONE["geometry"]}, "are left out: features 1"),
    (
        "no geometry",
        {"type": "Feature", "geometry": None, "properties": {}},
        "are left out: features 1",
    ),
    ("no class", feature(name=None), "1 answers"),
    ("an unknown class", feature(name="bone"), "tile at (32, 0): the class 'bone' is none of"),
    ("a class of steps", feature(name="fat: old"), "tile at (32, 0): the class 'fat: old' is none"),
    ("a tile elsewhere", feature(999), "tile at (999, 0): there is no such tile"),
    ("two classes of a tile", feature(0, "muscle"), "tile at (0, 0): qupath gives this tile two"),
    ("a measurement that is a word", feature(measurements={"area": "big"}), "2 answers"),
]
GEOJSON = [
    ("no file", None, ["q.geojson"]),
    ("empty", "", ["q.geojson is no GeoJSON"]),
    ("words", "hello", ["q.geojson is no GeoJSON"]),
    ("cut", collection(ONE)[:-9], ["q.geojson is no GeoJSON"]),
    ("a number", "3", ["q.geojson is no GeoJSON: it holds no features"]),
    ("deep", "[" * 10**5, ["q.geojson is no GeoJSON"]),
    (
        "a project of QuPath",
        '{"version": "0.5", "images": []}',
        ["q.geojson is no GeoJSON: it holds no features"],
    ),
]
QUPATH_TAKEN = [
    ("a list", json.dumps([ONE, feature()])),
    ("the class as text", collection(ONE, feature(classification="fat"))),
    ("an old QuPath's names", collection(ONE, feature(classification={"names": ["fat"]}))),
    ("a byte-order mark", "\ufeff" + collection(ONE, feature())),
    ("a spaced class", collection(ONE, feature(name="fat "))),
]


def beside(name, content):
    return put({name: content} if content is not None else {"other": ""})


AREA, KEPT = "label files", "1 tiles have a label"
FAULTS = [Fault(AREA, f"labels: {n}", put({f: c}), read(name), s) for n, name, f, c, s in REFUSED]
FAULTS += [
    Fault(
        AREA,
        f"a CSV's line: {n}",
        put({"l.csv": HEAD + LINE + c + "\n"}),
        read("l.csv"),
        [KEPT, "l.csv, " + s],
        False,
    )
    for n, c, s in CSV
]
FAULTS += [
    Fault(
        AREA,
        f"a CSV's line: {n}",
        put({"l.csv": "path,label,seconds,when\na.png,fat,1,\n" + c}),
        read("l.csv"),
        [KEPT, "l.csv, " + s],
        False,
    )
    for n, c, s in TIMED
]
FAULTS += [
    Fault(AREA, f"labels: {n}", put({name: c}), read(name), ["2 tiles have a label"], False)
    for n, c, name in TAKEN
]
FAULTS += [
    Fault(
        AREA,
        f"an answer: {n}",
        put(
            {
                "l.jsonl": GOOD.encode()
                + b"\n"
                + (c if isinstance(c, bytes) else c.encode())
                + b"\n" * (n != "cut off")
            }
        ),
        read("l.jsonl"),
        [KEPT, "l.jsonl, " + s],
        False,
    )
    for n, c, s in JSONL
]
FAULTS += [Fault(AREA, f"Label Studio: {n}", beside("e.json", c), studio, s) for n, c, s in FILES]
FAULTS += [
    Fault(
        AREA,
        f"Label Studio: a task {n}",
        put({"e.json": json.dumps([task(data={"tile": "da"}), t])}),
        studio,
        ["1 answers", s],
        False,
    )
    for n, t, s in TASKS
]
FAULTS += [Fault(AREA, f"QuPath: {n}", beside("q.geojson", c), qupath, s) for n, c, s in GEOJSON]
FAULTS += [
    Fault(
        AREA, f"QuPath: {n}", put({"q.geojson": collection(ONE, o)}), qupath, ["answers", s], False
    )
    for n, o, s in OBJECTS
]
FAULTS += [
    Fault(AREA, f"QuPath: {n}", put({"q.geojson": c}), qupath, ["2 answers"], False)
    for n, c in QUPATH_TAKEN
]
