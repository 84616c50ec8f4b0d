"""The headline figure and the two tables of the front page."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from figures import front_page
from lib import parameters, record
from lib.quality import estimate_tables
from lib.report import ablations, active_learning, alarms, comparison, format, overviews, statistics
from lib.slides import open_set, scores

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ("headline.svg", "headline_dark.svg")


@pytest.fixture(scope="module")
def rows():
    """The record, of each dataset with its own VLM."""
    recorded = record.read_rows(*sorted((ROOT / "data" / "record").glob("*.jsonl")))
    vlms = {name: parameters.default_vlm(name) for name in {row["dataset"] for row in recorded}}
    return comparison.of_own_vlm(recorded, vlms)


# --- the tables ----------------------------------------------------------------------------------


def made_up(dataset, method, accuracy, setting=None, seed=0, fold=0, vlm="a", **fields):
    """A row of the comparison."""
    scores = {"accuracy": accuracy, "balanced_accuracy": accuracy / 2}
    scores |= dict.fromkeys(("macro_f1", "auroc", "ece"), 0.0)
    network = None if method in comparison.UNTRAINED else "frozen"
    given = {"dataset": dataset, "vlm": vlm, "method": method, "setting": setting, "seed": seed}
    given |= {"fold": fold}
    given |= {"network": network, "split": "test", "n": 10, "scores": scores, "params": {}}
    return record.row(**given | fields)


def compared(dataset="demo", seed=0, fold=0, **changed):
    scores = dict.fromkeys(overviews.NEEDED, 0.5) | {"zero-shot": 0.4} | changed
    run = {"seed": seed, "fold": fold}
    rows = [made_up(dataset, name, score, **run) for name, score in scores.items()]
    for setting, score in (("published filters", 0.8), ("ours", 0.9)):
        rows.append(made_up(dataset, "vlm-cpl", score, setting, **run))
    return [*rows, made_up(dataset, "full-supervision", 0.96, **run)]


BEST, BEST_STRATEGY = (f"best other {what}, chosen on the test set" for what in
                       ("method", "strategy"))  # fmt: skip


def test_a_line_is_of_complete_runs_with_the_best_of_the_others_named():
    lone = made_up("demo", "zero-shot", 0.0, seed=2)  # the rest of that run is not there
    rows = [*compared(elr=0.6), *compared(seed=1, fold=1, elr=0.7, gce=0.62), lone]
    (line,) = front_page.no_labels_table(rows).to_dict("records")
    cells = {name: cell.replace("\N{NO-BREAK SPACE}", " ") for name, cell in line.items()}
    assert cells == {
        "dataset": "demo", "zero-shot": "0.400 / 0.200",
        BEST: "0.650 / 0.325 (early-learning regularisation)",
        "VLM-CPL, published filters": "0.800 / 0.400", "VLM-CPL, ours": "0.900 / 0.450",
        "all labels": "0.960 / 0.480", "folds": "2", "seeds": "2",
    }  # fmt: skip


def test_rows_of_two_models_are_not_averaged():
    rows = [*compared(), made_up("demo", "zero-shot", 0.1, vlm="b")]
    for make in (front_page.no_labels_frame, front_page.few_labels_frame):
        with pytest.raises(ValueError, match="several VLMs for demo"):
            make(rows)


def rounds(training, method, accuracies, budgets=(10, 20, 40), dataset="lc25k", **fields):
    labels = {"labelled": 0, "confident": None, "precision": None, "disagreeing": 0, "filled": 0}
    return [
        made_up(dataset, method, accuracy, training=training, budget=budget, network="frozen",
                params={"round": r}, labels=labels, **fields)
        for r, (accuracy, budget) in enumerate(zip(accuracies, budgets, strict=True), 1)
    ]  # fmt: skip


def few_labels():
    return [
        *rounds("dual-view", "unisal", (0.4, 0.6, 0.8)),
        *rounds("dual-view", "unisal-coverage", (0.9, 0.9, 0.9)),
        *rounds("dual-view", "margin", (0.5, 0.5, 0.7)),
        *rounds("dual-view", "random", (0.3, 0.3, 0.71)),
        *rounds("supervised", "random", (0.3, 0.3, 0.3)),
        made_up("lc25k", "full-supervision", 0.9, training="supervised", budget=400),
    ]


def test_few_labels_are_scored_at_the_end_and_on_the_way():
    table = front_page.few_labels_table(few_labels()).set_index("score")
    assert table.loc["accuracy", "UniSAL"] == "0.800"
    assert table.loc["balanced accuracy", "UniSAL"] == "0.400"
    assert table.loc["AULC", "UniSAL"] == f"{(10 * 0.5 + 20 * 0.7) / 30:.3f}"
    best = table[BEST_STRATEGY].str.replace("\N{NO-BREAK SPACE}", " ")
    assert best["accuracy"] == "0.710 (random)" and best["AULC"] == "0.567 (margin)"
    assert set(table["random, supervised"]) == {"0.300", "0.150"}
    assert table["all labels"].tolist() == ["0.900", "0.450", ""]
    assert set(table.labels.str.replace("\N{NO-BREAK SPACE}", " ")) == {"40 of 400"}
    assert set(table["UniSAL, ours"]) == {"not run"} and set(table.folds) == {"1"}


def test_our_training_stands_beside_the_published_one_and_folds_are_pooled():
    rows = few_labels() + rounds(*front_page.OURS, (0.5, 0.7, 0.8))
    rows += rounds(*front_page.OURS, (0.5, 0.7, 0.6), fold=1)
    rows += rounds("dual-view", "unisal", (0.5, 0.6, 0.7), fold=1)  # of whose runs all are
    rows += rounds("dual-view-aligned", "margin", (0.5, 0.7, 0.75))
    table = front_page.few_labels_table(rows).set_index("score")
    assert table.loc["accuracy", "UniSAL, ours"] == "0.700"
    best = table[BEST_STRATEGY].str.replace("\N{NO-BREAK SPACE}", " ")
    assert best["accuracy"] == "0.750 (margin, dual-view-aligned)"


def test_a_cold_start_is_no_other_strategy():
    plain = few_labels()
    begun = rounds("dual-view-aligned", "cold-start", (0.85, 0.85, 0.85))
    assert front_page.few_labels_table(plain + begun).equals(front_page.few_labels_table(plain))
    tables = (active_learning.summary_table, overviews.shortfall_table)
    for table, both in ((t, active_learning.rounds_frame(plain + begun)) for t in tables):
        assert table(both).equals(table(active_learning.rounds_frame(plain)))


def test_the_numbers_are_those_of_the_other_tables():
    rows = compared() + compared("lc25k", elr=0.7, fold=1)
    frame = front_page.no_labels_frame(rows)
    summary = overviews.summary_table(rows)
    ours = {(line.dataset, f"{line.ours:.3f}", f"{line.full:.3f}") for line in frame.itertuples()}
    other = zip(summary.dataset, summary["VLM-CPL, ours"], summary["full supervision"], strict=True)
    assert ours == set(other)
    few = front_page.few_labels_table(few_labels())
    areas = active_learning.summary_table(active_learning.rounds_frame(few_labels()))
    aulc = few[few.score == "AULC"].set_index("dataset").UniSAL
    assert aulc.to_dict() == areas.set_index("dataset")["AULC, UniSAL"].to_dict()


def test_the_tables_of_the_readme_are_those_of_the_record(rows):
    text = (ROOT / "README.md").read_text()
    made = front_page.tables(rows)
    assert set(made) == {"no-labels", "controls", "few-labels"}
    assert set(made["controls"].dataset) == set(front_page.CONTROLS)
    for name, table in made.items():
        (block,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.S)
        assert block == format.markdown(table), "`make figures` writes it again"


def claims(rows):
    """Sentences that compare, which the README may hold, and whether the record bears them out."""
    scores = {
        (line.dataset, line.score): line for line in front_page.no_labels_frame(rows).itertuples()
    }
    few = front_page.few_labels_table(rows).set_index(["dataset", "score"])
    if ("lc25k", "accuracy") in scores:
        line = scores["lc25k", "accuracy"]
        yield "published filters on `lc25k`", line.published >= line.ours
    if ("ebhi_binary", "balanced_accuracy") in scores:
        line = scores["ebhi_binary", "balanced_accuracy"]
        holds = line.other_name == "mean of views" and line.other > line.ours
        yield "the mean of views on `ebhi_binary`", holds
    if ("ebhi", "balanced accuracy") in few.index:
        line = few.loc[("ebhi", "balanced accuracy")]
        yield "random choice on `ebhi`", line["random, supervised"] > line["UniSAL"]
    if ("ebhi_polyp", "accuracy") in scores:
        line = scores["ebhi_polyp", "accuracy"]
        holds = line.other_name == "zero-shot labels, Co-teaching" and line.other > line.ours
        yield "Co-teaching on all zero-shot labels does better", holds
    yield from shift_claims([row for row in rows if row["dataset"] == "lc25k"])
    raised = alarms.alarm_frame(rows)
    for dataset in front_page.CONTROLS:
        runs = raised[raised.dataset == dataset]
        yield "the alarm rings in every run", len(runs) > 0 and (runs.raised & runs.failed).all()


def few_labels_claims(rows):
    """AULC of strategies that learn as published UniSAL does, and of ours."""
    areas = {}
    frame = active_learning.rounds_frame(rows)
    frame = frame[(frame.network == "frozen") & (frame.varied == ())]
    for name, curves in active_learning.of_published_runs(frame).groupby("dataset"):
        means = active_learning.curve_means(curves, "training", "method")
        means = means.groupby(["training", "method"])
        areas[name] = means.apply(statistics.pooled_rows, include_groups=False)
    if not {"lc25k", "ebhi"} <= set(areas):
        return
    margin, unisal, random = areas["lc25k"]["dual-view"][["margin", "unisal", "random"]]
    claim = f"as published, margin sampling (AULC {margin:.3f}) and UniSAL ({unisal:.3f})"
    yield f"{claim} fall behind random choice ({random:.3f})", max(margin, unisal) < random
    ours = areas["lc25k"][active_learning.OURS]
    yield f"half of each query coverage, does not ({ours:.3f})", ours > random
    counted = {d: pd.read_parquet(ROOT / f"data/record/{d}.rounds.parquet") for d in areas}
    means = overviews.equal_training_table(counted)["mean"].str.split().str[0].astype(float)
    claim = "none that trains alike is above it by more than"
    yield f"{claim} {-means.min():.3f}", means.min() < 0


def cold_start_claims(rows):
    """AULC of UniSAL that begins with VLM-CPL and by chance; how right VLM-CPL was."""
    frame, found = active_learning.rounds_frame(rows, cold_starts=True), {}
    for name in ("lc25k", "ebhi"):
        table = active_learning.cold_start_table(frame[frame.dataset == name])
        for shift, lines in table.groupby("shift") if len(table) else ():
            of_way = lines.set_index("begins with")
            area, zero = of_way.AULC[["VLM-CPL", "chance"]], of_way["at 0 labels"]["VLM-CPL"]
            found[name, shift] = (*area.astype(float), f"{100 * float(zero):.0f} % right")
    if not {("lc25k", "none"), ("lc25k", "stain+2.0"), ("ebhi", "none")} <= set(found):
        return
    begun, chance, zero = found["lc25k", "none"]
    claim = f"Begun with VLM-CPL it learns faster on `lc25k` ({begun:.3f}, by chance {chance:.3f};"
    yield f"{claim} VLM-CPL: {zero})", begun > chance
    begun, chance, zero = found["ebhi", "none"]
    claim = f"no slower on `ebhi` ({begun:.3f}, by chance {chance:.3f}; {zero})"
    yield claim, begun > chance - 0.005
    begun, chance, _ = found["lc25k", "stain+2.0"]
    yield "and no faster under strong stain shift", begun <= chance


def quality_claims(rows):
    """How far off the estimates of accuracy are at worst: without labels, and of an audit."""
    frame = estimate_tables.quality_frame(rows)
    if frame.empty:
        return
    off, audited = 100 * (frame.value - frame.truth).abs(), frame.estimate == estimate_tables.AUDIT
    claim = f"Estimates without labels are off by up to {off[~audited].max():.0f} points; an audit"
    claim += f" of at most {frame.labels[audited].max():.0f} labels by {off[audited].max():.0f}"
    yield claim, off[audited].max() < off[~audited].max()


def slide_claims(rows):
    """Accuracy of slides by VLM-CPL, the mean of the tiles in every way to leave tiles out."""
    frame = scores.slide_frame(rows)
    if frame.empty:
        return
    by = frame.groupby(["dataset", "method", "pooling", "setting"]).accuracy.mean()
    ways = (open_set.ALL_TISSUE, open_set.OPEN_SET, open_set.LEARNT)
    everything, published, learnt = (by["demo_slides", "vlm-cpl", "mean", way] for way in ways)
    claim = f"VLM-CPL labels {everything:.2f} rightly from all tissue, {published:.2f} with"
    claim += f" open-set prompting as published, {learnt:.2f} where the networks learn other"
    yield f"{claim} tissue too", everything < published < learnt
    means = [f"{by['composed_slides', 'vlm-cpl', 'mean', way]:.2f}" for way in ways]
    kinds = (("vlm-cpl-slides", "attention"), ("full-supervision", "attention"))
    pseudo, true = (by["composed_slides", *kind, open_set.LEARNT] for kind in kinds)
    claim = f"nine tenths other tissue, {means[0]}, {means[1]} and {means[2]}, and {pseudo:.2f} by"
    claim += f" attention, whose labels by lift were chosen there ({true:.2f} with true ones)"
    yield claim, pseudo < true


BESIDE_EACH_OTHER = (
    ("vlm-cpl", "ours"),
    ("vlm-cpl", "published filters"),
    ("full-supervision", ""),
)
RANGES = ["0.72 to 0.88", "0.70 to 0.72", "0.91 to 0.94"]


def shift_claims(rows):
    """The range of VLM-CPL in both settings and of all labels at the strongest shifts."""
    shifted = ablations.robustness_lines(ablations.ablation_frame(rows)) if rows else []
    if len(shifted):
        strong = shifted[shifted["shift"].isin(["stain+1.0", "stain+2.0", "jpeg10"])]
        means = strong.groupby(["method", "setting", "shift"]).accuracy.mean()
        ends = [f"{means[k].min():.2f} to {means[k].max():.2f}" for k in BESIDE_EACH_OTHER]
        ours, published, full = RANGES
        claim = f"ours reaches {ours} and the published filters {published}, where all labels give"
        yield f"{claim} {full}", ends == RANGES


OF_THE_RECORD = (few_labels_claims, cold_start_claims, quality_claims, slide_claims)


def says(text, claim):
    """Whether a text has the numbers of a claim, close together; its words are free."""
    numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?!\w)", claim)
    return bool(re.search(".{1,130}?".join(map(re.escape, numbers or [claim])), text))


def test_what_the_readme_says_of_others_holds_in_the_record(rows):
    text = " ".join((ROOT / "README.md").read_text().split())
    for sentence, holds in claims(rows):
        assert sentence not in text or holds, sentence
    for of_the_record in OF_THE_RECORD:
        for sentence, holds in of_the_record(rows):
            assert says(text, sentence) and holds, sentence


# --- the figures ---------------------------------------------------------------------------------


def test_the_diagrams_for_light_and_dark_pages_differ_in_their_colours_alone():
    texts = [(ROOT / "figures" / f"methods{dark}.svg").read_text() for dark in ("", "_dark")]
    assert len(list(ElementTree.fromstring(texts[0]).iter("{http://www.w3.org/2000/svg}text"))) > 30
    light, dark = (re.sub(r"#[0-9a-fA-F]{6}", "#", text) for text in texts)
    assert light == dark and texts[0] != texts[1]


@pytest.mark.slow
def test_the_pictures_are_those_of_the_record_and_written_the_same_twice(rows, tmp_path):
    for folder in ("one", "two"):
        front_page.write(rows, tmp_path / folder)
    for name in FIGURES:
        drawn = (tmp_path / "one" / name).read_text()
        assert drawn == (tmp_path / "two" / name).read_text()
        ElementTree.fromstring(drawn)
        assert (ROOT / "figures" / name).is_file()


def test_the_headline_shows_every_dataset_that_has_all_scores():
    named = list(front_page.NO_LABELS)
    rows = [row for name in reversed(named) for row in compared(name)]
    for some in (rows, compared("lc25k")):
        scores, curves = front_page.no_labels_frame(some), front_page.few_labels_frame(few_labels())
        left, right = front_page.headline(scores, curves).axes
        shown = [front_page.NO_LABELS[name] for name in named if name in set(scores.dataset)]
        assert [t.get_text() for t in left.get_yticklabels()] == shown
        low, high = left.get_xlim()
        assert low < scores["zero-shot"][scores.score == "accuracy"].min() and high > 1
        drawn = [line for line in right.lines if len(line.get_xdata()) == 3]
        assert len(drawn) == 2, "UniSAL and random"
        assert left.figure.get_size_inches()[0] == 8


def test_without_a_row_the_headline_is_empty_and_not_an_error():
    figure = front_page.headline(
        front_page.no_labels_frame(compared("lc25k")), front_page.few_labels_frame([])
    )
    assert len(figure.axes[1].lines) == 0


def test_the_headline_of_the_record_has_its_datasets(rows):
    assert set(front_page.no_labels_frame(rows).dataset) <= set(front_page.NO_LABELS)
