"""Readable but odd files: each parser reads them, or refuses them with its documented errors.

`FUZZ=300` gives each parser so many seconds in place of a few inputs; what it tried is printed.
"""

import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import tarfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from made_up_results import made, scored
from odd_files import in_csv, in_json, in_yaml, spoiled
from PIL import Image
from small_models import SMALL, write_model

from apps.labelling import answers, exchange, label_studio
from apps.own_tiles import classifier, words
from apps.slide_viewer.annotations import read_tiles_geojson
from data.prepare import archives
from lib import csv_tables, parameters, paths, record
from lib.data import cards, images, tiles
from lib.labels import NONE_OF_THESE
from lib.slides import features_file, slide_table, tissue
from lib.vlm import prompts
from lib.vlm.cards import read_vlm_cards

SECONDS = float(os.environ.get("FUZZ", 0))
INPUTS = 100 if SECONDS else 30
LONGEST, MOST_BYTES = 10, 2 * 2**30
ROOT = paths.ROOT
CLASSES = ["gland", "stroma: dense", "ü"]
DIGESTS = ["da", "db"]
TABLE = pd.DataFrame({"path": ["a.png", "b/c.png"], "digest": DIGESTS, "x": [0, 64], "y": [0, 0]})


SESSION = []  # an open slide, and a folder


class Unbounded(BaseException):
    """Nothing that a parser catches."""


class TooLarge(Unbounded):
    pass


# --- what each parser is given, and how it is called ---------------------------------------------

PARSERS = {}


def beside(folder, **valid):
    """Write the files that are not odd this time."""
    for name, content in valid.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)


def parser(name, *errors, **files):
    """Register a function of a folder with one of these files; errors: those it documents."""

    def register(function):
        each = [st.fixed_dictionaries({file: odd_file}) for file, odd_file in files.items()]
        PARSERS[name] = function, errors or (ValueError,), st.one_of(each)
        return function

    return register


def card(name):
    return yaml.safe_load((paths.ROOT / "data" / "cards" / f"{name}.yaml").read_text())


CARDS = [card(name) for name in ("lc25000", "lc25k", "crc5000", "digestpath", "chaoyang", "smoke")]
CARDS += [card(name) for name in ("demo_slides", "composed_slides", "tcga_rcc", "ebhi_binary")]
BASES = {name: card(name) for name in ("lc25000", "ebhi", "lc25k", "crc5000", "composed_slides")}


@parser("cards", ValueError, FileNotFoundError, toy=in_yaml(*CARDS))
def read_card(folder):
    (folder / "data" / "cards").mkdir(parents=True)
    for name, values in BASES.items():
        (folder / "data" / "cards" / f"{name}.yaml").write_text(yaml.safe_dump(values))
    (folder / "toy").rename(folder / "data" / "cards" / "toy.yaml")
    read = cards.read_card("toy")
    cards.citation_lines(read).encode()
    " ".join([*read.class_names, *map(str, read.needs), *map(str, read.published)]).encode()
    cards.card_files("toy")


PARAMETERS = {"n_views": 30, "13_high_confidence_cross_supervision": {"n_steps": 5}, "vlm": "plip"}
NOTEBOOK = paths.notebook_file("13_high_confidence_cross_supervision")


@parser("parameter files", toy=in_yaml(PARAMETERS))
def read_parameters(folder):
    (folder / "notebooks" / "params").mkdir(parents=True)
    (folder / "toy").rename(folder / "notebooks" / "params" / "toy.yaml")
    parameters.resolve_parameters(NOTEBOOK, {"dataset": "toy"})


@parser("cards of models", vlms=in_yaml(yaml.safe_load(paths.vlms_file().read_text())))
def read_models(folder):
    (folder / "data").mkdir()
    (folder / "vlms").rename(folder / "data" / "vlms.yaml")
    for read in read_vlm_cards().values():
        read.citation_line.encode()


@cache
def tokenizer():
    from open_clip import SimpleTokenizer

    return SimpleTokenizer()


PIECES = [
    "a",
    "fat",
    "=",
    "|",
    ";",
    "{}",
    "{",
    " ",
    "HER2 score >= 2",
    "ü",
    "\ud800",
    "\n",
    NONE_OF_THESE,
]
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12).map("".join)
LONG = st.integers(1, 3000).map(lambda n: "fat; " + "cell " * n)
MANY = st.integers(2, 3000).map(lambda n: ";".join(map(str, range(n))))


