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
# It writes nothing: `make reproduce` puts the same page beside the runs, `make record` adds them to `data/record`, and
# `make figures` makes all published tables and figures from there.

# %%
import pandas as pd
from IPython.display import display

from figures import publish, results
from lib import paths
from lib.record import read_rows

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folders

# %% [markdown]
# ## Rows
#
# Of all seeds and folds that were run.

# %%
rows = results.rows_of_runs(paths.runs_folder(dataset, vlm))
page = publish.page_of_runs(dataset, vlm)
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
recorded = read_rows(*sorted(paths.record_folder().glob(f"{dataset}.jsonl")))
same = [row for row in recorded if row["vlm"] == vlm]
display(results.against_record(rows, same))

# %% [markdown]
# **Recap.** The tables say what each step is worth. To see why, step through `10_zero_shot_inference` to
# `16_robustness` for no labels, and `20_dual_view_pseudo_training` to `24_unisal_ablations` for few.
