# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The record: tables and figures
#
# Every evaluation is one row of JSON. This notebook turns rows into tables and figures, and needs neither tiles
# nor a model. A run trains on all folds but the one that it is tested on, and folds are pooled:
#
# $$\text{accuracy} = \frac{\sum_f \text{right}_f}{\sum_f n_f}, \qquad \text{balanced accuracy} = \frac{1}{C} \sum_c \frac{\sum_f \text{right}_{f,c}}{\sum_f n_{f,c}}$$
#
# and averaged over seeds. Intervals are of 95 %, from a bootstrap over folds and the groups in them (slides, cases,
# source tiles), in which the seeds of a group stay together; so are differences, with p corrected by Holm over the
# lines of a table. A method is called not inferior to full supervision if the interval of the difference ends above
# minus a margin that was fixed beforehand.
#
# | mode | reads | writes |
# |---|---|---|
# | `reproduce` | runs of one dataset and VLM | `RESULTS.md` and figures beside them; compares with the record |
# | `publish` | the same | puts their rows, and what was right in each group, into `data/record`; then as `figures` |
# | `figures` | `data/record` | `figures/`, the tables of `README.md` and `data/README.md` |

# %%
import pandas as pd
from IPython.display import display

from lib import parameters, paths
from lib.data import cards, datasets
from lib.record import read_rows
from lib.figures import front_page, results
from lib.report import comparison
from lib.vlm.cards import describe_vlm, vlms_table

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards; all of the record in mode figures
vlm = "stand-in-demo_other_lab"  # names the run folders
mode = "reproduce"  # reproduce, publish or figures

# %% [markdown]
# ## Rows
#
# Of the runs, or of the record. There each dataset is shown with the VLM that its parameters name; others have a
# table of their own.

# %%
assert mode in ("reproduce", "publish", "figures"), f"unknown mode {mode!r}"
runs = paths.runs_folder(dataset, vlm)
of_runs = results.rows_of_runs(runs)
if mode == "publish":
    results.publish(dataset, vlm, of_runs, runs)
recorded = read_rows(*sorted(paths.record_folder().glob("*.jsonl")))

# %%
own_vlms = {name: parameters.default_vlm(name) for name in {row["dataset"] for row in recorded}}
published = comparison.of_own_vlm(recorded, own_vlms)
rows = of_runs if mode == "reproduce" else published
assert rows, "there are no rows: run `make reproduce` first"
shown = {row["dataset"]: row["vlm"] for row in rows}
about = {n: f"{cards.read_card(n).title}, with {describe_vlm(v)}." for n, v in shown.items()}

# %%
if mode == "reproduce":
    page = results.of_runs(rows, about, runs)
else:
    page = results.of_record(rows, about, recorded, paths.record_folder())
kinds = pd.DataFrame(rows).groupby(["dataset", "vlm"])
kinds.agg(rows=("method", "size"), folds=("fold", "nunique"), seeds=("seed", "nunique"))

# %% [markdown]
# ## At a glance
#
# The best other method or strategy is chosen on the test sets. Where VLM-CPL could raise an alarm, a table says how
# often it did and how often it was right: a run went wrong if it is far below full supervision or has lost a class.

# %%
display(*page.overviews.values())

# %% [markdown]
# ## How right are the labels that are kept?
#
# The filters see no label; labels only judge them.

# %%
display(*page.outputs("pseudo labels"))

# %% [markdown]
# A filter is worth as much as the precision that it adds and the classes that it leaves; both stand in the table.
#
# ## How many to keep, and does every class survive?

# %%
display(*page.outputs("keep ratio", "kept per class"))

# %% [markdown]
# A filter can be precise because it keeps a single class: look at both figures.
#
# ## How good are the classifiers?

# %%
display(*page.outputs("comparison"))

# %% [markdown]
# What `15_ablations` and `16_robustness` have measured, where they were run:

# %%
display(*page.outputs("ablations of VLM-CPL", "robustness"))

# %% [markdown]
# ## Whole slides
#
# Where `17_open_set_prompting_slides` was run.

# %%
display(*page.outputs("slides"))

# %% [markdown]
# ## How many labels are needed?
#
# Active learning, where `22_active_learning_rounds` was run; `23_unisal_tables` explains the columns, and
# `24_unisal_ablations` has the ablations.

# %%
display(*page.outputs("active learning", "ablations of UniSAL", "from zero labels on"))

# %% [markdown]
# ## How good is it, without a test set?
#
# Audits of a few labels and estimates without any against the true accuracy, and what the last rounds changed, where
# `31_how_good_is_it` was run.

# %%
display(*page.outputs("How good is it?"))

# %% [markdown]
# ## These runs beside the record
#
# Mean pseudo-label precision of these runs and of the published ones, if the dataset has any with this VLM.

# %%
same = [row for row in recorded if (row["dataset"], row["vlm"]) == (dataset, vlm)]
if mode == "reproduce":
    display(results.against_record(of_runs, same))

# %% [markdown]
# ## Written

# %%
folder = runs / "figures" if mode == "reproduce" else paths.figures_folder()
page.write(folder)
print(f"figures and tables: {folder}")

# %%
if mode != "reproduce":
    front_page.write(rows, folder)
    root = paths.output_root()
    of_cards = {"datasets": datasets.datasets_table(), "vlms": vlms_table()}
    front_page.write_blocks(root / "README.md", front_page.tables(rows))
    front_page.write_blocks(root / "data" / "README.md", of_cards)

# %% [markdown]
# **Recap.** The tables say what each step is worth. To see why, step through `10_zero_shot_inference` to
# `16_robustness` for no labels, and `20_dual_view_pseudo_training` to `24_unisal_ablations` for few.