def encoded(texts):
    return texts.map(lambda text: text.encode(errors="surrogatepass"))


@parser("prompts", text=encoded(TEXT | LONG | MANY), templates=encoded(TEXT))
def read_prompts(folder):
    beside(folder, text=b"a; b", templates=b"")
    files = (folder / "text", folder / "templates")
    text, templates = (file.read_bytes().decode(errors="surrogatepass") for file in files)
    read = words.parse_classes(text, prompts.parse_templates(templates) or (prompts.PAPERS,))
    json.dumps(read, ensure_ascii=False).encode()
    for texts in list(read.values())[:3]:
        prompts.tokens_of(tokenizer(), texts, "x")
    prompts.refuse_alike(tokenizer(), list(read.values())[:3], "x")


SLIDES = ["path", "label", "case", "mpp", "fold"]


@parser("tables", table=in_csv(SLIDES, ["a.tif", "adenocarcinoma", "1", "0,5", "0"]))
def read_tables(folder):
    csv_tables.read_table(folder / "table", ("path", "label"), ("mpp", "who"))
    shutil.copy(folder / "table", folder / "slides.csv")
    (folder / "a.tif").touch()
    slide_table.read_slide_table(demo_slides(), folder)


@cache
def demo_slides():
    return cards.read_card("demo_slides")


TILE_CARD = {
    "title": "t",
    "folder": "f",
    "tiles": "*.png",
    "licence": "l",
    "citation": "c",
    "source": "s",
}
TILE_CARD |= {"classes": [{"name": "a", "folder": "a"}, {"name": "b", "folder": "b"}]}
GROUPS = {"group": {"table": "groups", "column": "case"}}
SPLITS = {"train": "train.json", "test": "test.json"}
TILES = [{"name": f"{label}/{n}.png", "label": label} for n in (1, 2) for label in "ab"]
ENTRIES = TILES[:2]


CASES = in_csv(["path", "case"], *([tile["name"], "x"] for tile in TILES))


@parser("tables of tiles", groups=CASES, **{"train.json": in_json(ENTRIES)})
def read_tile_tables(folder):
    for entry in TILES:
        file = folder / entry["name"]
        file.parent.mkdir(exist_ok=True)
        file.write_text(entry["name"])
    beside(folder, **{"test.json": json.dumps(TILES[2:]).encode()})
    more = GROUPS if (folder / "groups").exists() else {"splits": SPLITS}
    read = cards.checked(cards.Card, TILE_CARD | more, "card", name="toy")
    tiles.read_tile_table(read, folder).to_csv(io.BytesIO())


ANSWER = {"tile": "da", "label": "gland", "who": "anna", "when": "2026-01-31T09:15:00.000+00:00"}
ANSWER |= {"seconds": 2.1, "suggestion": False, "action": "label"}
LINES = st.lists(in_json(ANSWER, ANSWER | {"tile": "db", "label": None}), max_size=4).map(
    b"\n".join
)
COLUMNS = ["path", "label", "who", "when", "seconds"]
LABELS = in_csv(COLUMNS, ["a.png", "gland", "anna", "2026-01-31", "2,5"])


@parser("answers", **{"answers.jsonl": LINES, "labels.csv": LABELS})
def read_answers(folder):
    (file,) = folder.iterdir()
    if file.suffix == ".jsonl":
        read = answers.read(file)
        read.lines.to_csv(io.BytesIO())
        " ".join(read.problems).encode()
        answers.resolve(read.lines, [*CLASSES, *read.lines.label.dropna()])
    exchange.read_labels(file, TABLE, CLASSES)


RESULT = {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": ["ü"]}}
ANNOTATION = {"id": 1, "completed_by": {"email": "a@b", "id": 1}, "was_cancelled": False}
ANNOTATION |= {"lead_time": 2.5, "created_at": "2026-11-26T11:20:31.904712Z", "result": [RESULT]}
FULL = [{"id": 1, "data": {"tile": "da", "path": "a.png"}, "annotations": [ANNOTATION, ANNOTATION]}]
MIN = [{"id": 1, "tile": "da", "choice": "ü", "annotator": 1, "lead_time": 1.5, "updated_at": ""}]


@parser("Label Studio", export=in_json(FULL, MIN))
def read_export(folder):
    read, problems = label_studio.read_export(folder / "export", CLASSES, DIGESTS)
    " ".join(problems).encode()
    answers.append(folder / "answers", read)


SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [64, 0], [64, 64], [0, 64], [0, 0]]]}
TILE = {"objectType": "tile", "classification": {"name": "gland", "color": [1, 2, 3]}}
TILE |= {"name": "ü (0, 0)", "measurements": {"p(gland)": 0.5}}
ITEM = {"type": "Feature", "id": "x", "geometry": SQUARE, "properties": TILE}
COLLECTION = {"type": "FeatureCollection", "features": [ITEM, ITEM]}


