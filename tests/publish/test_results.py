"""The pages that are published: equal to what the record gives, with links that lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import made_up_curves
import numpy as np
import pandas as pd
import pytest

from figures import front_page, results, sections
from figures.card_tables import datasets_table, vlms_table
from lib import consensus, parameters, paths, record
from lib.data import cards
from lib.report import comparison, format
from lib.vlm.cards import describe_vlm

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "data" / "record"


def block(file: Path, name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", file.read_text(), re.S)
    assert found, f"{file.name} has no block {name}"
    return found[1]


@pytest.fixture(scope="module")
def recorded():
    return record.read_rows(*sorted(RECORD.glob("*.jsonl")))


@pytest.fixture(scope="module")
def published(recorded):
    """Rows of the record, of each dataset with its own VLM."""
    vlms = {name: parameters.default_vlm(name) for name in {row["dataset"] for row in recorded}}
    return comparison.of_own_vlm(recorded, vlms)


@pytest.fixture(scope="module")
def page(recorded, published):
    shown = {row["dataset"]: row["vlm"] for row in published}
    about = {n: f"{cards.read_card(n).title}, with {describe_vlm(v)}." for n, v in shown.items()}
    return results.of_record(published, about, recorded, RECORD)


REMEDY = "`make figures` writes it anew"


@pytest.mark.slow
def test_the_page_of_results_is_that_of_the_record(page):
    assert (ROOT / "figures" / "RESULTS.md").read_text() == page.text(), REMEDY


def test_the_tables_of_the_readme_are_those_of_the_record(published):
    for name, table in front_page.tables(published).items():
        assert block(ROOT / "README.md", name) == format.markdown(table), REMEDY


def test_the_tables_of_datasets_and_models_are_those_of_the_cards():
    file = ROOT / "data" / "README.md"
    assert block(file, "datasets") == format.markdown(datasets_table()), REMEDY
    assert block(file, "vlms") == format.markdown(vlms_table()), REMEDY


@pytest.mark.slow
def test_links_of_the_page_lead_to_headings_and_figures(page):
    text = page.text()
    headings = {results.anchor(line.lstrip("# ")) for line in text.splitlines() if line[:1] == "#"}
    links = re.findall(r"\]\(#([^)]+)\)", text)
    assert links and set(links) <= headings
    assert len(headings) == len([line for line in text.splitlines() if line[:1] == "#"])
    figures = re.findall(r"!\[.*?\]\(([^)]+)\)", text)
    assert len(set(figures)) == len(figures) > 0
    for figure in figures:
        assert (ROOT / "figures" / figure).is_file(), REMEDY


@pytest.mark.slow
def test_one_table_has_the_cold_starts_of_all_datasets(page):
    together = page.overviews["From zero labels on"]
    own = {s.dataset: s.tables[0] for s in page.sections if s.topic == "from zero labels on"}
    assert set(together.dataset) == set(own) and len(together) == sum(map(len, own.values()))
    for dataset, lines in together.groupby("dataset"):
        for name in ("begins with", "AULC", "by", "labels for 98%"):
            expected = own[dataset].get(name, pd.Series("", lines.index)).fillna("")
            assert lines[name].fillna("").tolist() == expected.tolist(), (dataset, name)


def test_no_figure_is_left_that_no_page_shows():
    text = (ROOT / "figures" / "RESULTS.md").read_text() + (ROOT / "README.md").read_text()
    for file in (ROOT / "figures").glob("*.png"):
        assert f"({file.name})" in text or f"/{file.name}" in text, f"{file.name} is shown nowhere"


def test_headings_link_as_on_github():
    assert results.anchor("lc25k: active learning (fine-tune)") == "lc25k-active-learning-fine-tune"
    assert results.anchor("Few labels") == "few-labels"


# --- of runs -------------------------------------------------------------------------------------

COUNTS = {"a": {"kept": 6, "right": 5}, "b": {"kept": 2, "right": 2}}


def label_row(method, seed, precision, setting=None, **params):
    labels = {"kept": 8, "share": 0.2, "precision": precision, "per_class": COUNTS}
    return record.row(
        dataset="demo", vlm="v", method=method, setting=setting, seed=seed, split="train",
        params=params, labels=labels | {"lost_classes": []},
    )  # fmt: skip


@pytest.fixture
def few_rows():
    """Labels of two seeds, and a score."""
    rows = [label_row("zero-shot", seed, 0.6 + seed / 10) for seed in (0, 1)]
    for setting, rules in consensus.VARIANTS.items():
        mvc = {name: getattr(rules, name) for name in ("label_rule", "tie_break", "quota")}
        rows += [label_row("mvc", seed, 0.9, setting, keep_ratio=0.2, **mvc) for seed in (0, 1)]
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
    rows.append(record.row(dataset="demo", vlm="v", method="zero-shot", seed=0, split="test",
                           fold=0, n=10, params={}, scores=dict.fromkeys(names, 0.7)))  # fmt: skip
    return rows


def test_a_page_of_few_rows_has_what_they_give_and_no_more(few_rows, tmp_path):
    page = results.of_runs(few_rows, {"demo": "Drawn."}, tmp_path)
    topics = ["pseudo labels", "keep ratio", "kept per class", "comparison"]
    assert [section.topic for section in page.sections] == topics
    assert "0.650 ± 0.071" in page.text() and "## Few labels" not in page.text()
    shown = page.outputs("pseudo labels", "keep ratio")
    assert len(shown) == 5 and isinstance(shown[1], pd.DataFrame)


def test_a_page_is_written_with_its_figures(few_rows, tmp_path):
    page = results.of_runs(few_rows, {"demo": "Drawn."}, tmp_path)
    page.write(tmp_path / "figures")
    linked = set(re.findall(r"\]\((\w+\.png)\)", page.text()))
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {*linked, "RESULTS.md"}


def test_rows_are_those_of_every_fold_and_of_what_no_fold_changes(few_rows, tmp_path):
    for n, folder in enumerate(("seed0", "seed0/fold0", "seed0/fold4", "seed1/fold0")):
        file = tmp_path / folder / "rows" / "10_a.jsonl"
        file.parent.mkdir(parents=True)
        record.write_rows(file, [few_rows[-1] | {"seed": n}])
    assert {row["seed"] for row in results.rows_of_runs(tmp_path)} == {0, 1, 2, 3}


def test_the_page_has_intervals_curves_and_the_alarm_where_they_were_measured(few_rows, tmp_path):
    rows = [*few_rows, *made_up_curves.made_up()]
    rows = [row | {"dataset": "demo"} for row in rows]
    for method, setting in (("vlm-cpl", "ours"), ("full-supervision", None)):
        rows.append(few_rows[-1] | {"method": method, "setting": setting, "network": "frozen"})
        rows[-1]["labels"] = {"alarms": ["flat"]} if setting else None
    folder = tmp_path / "seed0" / "fold0"
    folder.mkdir(parents=True)
    tiles = pd.DataFrame({"tile": range(6), "group": list("aabbcc"), "label": [0, 1] * 3})
    right = tiles.assign(vlm="v", seed=0, fold=0, method="vlm-cpl", setting="ours",
                         network="frozen", right=True)  # fmt: skip
    right.to_parquet(folder / "comparison.parquet")
    page = results.of_runs(rows, {"demo": "Drawn."}, tmp_path)
    topics = [section.topic for section in page.sections]
    assert topics[-2:] == ["comparison", "active learning"]
    text = page.text()
    assert "## Alarm" in text and "| all | ours |  | 1 | 0 | 1 | 0 | 0 |" in text
    assert "| flat | ours | 1 | 0 |" in text and "1.000 [1.000, 1.000]" in text
    page.write(tmp_path / "figures")


def test_every_topic_and_overview_is_explained():
    assert all(
        text.endswith(".") for text in (*sections.TOPICS.values(), *results.OVERVIEWS.values())
    )


def test_runs_are_held_against_the_record(few_rows):
    better = [label_row("zero-shot", 0, 0.8)]
    table = results.against_record(few_rows, better)
    assert table.loc["zero-shot, all tiles"].tolist() == [0.65, 0.8] and len(table) == 1
    assert results.against_record(few_rows, []).empty


def test_what_is_published_replaces_the_rows_and_groups_of_its_own_vlm(few_rows, tmp_path):
    runs = tmp_path / "runs"
    right = pd.DataFrame({"tile": [0, 1], "group": "g", "label": 1, "seed": 0, "fold": 3,
                          "method": "zero-shot", "setting": "", "network": "",
                          "right": [True, False]})  # fmt: skip
    for vlm, factor in (("w", 1), ("v", 1), ("v", 2)):
        (runs / "seed0" / "fold3").mkdir(parents=True, exist_ok=True)
        frame = pd.concat([right.assign(vlm=vlm)] * factor)
        frame.to_parquet(runs / "seed0" / "fold3" / "comparison.parquet")
        results.publish("demo", vlm, [row | {"vlm": vlm} for row in few_rows], runs)
    rows = record.read_rows(paths.record_folder() / "demo.jsonl")
    assert len(rows) == 2 * len(few_rows) and {row["vlm"] for row in rows} == {"v", "w"}
    groups = pd.read_parquet(paths.record_folder() / "demo.groups.parquet")
    assert groups.set_index("vlm").n.to_dict() == {"w": 2, "v": 4}
    assert np.array_equal(sorted(groups.right), [1, 2])
    with pytest.raises(ValueError, match="no rows of demo with v"):
        results.publish("demo", "v", [], runs)


def test_what_is_published_leaves_other_seeds_and_strategies_as_they_are(few_rows, tmp_path):
    for n, (seed, method) in enumerate(
        ((0, "random"), (1, "random"), (0, "margin"), (1, "random"))
    ):
        folder = tmp_path / str(n) / f"seed{seed}" / "fold0"
        folder.mkdir(parents=True)
        pd.DataFrame({"vlm": "v", "seed": seed, "fold": 0, "training": "supervised",
                      "method": method, "network": "frozen", "label": 0, "group": ["g"],
                      "n": 1, "right": n / 4}).to_parquet(folder / "learning.parquet")  # fmt: skip
        results.publish("demo", "v", few_rows, tmp_path / str(n))
    kept = pd.read_parquet(paths.record_folder() / "demo.rounds.parquet")
    found = kept.set_index(["seed", "method"]).right.to_dict()
    assert found == {(0, "random"): 0, (0, "margin"): 0.5, (1, "random"): 0.75}


def test_of_what_is_varied_seed_0_alone_is_published(few_rows, tmp_path):
    varied = [label_row("mvc", seed, 0.9, keep_ratio=0.9, varied=["keep_ratio"]) for seed in (0, 1)]
    results.publish("demo", "v", [*few_rows, *varied], tmp_path)
    rows = record.read_rows(paths.record_folder() / "demo.jsonl")
    assert len(rows) == len(few_rows) + 1
    assert [row["seed"] for row in rows if row["params"].get("varied")] == [0]


@pytest.mark.slow
def test_making_results_needs_no_torch():
    code = "import sys; import figures.publish; print('torch' in sys.modules)"
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, capture_output=True, text=True, cwd=paths.ROOT).stdout == "False\n"
