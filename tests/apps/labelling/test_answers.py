"""The file of answers: what is written stays, what is wrong is named and takes nothing with it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from apps.labelling import answers, people
from apps.labelling.answers import Answer, AnswersOracle
from lib.active.loop import Waiting
from lib.labels import NONE_OF_THESE, REFUSED, UNANSWERED

CLASSES = ["stroma", "adipose"]
ROOT = Path(__file__).resolve().parents[3]


def say(file, *lines):
    """Lines as `tile who label`; - for none of these, skip and undo as they are."""
    for tile, who, label in map(str.split, lines):
        action = label if label in ("skip", "undo") else "label"
        label = label if label in CLASSES else None
        answers.append(file, [Answer(tile, label, who, action=action)])


@pytest.fixture
def file(tmp_path):
    return tmp_path / "deep" / "answers.jsonl"


def resolved(file):
    return answers.resolve(answers.read(file, CLASSES).lines, CLASSES)


def test_a_line_holds_what_was_said_by_whom_when_and_how_long_it_took(file):
    assert not len(answers.read(file, CLASSES).lines) and not resolved(file)
    answers.append(file, [Answer("t1", "stroma", "anna", seconds=2.5, suggestion=True)])
    line = json.loads(file.read_text())
    assert line.pop("when").endswith("+00:00")
    said = {"tile": "t1", "label": "stroma", "who": "anna", "action": "label"}
    assert line == said | {"seconds": 2.5, "suggestion": True, "ask": "query"}


def test_the_last_line_of_a_person_counts_and_no_line_goes(file):
    say(file, "t1 anna stroma", "t2 anna -", "t1 anna adipose", "t2 anna stroma", "t2 anna undo")
    assert resolved(file) == {"t1": 1, "t2": UNANSWERED}
    say(file, "t2 anna -")
    assert resolved(file) == {"t1": 1, "t2": REFUSED}
    assert len(file.read_text().splitlines()) == 6


def test_a_line_that_was_cut_off_spoils_no_other(file):
    say(file, "t1 anna stroma", "t2 anna adipose")
    whole = file.read_bytes()
    for cut in range(len(whole.splitlines()[0]) + 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        lines, (problem,) = answers.read(file, CLASSES)
        assert lines.tile.tolist() == ["t1"] and "line 2: cut off" in problem
    say(file, "t3 bob adipose")
    lines, problems = answers.read(file, CLASSES)
    assert lines.tile.tolist() == ["t1", "t3"] and len(problems) == 1
    assert file.read_bytes().startswith(whole[:cut])
    file.write_bytes(whole.rstrip(b"\n"))  # the last line is whole, only its end is missing
    say(file, "t3 anna adipose")
    assert resolved(file) == {"t1": 0, "t2": 1, "t3": 1}


PLAIN = '{"tile": "t1", "who": "anna", "label": null, "seconds": %s}'
EDITED = {
    "no whole line of JSON": "nonsense",
    "[1]: Input should be an object": "[1]",
    "who": {"who": ...},
    "mood 'good': Unexpected": {"mood": "good"},
    "the class 'gland' is none of stroma, adipose": {"label": "gland"},
    "the class '' is none of": {"label": ""},
    "no tile here has the digest 't9'": {"tile": "t9"},
    "who ' '": {"who": " "},
    "label 3": {"label": 3},
    "action 'delete'": {"action": "delete"},
    "label is 'stroma', action 'undo'": {"action": "undo"},
    "seconds -1": {"seconds": -1},
    "seconds nan": {"seconds": float("nan")},
    "seconds 1": {"seconds": 10**400},
    "seconds inf": PLAIN % "1e999",
    "no whole": PLAIN % ("1" * 5000),
    "no whole line of JSON in UTF-8": "[" * 100_000,
    "no whole line of JSON in UTF": {"who": "\ud800"},
    "suggestion 'no'": {"suggestion": "no"},
    "when 'yesterday'": {"when": "yesterday"},
}


@pytest.mark.parametrize("problem", EDITED)
def test_an_edited_line_is_named_by_file_and_line_and_loses_no_other(file, problem):
    say(file, "t1 anna stroma", "t2 anna adipose")
    first, second = file.read_text().splitlines()
    edited = EDITED[problem]
    if isinstance(edited, dict):
        edited = json.dumps({k: v for k, v in (json.loads(first) | edited).items() if v is not ...})
    file.write_text("\n".join([first, edited, "", second]) + "\n")
    lines, (said,) = answers.read(file, CLASSES, ["t1", "t2"])
    assert lines.tile.tolist() == ["t1", "t2"] and lines.line.tolist() == [1, 4]
    assert f"{file}, line 2: " in said and problem in said and len(said) < 600


def test_a_file_from_another_editor_loses_no_line_and_none_is_read_wrong(file):
    who = "müller\u2028b"
    answers.append(file, [Answer("t1", "stroma", "anna"), Answer("t2", "adipose", who)])
    content = file.read_bytes()
    file.write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    lines, problems = answers.read(file, CLASSES)
    assert lines.tile.tolist() == ["t1", "t2"] and not problems and lines.who[1] == who
    file.write_bytes(content.decode().replace("\u2028", "").encode("cp1252"))
    lines, (problem,) = answers.read(file, CLASSES)
    assert lines.tile.tolist() == ["t1"] and "line 2: no whole line of" in problem
    file.write_bytes(content.decode().encode("utf-16"))
    with pytest.raises(ValueError, match=r"answers\.jsonl is UTF-16: save it as UTF-8"):
        answers.read(file, CLASSES)


def test_a_class_is_the_same_with_composed_and_decomposed_accents(file):
    answers.append(file, [Answer("t1", "Dru\u0308se", "anna"), Answer("t2", "Druse", "anna")])
    lines, (problem,) = answers.read(file, ["Fett", "Dr\u00fcse"])
    assert answers.resolve(lines, ["Fett", "Dr\u00fcse"]) == {"t1": 1}
    assert "line 2: the class 'Druse' is none of" in problem


@pytest.mark.parametrize("change", [{"tile": ""}, {"who": " "}, {"seconds": -1.0}, {"label": 3}])
def test_what_is_no_answer_cannot_be_made(change):
    with pytest.raises(ValueError, match="validation error"):
        Answer(**{"tile": "t", "label": None, "who": "anna"} | change)


WRITER = """
import sys
from pathlib import Path
from apps.labelling.answers import Answer, append
for n in range(int(sys.argv[3])):
    append(Path(sys.argv[1]), [Answer(f"{n}" * 50, "stroma", sys.argv[2])])