@parser("QuPath", tiles=in_json(COLLECTION, [ITEM], ITEM))
def read_qupath(folder):
    read_tiles_geojson(folder / "tiles").to_csv(io.BytesIO())
    for unchanged in (True, False):
        exchange.read_qupath(folder / "tiles", TABLE, CLASSES, unchanged=unchanged)


OUTLINE = {"objectType": "annotation", "classification": {"names": ["Tissue"]}}
MANY_AREAS = {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"]] * 2}
OUTLINES = [ITEM | {"properties": OUTLINE}, ITEM | {"properties": {}, "geometry": MANY_AREAS}]


@parser("tissue outlines", tissue=in_json({"features": OUTLINES}, OUTLINES[0], OUTLINES))
def read_tissue(folder):
    tissue.tissue_of(SESSION[0], folder / "tissue")


def features_of(arrays, made_from, **filters):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as opened:
        for name, value in arrays.items():
            if isinstance(value, dict):
                opened.create_group(name)
            elif isinstance(value, str):
                opened[name] = h5py.SoftLink(value)
            else:
                plain = np.ndim(value) and value.dtype.kind in "iuf"
                opened.create_dataset(name, data=value, **(filters if plain else {}))
        if opened.get("coords", getclass=True, getlink=True) is h5py.HardLink:
            opened["coords"].attrs[features_file.MADE_FROM] = made_from
    return buffer.getvalue()


COORDS, FEATURES = np.zeros((3, 2), np.int64), np.ones((3, 5), np.float16)
DATA = [COORDS, FEATURES, FEATURES[:2], FEATURES[0], np.float32(1), np.zeros((0, 5))]
DATA += [h5py.Empty("f"), np.array([b"a", b"b"]), np.array([True]), FEATURES.astype(complex)]
DATA += [np.zeros(3, "i4,f8"), np.array(["a", "ü"], h5py.string_dtype()), {}, "coords", "/nowhere"]
VALID = {"coords": COORDS, "features": FEATURES}
NAMES = ["coords", "features", "a/b", "ü"]
ARRAYS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(DATA), max_size=2)
VALUES = [b"\xff", "{}", "[]", "[1]", "[[1, 2]]", '{"a": {}}', 1, np.nan, h5py.Empty("f")]
FILTERS = [{}, {"compression": "gzip"}, {"fletcher32": True}, {"maxshape": None}]
ODD_H5 = st.builds(
    lambda arrays, value, filters: features_of(VALID | arrays, value, **filters),
    ARRAYS,
    st.sampled_from(VALUES),
    st.sampled_from(FILTERS),
)
VALID_H5 = [features_of(VALID, '{"slide": "x"}', **filters) for filters in FILTERS[:2]]


# The HDF5 library takes the memory that a damaged file claims, see SECURITY.md.
@parser("h5 features", ValueError, TooLarge, features=ODD_H5 | spoiled(*VALID_H5))
def read_features(folder):
    features_file.read_made_from(folder / "features")
    features_file.read_features(folder / "features")


def archive_of(kind, names, size, mode):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
            for name in names:
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                opened.writestr(info, b"x" * size)
    else:
        with tarfile.open(fileobj=buffer, mode=f"w:{kind}", format=tarfile.PAX_FORMAT) as opened:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size, info.type = size, tarfile.AREGTYPE if mode < 2**15 else tarfile.SYMTYPE
                opened.addfile(info, io.BytesIO(b"x" * size))
    return buffer.getvalue()


KINDS = ["zip", "", "gz", "bz2", "xz"]
MEMBERS = "set/a/1.png set/b/2.png set/A/1.png set set/ /etc/x .. set/../y a//b . C:x".split()
MEMBERS += ["", "set/\0", "ü/é", "x" * 300, "d/" * 60 + "x", "__MACOSX/x", "set/.hidden", "set\\x"]
MEMBER_NAMES = st.lists(st.sampled_from(MEMBERS), max_size=5)
MODES = st.sampled_from([0, 0o100644, 0o120777, 0o40755])
GOOD = [archive_of(kind, MEMBERS[:2], 500, 0) for kind in KINDS]


