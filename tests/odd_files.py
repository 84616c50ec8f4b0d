"""Readable but odd files: valid ones with a few of their values or bytes exchanged."""

import copy
import csv
import io
import json

import yaml
from hypothesis import strategies as st


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


HUGE = [10**400, -(10**400), 2**63, 1e308, -0.0, 5e-324]
WORDS = ["", " ", "\0", "\ud800", "\u202eabc", "=1+1", "../x", "x" * 9999]
WORDS += "NaN null -1 1e999".split()
OBJECTS = [None, True, [], {}, [[]], [None], {"": None}, {"name": 1}, nested(200), [0] * 5000]
ODD = st.one_of(
    st.sampled_from([*HUGE, *WORDS, *OBJECTS, float("nan"), float("inf")]),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=6),
)


def places(value):
    """Each part of nested lists and dictionaries: what holds it, and its key there."""
    for key, part in [*value.items()] if isinstance(value, dict) else [*enumerate(value)]:
        yield value, key
        if isinstance(part, dict | list):
            yield from places(part)


@st.composite
def odd(draw, *skeletons):
    """One of some values with a few parts exchanged, left out, wrapped, doubled or renamed."""
    root = [copy.deepcopy(draw(st.sampled_from(skeletons)))]
    for _ in range(draw(st.integers(0, 3))):
        holder, key = draw(st.sampled_from([*places(root)]))
        how = draw(st.sampled_from(["put", "put", "put", "move", "wrap", "drop", "double", "name"]))
        if how == "put":
            holder[key] = copy.deepcopy(draw(ODD))
        elif how == "move":
            other, place = draw(st.sampled_from([*places(root)]))
            holder[key] = copy.deepcopy(other[place])
        elif how == "wrap":
            holder[key] = [holder[key]]
        elif holder is root:
            continue
        elif how == "drop":
            del holder[key]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            name = draw(st.sampled_from(WORDS)) if how == "name" else f"{key} "
            holder[name] = holder.pop(key) if how == "name" else holder[key]
    return root[0]


LARGE = b"\x7f\xff\xff\xff"
BYTES = [b"\0" * 4, b"\xff" * 4, LARGE, LARGE[::-1], b"\xef\xbb\xbf", b"\xff\xfe"]
SIGNS = [b'"', b",", b";", b"\t", b"\r", b"\n", b"'", b"[", b"{", b":", b"&a", b"*a", b"!!", b"- "]


@st.composite
def spoiled(draw, *contents):
    """One of some files with a few bytes overwritten, left out or put in."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        new = draw(st.one_of(st.sampled_from(BYTES + SIGNS), st.binary(max_size=6)))
        gone = draw(st.sampled_from([len(new), len(new), 0, 1, 50]))
        content[start : start + gone] = new
    return bytes(content)


def mostly(readable, damaged):
    return st.integers(0, 3).flatmap(lambda n: readable if n else damaged)


def in_json(*skeletons):
    valid = [json.dumps(skeleton).encode() for skeleton in skeletons]
    return mostly(odd(*skeletons).map(lambda value: json.dumps(value).encode()), spoiled(*valid))


def in_yaml(*skeletons):
    valid = [yaml.safe_dump(skeleton, sort_keys=False).encode() for skeleton in skeletons]
    return mostly(odd(*skeletons).map(lambda v: yaml.safe_dump(v).encode()), spoiled(*valid))


def in_csv(columns, *rows):
    """A table, with any delimiter and encoding."""

    def text(table, delimiter, encoding, end):
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end)
        writer.writerows(row if isinstance(row, list) else [row] for row in table)
        return buffer.getvalue().encode(encoding, "replace")

    odd_cells = ["", *rows[0], *WORDS, "1,5", "1e400", "9" * 400, "ä"]
    cells = st.sampled_from(odd_cells) | st.text(max_size=4)
    tables = st.lists(st.lists(cells, min_size=1, max_size=len(columns) + 1), max_size=4)
    encodings = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]
    how = (",;\t|", encodings, ["\n", "\r\n", "\r"])
    odd_tables = tables.map(lambda more: [columns, *rows, *more])
    readable = st.builds(text, odd_tables, *map(st.sampled_from, how))
    return mostly(readable, spoiled(text([columns, *rows], ",", "utf-8", "\n")))