"""


def writer(file, who, n):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", WRITER, str(file), who, str(n)], env=environment)


@pytest.mark.slow
def test_several_processes_write_at_once_and_one_is_killed(file):
    writers = [writer(file, who, 150) for who in ("anna", "bob")]
    killed = writer(file, "carl", 100_000)
    deadline = time.monotonic() + 120
    while not file.is_file() or b"carl" not in file.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert [process.wait(timeout=120) for process in writers] == [0, 0]
    lines, problems = answers.read(file, CLASSES)
    for who in ("anna", "bob"):
        assert lines.tile[lines.who == who].tolist() == [f"{n}" * 50 for n in range(150)]
    assert len(problems) <= 1


def test_answers_that_are_read_in_twice_are_added_once(file):
    """Without a time they are new where they change something."""
    when = "2026-01-31T09:15:00.000+00:00"
    twice = [Answer("t1", "stroma", "bob", when), Answer("t2", None, "bob", when)]
    assert [answers.add_new(file, twice) for _ in range(2)] == [2, 0]
    for label, added in (("stroma", 1), ("stroma", 0), ("adipose", 1), ("stroma", 1)):
        assert answers.add_new(file, [Answer("t1", label, "anna")]) == added
    assert resolved(file) == {"t1": 0, "t2": REFUSED} and len(answers.read(file).lines) == 5


# --- several people ------------------------------------------------------------------------------


def test_people_who_differ_do_not_count_until_they_agree(file):
    say(file, "t1 anna stroma", "t1 bob stroma", "t2 anna stroma", "t2 bob adipose", "t3 bob -")
    say(file, "t3 anna adipose", "t4 anna skip", "t4 bob adipose")
    assert resolved(file) == {"t1": 0, "t2": UNANSWERED, "t3": UNANSWERED, "t4": 1}
    lines = answers.read(file).lines
    differently = people.seen_differently(lines)[["anna", "bob"]]
    assert differently.values.tolist() == [["stroma", "adipose"], ["adipose", NONE_OF_THESE]]
    assert people.to_reread(lines, "anna", "disputed") == list(differently.index) == ["t2", "t3"]
    say(file, "t2 bob stroma", "t3 anna skip")
    assert resolved(file) == {"t1": 0, "t2": 0, "t3": REFUSED, "t4": 1}


def test_kappa_is_cohens_on_the_tiles_that_both_have_judged(file):
    # 20 both stroma, 5 and 10 split, 15 both adipose: p_o 0.7, p_e 0.5 (Cohen's textbook table)
    pairs = ["00"] * 20 + ["01"] * 5 + ["10"] * 10 + ["11"] * 15
    for n, pair in enumerate(pairs):
        one, other = (CLASSES[int(label)] for label in pair)
        say(file, f"t{n} anna {one}", f"t{n} bob {other}")
    say(file, "alone anna stroma", "skipped anna stroma", "skipped bob skip", "x carl stroma")
    table = people.agreement(answers.read(file).lines)
    assert table.tiles.tolist() == [50, 0, 0] and table.alike[0] == pytest.approx(0.7)
    assert table.kappa[0] == pytest.approx(0.4) and np.isnan(table.kappa[1:]).all()
    say(file, "x anna stroma")  # one and the same class: open
    assert np.isnan(people.agreement(answers.read(file).lines).kappa[1])


def test_a_second_reader_is_asked_for_what_others_have_judged(file):
    say(file, "t1 anna stroma", "t2 anna skip", "t3 anna adipose", "t3 bob stroma", "t4 bob -")
    lines = answers.read(file).lines
    assert people.to_reread(lines, "bob", "second") == ["t1"]
    assert people.to_reread(lines, "anna", "second") == ["t4"]
    assert people.to_reread(lines, "anna", "query") == []
    table = people.progress(lines, CLASSES)
    assert table.loc["anna"].tolist()[:4] == [1, 1, 0, 1] and table.loc["bob"].iloc[2] == 1


def test_the_oracle_waits_until_every_tile_has_been_seen(file):
    oracle = AnswersOracle(file, CLASSES, np.arange(4), ["t0", "t1", "t2", "t3"])
    query = np.array([2, 0, 1])
    with pytest.raises(Waiting, match="3 of 3"):
        oracle.label(query)
    say(file, "t2 anna stroma", "t0 anna -")
    with pytest.raises(Waiting, match="1 of 3"):
        oracle.label(query)
    say(file, "t1 anna skip", "t3 bob adipose")
    assert oracle.label(query) == {2: 0, 0: REFUSED}
    assert oracle.known() == {0: REFUSED, 1: UNANSWERED, 2: 0, 3: 1}
    assert oracle.label(np.array([0, 1])) == {0: REFUSED}  # no class, but done all the same