@parser(
    "archives",
    archive=spoiled(*GOOD)
    | st.builds(
        archive_of, st.sampled_from(KINDS), MEMBER_NAMES, st.sampled_from([0, 10, 20000]), MODES
    ),
)
def unpack(folder):
    archives.is_archive(folder / "archive")
    try:
        archives.unpack(folder / "archive", folder / "out", "set")
    except RuntimeError as error:
        assert "by hand" in str(error)
    finally:
        assert {p.name for p in folder.iterdir()} <= {"archive", "out"}
        shutil.rmtree(folder / "out", ignore_errors=True)


TABLES, SETTINGS = ("facts.parquet", "parquet"), "settings.json"
CELLS = ["", "{", "[1]", "{}", "null", 1, -1, 0.5, None, True, b"x", "=x", {"a": 1}, [1]]


@cache
def record_files():
    """The bytes of the files of a record of two evaluations."""
    folder = SESSION[1]
    labels = {"kept": 3, "precision": 0.5, "alarms": ["flat"], "per_class": {"a": {"kept": 3}}}
    made([scored("mvc", 0.5, labels=labels), scored("vlm-cpl", 0.75)]).write(folder / "r")
    return {name: (folder / f"r.{name}").read_bytes() for name in (*TABLES, SETTINGS)}


@st.composite
def parquet(draw, name):
    """A table of a record in which columns are gone or of another type."""
    if draw(st.booleans()):
        return draw(spoiled(record_files()[name]))
    table = pd.read_parquet(io.BytesIO(record_files()[name]))
    for column in draw(st.lists(st.sampled_from(list(table)), min_size=1, max_size=2, unique=True)):
        value = draw(st.sampled_from(CELLS))
        if draw(st.booleans()):
            table = table.drop(columns=column)
        else:
            table[column] = pd.Series([value] * len(table), index=table.index)
    if draw(st.booleans()):
        table = table.iloc[: draw(st.integers(0, 2))]
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


@parser(
    "record",
    **{"r.facts.parquet": st.deferred(lambda: parquet("facts.parquet"))},
    **{"r.parquet": st.deferred(lambda: parquet("parquet"))},
    **{"r.settings.json": st.deferred(lambda: in_json(json.loads(record_files()[SETTINGS])))},
)
def read_record(folder):
    beside(folder, **{f"r.{name}": content for name, content in record_files().items()})
    record.headline(record.read(folder / "r"))


DESCRIPTION = {"vlm": "", "vlm_seed": 0, "n_views": 2, "image_size": 32, "networks": 1}
DESCRIPTION |= {"classes": {"a": ["x", "y"], "b": ["z"]}, "made_from": {"tiles": "d"}}


@cache
def valid_classifier():
    """Description and weights of a classifier of a small model; and a folder of two tiles."""
    import torch
    from safetensors.torch import save

    from lib.learning.networks import frozen_head
    from lib.vlm.inference import weights_digest
    from lib.vlm.loading import load_vlm

    name = write_model(SESSION[1] / "small", SMALL)
    head = frozen_head(torch.randn(48), torch.rand(48) + 0.5, torch.eye(48), 2)
    (SESSION[1] / "tiles").mkdir()
    for number in range(2):
        Image.new("RGB", (40, 40), (number * 90, 9, 9)).save(SESSION[1] / "tiles" / f"{number}.png")
    digest = weights_digest(load_vlm(name, device="cpu"))
    return DESCRIPTION | {"vlm": name, "vlm_digest": digest}, save(head.state_dict())


@st.composite
def weights(draw):
    """Safetensors, of which a tensor is gone or has another shape or type."""
    import torch
    from safetensors.torch import load, save

    whole = valid_classifier()[1]
    if draw(st.booleans()):
        return draw(spoiled(whole))
    state = load(whole)
    name = draw(st.sampled_from([*state]))
    if draw(st.booleans()):
        state[name] = torch.zeros(draw(st.sampled_from([(), (0,), (48,), (48, 48), (1, 2, 3)])))
    else:
        del state[name]
    return save(state)


@parser(
    "classifier.json",
    ValueError, FileNotFoundError, RuntimeError,
    **{"classifier.json": st.deferred(lambda: in_json(valid_classifier()[0]))},
    **{"network_a.safetensors": st.deferred(weights)},
)  # fmt: skip
def predict(folder):
    description, networks = valid_classifier()
    named = {"classifier.json": json.dumps(description).encode()}
    beside(folder, **named, **{"network_a.safetensors": networks})
    classifier.predict(folder, SESSION[1] / "tiles")


