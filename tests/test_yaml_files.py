"""YAML is read as plain values; what is hostile, wrong or too large is refused by file and line."""

import re

import pytest
import yaml
from cases import case

from lib import paths
from lib.yaml_files import parse_yaml, read_yaml

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
    for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
REFUSED = {
    "an alias": ("a: &x 1\nb: *x\n", 1, "anchors and aliases"),
    "an alias of nothing": ("b: 1\na: *x\n", 2, "anchors and aliases"),
    "a billion laughs": (LAUGHS, 1, "anchors and aliases"),
    "a list in itself": ("&x [*x]", 1, "anchors and aliases"),
    "a merge key": ("a: 1\n<<: {b: 2}\n", 2, "name of a field is no text"),
    "an object": ("a: !!python/object/apply:os.getcwd []\n", 1, "tags such as"),
    "bytes": ("a: !!binary aGk=\n", 1, "tags such as"),
    "a field twice": ("a: 1\nb: 2\na: 3\n", 3, "'a' is there twice"),
    "a field twice, further down": ("a:\n  - {b: 1, 'b': 2}\n", 2, "'b' is there twice"),
    "no as a field": ("counts:\n  no: 3\n", 2, "name of a field is no text"),
    "a number as a field": ("1: 3\n", 1, "name of a field is no text"),
    "a list as a field": ("? [a]\n: 3\n", 1, "name of a field is no text"),
    "depth": ("a: 1\nb: " + "[" * 51 + "]" * 51, 2, "deeper than 50 levels"),
    "great depth": ("[" * 2**19, 1, "deeper than 50 levels"),
    "a long text": ("a: " + "x" * 10_001, 1, "longer than 10,000 letters"),
    "a number of many digits": ("a: " + "9" * 5000, 1, "integer string conversion"),
    "a number that takes minutes": ("a: 1" + ":0" * 2**18, 1, "longer than 10,000 letters"),
    "no day of the calendar": ("a: 1\nb: 2024-02-30\n", 2, "day"),
    "two documents": ("a: 1\n---\nb: 2\n", 2, "another document"),
    "an open bracket": ("a: 1\nb: [1, 2\n", 3, "expected"),
    "a tabulator": ("a:\n\t- 1\n", 2, "cannot start any token"),
    "a control character": ("a: 1\nb: \x00\n", 2, "special characters"),
}


def test_what_is_hostile_or_wrong_is_refused_by_file_and_line(tmp_path):
    file = tmp_path / "card.yaml"
    for what, (text, line, message) in REFUSED.items():
        file.write_text(text)
        expected = re.escape(f"{file}, line {line}: ") + ".*" + re.escape(message)
        with case(what), pytest.raises(ValueError, match=expected):
            read_yaml(file)


def test_a_file_that_is_too_large_or_no_text_is_refused_by_name(tmp_path):
    file = tmp_path / "card.yaml"
    file.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ValueError, match=r"card\.yaml is larger than 1,048,576 bytes"):
        read_yaml(file)
    file.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ValueError, match=r"card\.yaml, line 2: it is not UTF-8"):
        read_yaml(file)


def test_a_value_from_the_command_line_is_read_and_named():
    assert parse_yaml("[1, a, 2.5, true]", "-p x") == [1, "a", 2.5, True]
    assert parse_yaml("", "-p x") is None
    with pytest.raises(ValueError, match=r"-p x, line 1: .*expected"):
        parse_yaml("[1", "-p x")


def test_the_repository_s_own_files_read_as_before():
    files = [*paths.ROOT.glob("data/**/*.yaml"), *paths.ROOT.glob("notebooks/params/*.yaml")]
    assert len(files) > 20
    for file in files:
        assert read_yaml(file) == yaml.safe_load(file.read_text()), file.name
