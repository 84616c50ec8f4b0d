"""An audit of own tiles: drawn once, gone on with, added to, and of what was predicted then."""

import json
from pathlib import Path

import numpy as np
import pytest

from apps.labelling import answers, audit
from apps.labelling.answers import Answer
from lib.quality.audit import audited_accuracy, clopper_pearson
from lib.quality.conformal import fewest_tiles

NAMES = ["fat", "<b>&\"'"]
N = 200


def predictions(folder, seed=0, right=0.8):
    """Networks in a folder of their own, and classes by them; the true ones are even and odd."""
    networks = Path(folder) / f"networks {seed} {right}"
    networks.mkdir(exist_ok=True)
    (networks / "network_a.safetensors").write_text(f"{seed} {right}")
    draw = np.random.default_rng(seed)
    correct = draw.random(N) < right
    own = np.where(correct, draw.uniform(0.6, 1.0, N), draw.uniform(0.5, 0.8, N))
    classes = np.where(correct, np.arange(N) % 2, 1 - np.arange(N) % 2)
    probs = np.where(classes[:, None] == np.arange(2), own[:, None], 1 - own[:, None])
    digests = [f"t{n}" for n in range(N)]
    return audit.Predictions("predictions.csv", networks, NAMES, digests, probs)


def say(file, tiles, label="true", who="anna", ask="audit", **fields):
    def of(tile):
        return NAMES[int(tile[1:]) % 2] if label == "true" else label

    answers.append(file, [Answer(tile, of(tile), who, ask=ask, **fields) for tile in tiles])


def oracle(file):
    digests = [f"t{n}" for n in range(N)]
    waiting = lambda: audit.withheld(file, NAMES, digests)  # noqa: E731
    return answers.AnswersOracle(file, NAMES, np.arange(N), digests, waiting)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "my.tiles-1a2b.jsonl"


def test_what_is_drawn_stays_until_it_is_labelled_whatever_is_trained_meanwhile(file, tmp_path):
    first = predictions(tmp_path)
    drawn = audit.to_label(file, first, ["t7"], 30, seed=0)
    assert len(set(drawn)) == 30 and "t7" not in drawn
    say(file, drawn[:12])
    say(file, ["t1", "t2", "t7"], ask="query", who="bob")
    for later in (first, predictions(tmp_path, seed=1)):
        assert audit.to_label(file, later, (), 30, seed=5) == drawn
    say(file, drawn[12:])
    assert audit.to_label(file, first, (), 30, seed=0) == drawn
    anew = audit.to_label(file, predictions(tmp_path, seed=1), (), 30, seed=0)
    assert not set(anew) & {*drawn, "t1", "t2", "t7"}  # they have taught, or may have


def test_answers_of_an_audit_teach_nothing_before_its_end(file, tmp_path):
    say(file, ["t0", "t1"], ask="query")
    drawn = audit.to_label(file, predictions(tmp_path), (), 20, seed=0)
    say(file, drawn[:-1])
    taught = {tile for tile, label in oracle(file).known().items() if label >= 0}
    assert taught == {0, 1}
    numbers = np.array([int(tile[1:]) for tile in (drawn[0], "t0")])
    assert oracle(file).label(numbers) == {0: 0}
    say(file, drawn[-1:])
    assert {t for t, label in oracle(file).known().items() if label >= 0} == {
        0,
        1,
        *(int(tile[1:]) for tile in drawn),
    }


def test_the_report_is_that_of_the_library_and_names_what_is_estimated(file, tmp_path):
    own = predictions(tmp_path)
    assert audit.report(file, own) is None
    drawn = audit.to_label(file, own, ["t3", "t4"], 40, seed=0)
    assert "no tile of it has an answer" in audit.report(file, own).sentences[0]
    say(file, drawn[2:])
    say(file, drawn[:2], label=None)
    said = audit.report(file, own)
    predicted = {t: own.probs[int(t[1:])].argmax() for t in drawn}
    correct = sum(int(t[1:]) % 2 == predicted[t] for t in drawn[2:])
    low, high = clopper_pearson(correct, 40)
    assert (
        f"{correct} of 40 tiles are correct: between {low:.1%} and {high:.1%}"
        in (said.sentences[0])
    )
    assert said.sentences[1].startswith("2 showed none of the classes")
    assert "the 198 tiles" in said.sentences[2] and "2 labelled ones" in said.sentences[2]
    assert said.table.predicted.sum() == 198 and said.table.labelled.sum() == 40
    sizes = said.sets[[n for n in range(N) if f"t{n}" not in {"t3", "t4", *drawn}]].sum(1)
    say(file, ["t3", "t4"], ask="query")
    told = audit.report(file, own).sentences[-1]
    assert told.startswith(f"{(sizes == 1).sum()} of {len(sizes)} tiles without a label can be")