def image_of(mode, kind, **options):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 4), dtype=np.uint8).tobytes()
    pixels = noise[: 300 * len(mode) * (1 + ("16" in mode))]
    Image.frombytes(mode, (20, 15), pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def with_sums(content):
    """A PNG whose chunks have the right checksums again."""
    made, at = bytearray(content), 8
    while at + 12 <= len(made):
        (length,) = struct.unpack_from(">I", made, at)
        if at + 12 + length > len(made):
            break
        struct.pack_into(">I", made, at + 8 + length, zlib.crc32(made[at + 4 : at + 8 + length]))
        at += 12 + length
    return bytes(made)


PNGS = [image_of(mode, "PNG") for mode in ("RGB", "RGBA", "L", "1")]
IMAGES = [image_of(mode, "TIFF") for mode in ("RGB", "I;16", "CMYK")]
IMAGES += [image_of("RGB", "JPEG"), image_of("CMYK", "JPEG"), image_of("RGB", "WEBP")]
IMAGES += [image_of("RGB", "TIFF", compression="tiff_lzw")]


@parser("images", ValueError, OSError, image=spoiled(*IMAGES) | spoiled(*PNGS).map(with_sums))
def read_image(folder):
    pixels, _ = images.read_square(folder / "image", 16)
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8


# --- the test ------------------------------------------------------------------------------------


@contextmanager
def bounded():
    """At most `LONGEST` seconds and `MOST_BYTES` more in memory; three times that may be asked."""

    def stop(*_):
        raise Unbounded

    status = Path("/proc/self/status").read_text()
    now = {name: int(kb) * 1024 for name, kb in re.findall(r"(Vm\w+):\s+(\d+) kB", status)}
    before, handler = resource.getrlimit(resource.RLIMIT_DATA), signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_DATA, (now["VmData"] + 3 * MOST_BYTES, before[1]))
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_DATA, before)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if peak > max(now["VmHWM"], now["VmRSS"] + MOST_BYTES):
            raise TooLarge


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    from slides.made_up_slides import textured_slide

    folder = tmp_path_factory.mktemp("session")
    SESSION[:] = textured_slide(folder, width=400, height=300)[0], folder
    yield
    SESSION.clear()
    for cached in (record_files, valid_classifier):
        cached.cache_clear()


def place_of(error):
    """The line of this repository that an error came from."""
    lines = traceback.extract_tb(error.__traceback__)
    own = [x for x in lines if x.filename.startswith(str(ROOT)) and x.filename != __file__]
    last = (own or lines)[-1]
    return f"{type(error).__name__} in {last.filename.rpartition('/')[2]}, {last.name}: {last.line}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::hypothesis.errors.HypothesisWarning")
@pytest.mark.parametrize("name", PARSERS)
def test_an_odd_file_is_read_or_refused_with_a_documented_error(
    name, session, tmp_path, monkeypatch, capsys
):
    parse, documented, files = PARSERS[name]
    if name in ("cards", "parameter files", "cards of models"):
        monkeypatch.setattr(paths, "ROOT", tmp_path)
    seen, found, example = Counter(), Counter(), {}

    def once(odd_files):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        for file, content in odd_files.items():
            (tmp_path / file).write_bytes(content)
        seen["inputs"] += 1
        try:
            with bounded():
                parse(tmp_path)
            seen["read"] += 1
        except (Exception, Unbounded) as error:
            if type(error) in documented:  # the text of a subclass is not ours and names no file
                return
            place, text = place_of(error), f"{error!r:.300} of {odd_files!r:.1000}"
            found[place] += 1
            example[place] = min(example.get(place, text), text, key=len)

    started = time.monotonic()
    for number in count():
        options = {"phases": [Phase.generate], "suppress_health_check": [*HealthCheck]}
        run = settings(max_examples=INPUTS, deadline=None, database=None, **options)
        seed(number)(run(given(files)(once)))()
        if time.monotonic() - started >= SECONDS:
            break
    if SECONDS:
        with capsys.disabled():
            passed = f"{(time.monotonic() - started) / 60:.1f} minutes, {seen['inputs']} inputs"
            print(f"\n{name}: {passed}, {seen['read']} read, {len(found)} findings")
    assert not found, "".join(f"\n{n} {place}\n  {example[place]}" for place, n in found.items())
    assert seen["read"] > 0
