"""What is published is what the record gives, with links that lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from made_up_results import SHIFTED, comparison, full, loop, loops, made, scored

from figures import front_page, overviews, page, publish
from figures.card_tables import datasets_table, encoders_table, vlms_table
from figures.markdown import markdown, write_blocks
from figures.overviews import ON_TEST
from lib import paths, record
from lib.report.active_learning import OURS, PROBE

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "data" / "record"
REMEDY = "`make figures` writes it anew"
NO_BREAK = "\N{NO-BREAK SPACE}"


def block(file: Path, name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", file.read_text(), re.S)
    assert found, f"{file.name} has no block {name}"
    return found[1]


@pytest.fixture(scope="module")
def recorded():
    return record.read(*record.stems(RECORD))


@pytest.fixture(scope="module")
def own(recorded):
    """The record, of each dataset with its own VLM."""
    return publish.own_vlms(recorded)


@pytest.fixture(scope="module")
def whole_page(recorded, own):
    return publish.page_of(own, recorded)


# --- of the record -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_of_results_is_that_of_the_record(whole_page):
    assert (ROOT / "figures" / "RESULTS.md").read_text() == whole_page.text(), REMEDY


def test_the_tables_of_the_readmes_are_those_of_the_record_and_of_the_cards(own):
    for name, table in front_page.tables(own).items():
        assert block(ROOT / "README.md", name) == markdown(table), REMEDY
    of_cards = {"datasets": datasets_table(), "vlms": vlms_table(), "encoders": encoders_table()}
    for name, table in of_cards.items():
        assert block(ROOT / "data" / "README.md", name) == markdown(table), REMEDY


@pytest.mark.slow
def test_links_of_the_page_lead_to_headings_and_figures(whole_page):
    text = whole_page.text()
    headings = [page.anchor(line.lstrip("# ")) for line in text.splitlines() if line[:1] == "#"]
    links = re.findall(r"\]\(#([^)]+)\)", text)
    assert links and {*links} <= {*headings} and len({*headings}) == len(headings)
    figures = re.findall(r"!\[.*?\]\(([^)]+)\)", text)
    assert len(set(figures)) == len(figures) > 0
    for figure in figures:
        assert (ROOT / "figures" / figure).is_file(), REMEDY
    together = whole_page.overviews["From zero labels on"]
    each = {s.dataset: s.tables[0] for s in whole_page.sections if s.topic == "from zero labels on"}
    assert set(together.dataset) == set(each) and len(together) == sum(map(len, each.values()))


def test_no_figure_is_left_that_no_page_shows():
    text = (ROOT / "figures" / "RESULTS.md").read_text() + (ROOT / "README.md").read_text()
    for file in (ROOT / "figures").glob("*.png"):
        assert f"({file.name})" in text or f"/{file.name}" in text, f"{file.name} is shown nowhere"


def test_headings_link_as_on_github_and_every_topic_is_explained():
    assert page.anchor("lc25k: active learning (fine-tune)") == "lc25k-active-learning-fine-tune"
    assert all(text.endswith(".") for text in (*page.TOPICS.values(), *page.OVERVIEWS.values()))


@pytest.mark.slow
def test_the_pictures_of_the_front_page_are_written_the_same_twice(own, tmp_path):
    for folder in ("one", "two"):
        front_page.write(own, tmp_path / folder)
    for name in front_page.THEMES:
        drawn = (tmp_path / "one" / name).read_text()
        assert drawn == (tmp_path / "two" / name).read_text()
        ElementTree.fromstring(drawn)
        assert (ROOT / "figures" / name).is_file()
    assert set(front_page.no_labels_frame(own).dataset) <= set(front_page.NO_LABELS)


def test_the_diagrams_for_light_and_dark_pages_differ_in_their_colours_alone():
    texts = [(ROOT / "figures" / f"methods{dark}.svg").read_text() for dark in ("", "_dark")]
    assert len(list(ElementTree.fromstring(texts[0]).iter("{http://www.w3.org/2000/svg}text"))) > 30
    light, dark = (re.sub(r"#[0-9a-fA-F]{6}", "#", text) for text in texts)
    assert light == dark and texts[0] != texts[1]


def test_only_the_named_block_is_replaced(tmp_path):
    file, table = tmp_path / "README.md", pd.DataFrame({"a": [1, 2], "b": ["x", "\\1"]})
    page, other = "1\n<!-- a -->\n{}<!-- /a -->\n2\n", "<!-- b -->\nkeep\n<!-- /b -->\n"
    file.write_text(page.format("old\n") + other)
    write_blocks(file, {"a": table, "absent": table})
    text = "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | \\1 |\n"
    assert file.read_text() == page.format(text) + other
    before = file.stat().st_mtime_ns
    write_blocks(file, {"a": table})
    write_blocks(tmp_path / "absent.md", {"a": table})
    assert file.stat().st_mtime_ns == before


# --- of runs -------------------------------------------------------------------------------------

COUNTS = {"a": {"kept": 6, "correct": 5}, "b": {"kept": 2, "correct": 2}}


def labels(precision, seed=0, **params):
    quality = {"kept": 8, "share": 0.2, "precision": precision, "per_class": COUNTS}
    fixed = scored("zero-shot", 0.5, seed=seed, split="train", params=params, dataset="demo")
    return fixed | {"labels": quality | {"lost_classes": []}}


def few():
    """Labels of two seeds, and a score."""
    return [labels(0.6), labels(0.7, seed=1), scored("zero-shot", 0.7, dataset="demo")]


def write_runs(*evaluations, name="10_a", folder="seed0/fold0"):
    runs = paths.runs_folder("demo", "v")
    made(*evaluations).write(runs / folder / "results" / name)


def test_a_page_of_few_results_has_what_they_give_and_no_more():
    write_runs(few())
    some = publish.of_runs("demo", "v")
    shown = publish.page_of(some)
    assert [section.topic for section in shown.sections] == ["pseudo labels", "comparison"]
    assert "0.650 ± 0.071" in shown.text() and "## Few labels" not in shown.text()
    assert isinstance(shown.outputs("pseudo labels")[1], pd.DataFrame)
    folder = publish.publish_runs("demo", "v")
    linked = set(re.findall(r"\]\((\w+\.png)\)", shown.text()))
    assert {file.name for file in folder.iterdir()} == {*linked, "RESULTS.md"}
    with pytest.raises(ValueError, match="nothing of demo with w was run"):
        publish.of_runs("demo", "w")


def test_the_page_has_intervals_curves_and_the_alarm_where_they_were_measured():
    groups = ("g", "h", "i")
    ours = scored("vlm-cpl", 1.0, variant="ours", groups=groups, labels={"alarms": ["flat"]})
    rows = [*loops(), ours, scored("full-supervision", 1.0)]
    shown = page.build(made([row | {"dataset": "demo"} for row in rows]), {"demo": "Synthetic."})
    assert [section.topic for section in shown.sections] == ["comparison", "active learning"]
    text = shown.text()
    assert "## Alarm" in text and "| all | ours |  | 1 | 0 | 1 | 0 | 0 |" in text
    assert "| flat | ours | 1 | 0 |" in text and "1.000 [1.000, 1.000]" in text


CLEAN = {"commit": "0123", "versions": {"torch": "1"}, "machine": {"processor": "a", "threads": 1}}


@pytest.mark.parametrize(
    ("other", "refused"),
    [
        ({"commit": "0123+"}, "commit them"),
        ({"commit": None}, "commit them"),
        ({"commit": "4567"}, "2 builds"),
        ({"versions": {"torch": "2"}}, "2 builds"),
        ({"machine": {"processor": "b", "threads": 1}}, "2 builds"),
    ],
)
def test_changed_code_and_a_fold_of_several_builds_are_not_published(other, refused, monkeypatch):
    for name, built in (("10_a", CLEAN), ("11_b", CLEAN | other)):
        monkeypatch.setattr(record, "provenance", lambda built=built: dict(built))
        write_runs(labels(0.5) if name == "11_b" else few()[2], name=name)
    with pytest.raises(ValueError, match=refused):
        publish.add_to_record("demo", "v")
    for name, threads in (("10_a", 2), ("11_b", 1)):
        built = CLEAN | {"machine": CLEAN["machine"] | {"threads": threads}}
        monkeypatch.setattr(record, "provenance", lambda built=built: dict(built))
        write_runs(labels(0.5) if name == "11_b" else few()[2], name=name)
    publish.add_to_record("demo", "v")


def test_runs_of_every_fold_and_of_what_no_fold_changes_are_added_to_the_record(monkeypatch):
    varied = {"varied": ["keep_ratio"], "keep_ratio": 0.9}
    monkeypatch.setattr(record, "provenance", lambda: dict(CLEAN))
    for seed in (0, 1):
        write_runs(few()[2] | {"seed": seed}, folder=f"seed{seed}")
        write_runs(labels(0.9, seed, **varied), folder=f"seed{seed}/fold0", name="11_b")
    publish.add_to_record("demo", "v")
    facts = record.published("demo").facts
    assert facts.seed[facts.varied == ""].tolist() == [0, 1]
    assert facts.seed[facts.varied != ""].tolist() == [0], "of what is varied seed 0 alone"
    table = publish.against_record(made(labels(0.8, **varied), labels(0.7)))
    assert table.empty, "the record has no labels of the main keep ratio"
    write_runs(few(), folder="seed0")
    publish.add_to_record("demo", "v")
    table = publish.against_record(made(labels(0.8)))
    assert table.loc["zero-shot, all tiles"].tolist() == [0.8, 0.65]


def test_a_record_that_the_front_page_shows_nothing_of_is_published(monkeypatch):
    monkeypatch.setattr(record, "provenance", lambda: dict(CLEAN))
    write_runs(few())
    publish._publish("record", "demo", "v")
    assert (paths.figures_folder() / "RESULTS.md").is_file()
    assert not list(paths.figures_folder().glob("*.svg"))


def accuracies(some):
    return some.facts.accuracy.round(6).tolist()


def test_published_is_what_was_run_again_and_of_the_rest_what_was_there():
    hue = {"varied": ["hue"], "hue": 0.2}
    kinds = [scored("vlm-cpl", 0.1, params=params) for params in ({}, hue, SHIFTED)]
    merged = publish.merge(made(kinds), made(scored("vlm-cpl", 0.9, params=hue)))
    assert accuracies(merged) == [0.1, 0.1, 0.9]
    assert merged.facts.varied.tolist() == ["", "shift", "hue"]
    seeds = [scored("mvc", 0.1, seed=seed) for seed in (0, 1)]
    assert accuracies(publish.merge(made(seeds), made(scored("mvc", 0.9, seed=1)))) == [0.1, 0.9]
    splits = [scored("mean-of-views", 0.5, split=split) for split in ("train", "test")]
    assert len(publish.merge(made(splits), made(splits[0])).facts) == 2


def test_published_evaluations_lose_no_fold():
    before, again = ([scored("mvc", a, fold=f) for f in (0, 1)] for a in (0.1, 0.9))
    assert accuracies(publish.merge(made(before), made(again))) == [0.9, 0.9]
    with pytest.raises(ValueError, match=r"mvc with seed 0 .* folds \[0, 1\].* lack \[1\]"):
        publish.merge(made(before), made(again[:1]))


@pytest.mark.slow
def test_making_results_needs_no_torch():
    code = "import sys; import figures.publish; print('torch' in sys.modules)"
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, capture_output=True, text=True, cwd=paths.ROOT).stdout == "False\n"


# --- the front page ------------------------------------------------------------------------------


def test_a_cell_without_labels_has_both_scores_and_the_best_other_is_named():
    both = [comparison(elr=0.7, dataset="demo"), comparison(elr=0.9, dataset="demo", seed=1)]
    some = made(*both, comparison(dataset="other"))
    (line,) = front_page.no_labels_table(some).to_dict("records")
    cells = [cell.replace(NO_BREAK, " ") for cell in line.values()]
    best, ours = "0.800 / 0.800 (early-learning regularisation)", "0.900 / 0.900"
    others = ["0.600 / 0.600", best, "0.800 / 0.800", ours, "", "0.990 / 0.990"]
    assert cells == ["demo", *others, "1", "2"] and list(line)[-3] == "all labels"
    three = [scored("opinions", 0.95, seed=seed, variant="ours", dataset="demo") for seed in (0, 1)]
    for rows, shown in ((three, "0.950 / 0.950"), (three[:1], "")):
        (line,) = front_page.no_labels_table(made(*both, rows)).to_dict("records")
        assert line["ours, prompts and clusters"].replace(NO_BREAK, " ") == shown, "of all runs"
    summary = overviews.no_labels_table(some).query("dataset == 'demo'")
    assert summary["VLM-CPL, ours"].tolist() == ["0.900", "0.900"], "of the other table too"


def few_labels():
    fields = {"dataset": "lc25k"}
    return [
        *loop("unisal", "dual-view", [0.4, 0.6, 0.8], **fields),
        *loop("margin", "dual-view", [0.5, 0.5, 0.7], **fields),
        *loop("random", "dual-view", [0.3, 0.3, 0.71], **fields),
        *loop("random", "supervised", [0.3, 0.3, 0.3], **fields),
        full(0.9, **fields),
    ]


def test_few_labels_are_scored_at_the_end_and_on_the_way():
    table = front_page.few_labels_table(made(few_labels())).set_index("score")
    assert table.UniSAL.tolist() == ["0.800", "0.800", "0.600"]
    best = table[f"best other strategy, {ON_TEST}"].str.replace(NO_BREAK, " ")
    assert best.tolist() == ["0.710 (random)", "0.710 (random)", "0.550 (margin)"]
    assert set(table["UniSAL, ours"]) == {"not run"}
    begun = loop("cold-start", OURS[0], [0.85] * 3, dataset="lc25k")
    again = front_page.few_labels_table(made(few_labels(), begun)).set_index("score")
    assert again.equals(table), "a cold start is no other strategy"
    areas = overviews.few_labels_table(made(few_labels())).set_index("dataset")
    assert areas["AULC, UniSAL"].tolist() == [table.UniSAL["AULC"]]


def test_ours_is_beside_others_of_both_trainings_and_folds_are_pooled():
    fields = {"dataset": "lc25k"}
    more = loop(*OURS[::-1], [0.5, 0.7, 0.8], **fields)
    more += loop(*OURS[::-1], [0.5, 0.7, 0.6], fold=1, **fields)
    more += loop("unisal", "dual-view", [0.5, 0.6, 0.7], fold=1, **fields)
    more += loop("margin", OURS[0], [0.5, 0.7, 0.75], **fields)
    table = front_page.few_labels_table(made(few_labels(), more)).set_index("score")
    assert table.loc["accuracy", "UniSAL, ours"] == "0.700"
    best = table[f"best other strategy, {ON_TEST}"].str.replace(NO_BREAK, " ")
    assert best["accuracy"] == "0.750 (margin, dual-view-aligned)"
    probed = [
        loop(s, PROBE, [0.5, 0.6, a], **fields) for s, a in (("random", 0.6), ("margin", 0.8))
    ]
    probed.append(scored("full-probe", 0.95, training=PROBE, budget=500, **fields))
    table = front_page.few_labels_table(made(few_labels(), more, *probed)).set_index("score")
    shown = table.loc["accuracy"].str.replace(NO_BREAK, " ")
    assert shown[f"linear probe, best strategy, {ON_TEST}"] == "0.800 (margin)"
    assert shown[f"best other strategy, {ON_TEST}"] == best["accuracy"]
    assert shown["all labels, networks / probe"] == "0.900 / 0.950"
    with pytest.raises(ValueError, match="several VLMs for lc25k"):
        others = [row | {"vlm": "w"} for row in few_labels()]
        front_page.few_labels_frame(made(few_labels(), others))


def test_the_headline_shows_every_dataset_that_has_all_scores():
    named = list(front_page.NO_LABELS)
    for some in (named[::-1], ["lc25k"]):
        scores = front_page.no_labels_frame(made(*(comparison(dataset=name) for name in some)))
        curves = front_page.few_labels_frame(made(few_labels()))
        left, right = front_page.headline(scores, curves).axes
        shown = [front_page.NO_LABELS[name] for name in named if name in some]
        assert [t.get_text() for t in left.get_yticklabels()] == shown
        low, high = left.get_xlim()
        assert low < 0.6 and high > 1
        assert len([line for line in right.lines if len(line.get_xdata()) == 3]) == 2
    figure = front_page.headline(scores, front_page.few_labels_frame(made()))
    assert len(figure.axes[1].lines) == 0, "without results it is empty and no error"