def test_an_audit_is_of_the_predictions_that_it_was_drawn_for_and_of_no_later_ones(file, tmp_path):
    drawn = audit.to_label(file, predictions(tmp_path), (), 40, seed=0)
    say(file, drawn)
    before = audit.report(file, predictions(tmp_path))
    after = audit.report(file, predictions(tmp_path, seed=1, right=1.0))
    assert "These are not the predictions of now" in after.sentences[0]
    assert before.sentences[0].split(": ")[1:] == after.sentences[0].split(": ")[1:]
    assert before.table.equals(after.table)
    assert before.sets is not None and after.sets is None


def test_more_is_drawn_from_the_same_tiles_and_adds_up(file, tmp_path):
    own = predictions(tmp_path)
    first = audit.to_label(file, own, (), 60, seed=0)
    say(file, first)
    assert audit.to_label(file, own, (), 60, seed=0) == first
    both = audit.to_label(file, own, (), 100, seed=0)
    samples = audit.read_samples(file)
    assert [len(sample.tiles) for sample in samples] == [60, 40] and both[:60] == first
    twice = set(samples[0].tiles) & set(samples[1].tiles)
    assert twice and len(both) == 100 - len(twice)  # drawn independently
    say(file, both)
    assert " of 100 tiles are correct" in audit.report(file, own).sentences[0]
    say(file, audit.to_label(file, own, (), N, seed=0))
    labelled = audit._labelled(file, audit.read_samples(file))
    truth = (own.probs.argmax(1) == np.arange(N) % 2).mean()
    found = audited_accuracy(labelled, N)
    assert found.low == found.high == pytest.approx(truth)


def test_too_few_tiles_give_no_sets_and_the_report_says_what_it_takes(file, tmp_path):
    own = predictions(tmp_path)
    say(file, audit.to_label(file, own, (), fewest_tiles() - 1, seed=0))
    said = audit.report(file, own)
    assert said.sets is None and "take 9 audited tiles or more, there are 8" in said.sentences[-1]


def test_when_each_tile_has_a_label_none_is_left_to_audit(file, tmp_path):
    say(file, [f"t{n}" for n in range(N)], ask="query")
    with pytest.raises(ValueError, match="every tile has a label"):
        audit.to_label(file, predictions(tmp_path), (), 10, seed=0)


@pytest.mark.parametrize("text", ["nonsense", "[1]", '[{"predictions": "x"}]', "{}"])
def test_a_file_of_audits_that_was_not_written_here_is_refused_by_name(file, text, tmp_path):
    audit.samples_file(file).write_text(text)
    with pytest.raises(ValueError, match=r"my\.tiles-1a2b\.audits\.json is no file of audits"):
        audit.report(file, predictions(tmp_path))


def test_an_audit_of_other_words_or_tiles_holds_nothing_back(file, tmp_path):
    own = predictions(tmp_path)
    drawn = audit.to_label(file, own, (), 20, seed=0)
    digests = list(own.digests)
    assert audit.withheld(file, NAMES, digests) == set(drawn)
    assert not audit.withheld(file, ["fat", "muscle"], digests)
    assert not audit.withheld(file, NAMES, [d for d in digests if d != drawn[0]])
    assert json.loads(audit.samples_file(file).read_text())[0]["predictions"] == own.digest


def test_none_of_these_is_correct_where_other_tissue_was_predicted(file, tmp_path):
    (tmp_path / "classifier").mkdir()
    plain = predictions(tmp_path)
    fat, muscle = np.where(np.arange(N) < 60, 0.5, 0.0), np.where(np.arange(N) < 60, 0.3, 0.0)
    left = (1 - fat - muscle)[:, None] * plain.probs
    both = np.column_stack([left, fat, muscle])
    given = plain.digests, both, NAMES, ["fat", "muscle"]
    own = audit.of_classifier(tmp_path, *given)
    assert own.digest == audit.of_classifier(tmp_path, plain.digests, own.probs, *given[2:]).digest
    assert own.class_names[-1] == "other tissue" and own.probs[:60, 2] == pytest.approx(5 / 7)
    drawn = audit.to_label(file, own, (), 50, seed=0)
    assert audit.withheld(file, [*NAMES, "fat", "muscle"], own.digests) == set(drawn)
    others = [t for t in drawn if int(t[1:]) < 60]
    say(file, others, label=None)
    say(file, set(drawn) - set(others))
    said = audit.report(file, own)
    right = sum(own.probs[int(t[1:])].argmax() == int(t[1:]) % 2 for t in set(drawn) - set(others))
    assert f"{len(others) + right} of 50 tiles are correct" in said.sentences[0]
    assert not any("showed none" in sentence for sentence in said.sentences)
    assert said.table["class"].tolist() == [*NAMES, "other tissue"] and said.sets.shape == (N, 3)
