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
# A record holds how often every evaluation was correct, in each group of tiles, and what else is known of it. This
# notebook makes tables and figures of it, and needs neither tiles nor a model. A run trains on all folds but the one that it is tested on, and folds are pooled:
#
# $$\text{accuracy} = \frac{\sum_f \text{correct}_f}{\sum_f n_f}, \qquad \text{balanced accuracy} = \frac{1}{C} \sum_c \frac{\sum_f \text{correct}_{f,c}}{\sum_f n_{f,c}}$$
#
# and averaged over seeds. Intervals are of 95 %, from a bootstrap over seeds, over folds and over the groups in them
# (slides, cases, source tiles); so are differences, with p corrected by Holm over the lines of a table. A method is called not inferior to full supervision if the interval of the difference ends above
# minus a margin that was fixed beforehand.
#
# It writes nothing: `make reproduce` puts the same page beside the runs, `make record` adds them to `data/record`, and
# `make figures` makes all published tables and figures from there.

# %%
from IPython.display import display

from figures import publish
from lib.figures.style import show_table

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folders

# %% [markdown]
# ## The record
#
# Of all seeds and folds that were run.

# %%
recorded = publish.of_runs(dataset, vlm)
page = publish.page_of(recorded)
kinds = recorded.facts.groupby(["dataset", "vlm"])
show_table(kinds.agg(evaluations=("method", "size"), folds=("fold", "nunique"),
                     seeds=("seed", "nunique")))

# %% [markdown]
# ## At a glance
#
# Pooled over the folds that were run. The best other method or strategy is chosen on the test sets. Where VLM-CPL could
# raise an alarm, a table says how often it did and how often that was correct: a run went wrong if it is far below full
# supervision or has lost a class.

# %%
for title, table in page.overviews.items():
    few = table.T if len(table) < 3 else table[table.columns[:8]]
    display(show_table(few, title))

# %% [markdown]
# ## Accuracy of all methods
#
# A point is a run, a bar the value pooled over folds. `14_comparison` explains the methods, for one fold.

# %%
figures = {section.topic: section.figure for section in page.sections if section.figure}
display(*[figures[topic] for topic in ("comparison", "slides") if topic in figures])

# %% [markdown]
# ## Accuracy against labels
#
# From a first query by chance (`22_active_learning_rounds`, `23_unisal_tables`), and from zero labels on
# (`30_cold_start`). What `15_ablations`, `16_robustness` and `24_unisal_ablations` have measured is drawn below, where
# they were run.

# %%
topics = ("active learning", "from zero labels on", "ablations of VLM-CPL", "robustness",
          "ablations of UniSAL")
display(*[figures[topic] for topic in topics if topic in figures])

# %% [markdown]
# ## These runs beside the record
#
# Mean pseudo-label precision of these runs and of the published ones, if the dataset has any with this VLM.

# %%
show_table(publish.against_record(recorded))

# %% [markdown]
# ## All tables
#
# Every number of these runs, with intervals and what each column means, stands in `figures/RESULTS.md` of the run
# folder; `figures/RESULTS.md` of the repository has the published runs of all datasets. The sections of the page:

# %%
print(*[section.heading for section in page.sections], sep="\n")

# %% [markdown]
# **Recap.** The tables say what each step is worth. To see why, step through `10_zero_shot_inference` to
# `16_robustness` for no labels, and `20_dual_view_pseudo_training` to `24_unisal_ablations` for few.
