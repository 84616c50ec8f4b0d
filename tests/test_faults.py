"""A tenth of the faults, spread over the areas; `make faults` meets them all."""

from pathlib import Path

import pytest
from faults import by_area, every, overview, tenth
from faults.fault import problems

ALL = every()


def test_faults_are_many_and_have_names_of_their_own():
    assert len(ALL) >= 300 and len({(fault.area, fault.name) for fault in ALL}) == len(ALL)
    assert {area for area, _ in by_area(tenth(ALL))} == {area for area, _ in by_area(ALL)}


def test_contributing_has_their_table():
    page = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
    assert overview() in page.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("fault", tenth(ALL), ids=lambda fault: f"{fault.area}: {fault.name}")
def test_a_fault_is_met_well(fault, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    assert not problems(fault, folder)
