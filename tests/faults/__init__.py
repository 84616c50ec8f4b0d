"""Faults as a user meets them: a list by area, and whether each is met well."""

from collections.abc import Iterator, Sequence
from importlib import import_module

from .fault import Fault

# Each is a module with a list FAULTS, of one or several areas.
LISTS = "tiles folders tables cards prompts weights hubs slides features labels records archives"
LISTS += " machine"


def every(lists: Sequence[str] = ()) -> list[Fault]:
    """All faults, or those of some lists, area by area."""
    names = lists or LISTS.split()
    return [f for name in names for f in import_module(f".{name}", __name__).FAULTS]


def tenth(faults: list[Fault]) -> list[Fault]:
    """One in ten, spread over the areas, the same every time."""
    return faults[4::10]


def by_area(faults: list[Fault]) -> Iterator[tuple[str, list[Fault]]]:
    """The areas in their order."""
    for area in dict.fromkeys(fault.area for fault in faults):
        yield area, [fault for fault in faults if fault.area == area]


def overview() -> str:
    """The table of CONTRIBUTING: how many faults an area has, the first, and what is said of it."""
    lines = ["| area | faults | the first | what is said of it |", "| --- | --- | --- | --- |"]
    for area, faults in by_area(every()):
        said = max(faults[0].says, key=len).replace("|", "\\|")
        lines.append(f"| {area} | {len(faults)} | {faults[0].name} | {said} |")
    return "\n".join(lines) + "\n"
