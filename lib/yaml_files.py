"""YAML that nobody vouches for: plain values, lists and named fields, of bounded size."""

from pathlib import Path
from typing import Any

import yaml

LARGEST, LONGEST, DEEPEST = 2**20, 10_000, 50  # bytes of a file, letters of a value, levels


def read_yaml(file: Path) -> Any:
    """The content of a file. Raises ValueError naming it, as `parse_yaml` does, and OSError."""
    with file.open("rb") as opened:
        content = opened.read(LARGEST + 1)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{file}, line {line}: it is not UTF-8") from None
    return parse_yaml(text, str(file))


def parse_yaml(text: str, where: str) -> Any:
    """The content of a text: numbers, texts, dates, lists, and dictionaries with texts as keys.

    Raises ValueError with `where` and the line for what is no YAML, for anchors, aliases, merge
    keys and tags, for a field that is there twice, and for what is larger than any card.
    """
    if len(text) > LARGEST:
        raise ValueError(f"{where} is larger than {LARGEST:,} bytes")
    try:
        return yaml.load(text, _Loader)  # a SafeLoader  # nosec B506
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{where}{line}: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line_number = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{where}, line {line_number}: {error.reason}") from error


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        refused = ""
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            refused = "anchors and aliases are not read; write it out"
        elif getattr(event, "tag", None) is not None:
            refused = f"tags such as {event.tag!r} are not read"
        elif len(getattr(event, "value", "")) > LONGEST:
            refused = f"it is longer than {LONGEST:,} letters"
        elif self.depth >= DEEPEST:
            refused = f"it is nested deeper than {DEEPEST} levels"
        if refused:
            raise yaml.MarkedYAMLError(problem=refused, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:  # such as a 30th of February
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names: set[str] = set()
        for key, _ in node.value:
            problem = ""
            if key.tag != self.DEFAULT_SCALAR_TAG:
                problem = "the name of a field is no text; put it in quotes"
            elif key.value in names:
                problem = f"{key.value!r} is there twice"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)
