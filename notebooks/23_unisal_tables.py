# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How many labels are needed?
#
# UniSAL beside other strategies under the same training, and beside plain training. A curve is judged by the area
# under it (AULC), the mean accuracy $a$ between the first and the last budget $b$:
#
# $$\text{AULC} = \frac{1}{b_R - b_1} \sum_{r=1}^{R-1} (b_{r+1} - b_r)\, \frac{a_r + a_{r+1}}{2}$$
#
# and by the labels that it needs for 95, 98 and 100 % of the accuracy that all labels give. All numbers are of the
# test set; nothing is chosen on it.
#
# - In: rows and `learning.parquet` of `22_active_learning_rounds`, all seeds; the record.
# - Out: tables and figures, here; `40_record` writes them.

# %%
from IPython.display import display

from lib import paths
from lib.record import read_rows
from lib.figures import active_plots
from lib.report import active_learning
from lib.vlm.cards import describe_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folders

# %%
runs = paths.runs_folder(dataset, vlm)
frame = active_learning.rounds_frame(read_rows(*sorted(runs.glob("seed*/rows/*.jsonl"))))
groups = active_learning.groups_of_runs(runs)
curves = active_learning.by_network(frame, dataset)
print(f"{dataset} with {describe_vlm(vlm)}; seeds: {frame.seed.nunique()}")
kinds = frame[frame.varied == ()].groupby(["network", "training", "method"], sort=False)
kinds.seed.agg(rounds="size", seeds="nunique")

# %% [markdown]
# ## Learning curves
#
# Lines: mean over seeds. Bands: range over seeds, of UniSAL and of chance.

# %%
for title, lines in curves.items():
    display(active_plots.learning_curves(lines, title))

# %% [markdown]
# A curve that rises early needs few labels; the dotted line is what all labels give. Where the bands of two lines
# overlap, the seed decides which is better, and the table below says whether the difference is more than that.

# %% [markdown]
# ## Tables
#
# "UniSAL is better by": AULC of UniSAL with dual-view training minus that of the line, with the p of a paired
# permutation test over seeds × groups of the test set. "Labels for 95%": of the first round whose mean over seeds
# reaches that fraction of full supervision.

# %%
for title, table in active_learning.rounds_tables(curves, groups):
    display(title, table)

# %% [markdown]
# Compare within a training to judge a strategy, and across trainings to judge what unlabelled tiles are worth.

# %% [markdown]
# ## How often do the networks disagree?
#
# The size of the disagreement set before each query, and how many tiles of a query had to be filled by entropy
# because it was too small.

# %%
active_learning.disagreement_table(frame)

# %% [markdown]
# Networks that teach each other come to agree, so the set shrinks from round to round. Once it is smaller than
# the query, UniSAL chooses by entropy in part.

# %% [markdown]
# ## All datasets of the record
#
# One line per dataset, heads on frozen features, means over seeds.

# %%
recorded = read_rows(*sorted(paths.record_folder().glob("*.jsonl")))
active_learning.summary_table(active_learning.rounds_frame(recorded))

# %% [markdown]
# ## Where it falls short
#
# From the rows of `data/record` with heads on frozen features, five seeds (tables in `figures/RESULTS.md`):
#
# - **Training gains more than choosing.** On `lc25k` and `ebhi` dual-view training lifts the AULC of every strategy
#   (rows with the same `method` and another `training`), and with it the strategies lie closer together than without,
#   mostly within the spread of the seeds.
# - **UniSAL's selector is not the best everywhere.** Among the rows with dual-view training it is above chance and
#   CoreSet on both datasets, but below margin on both, and below entropy and BADGE on `ebhi`. Two heads on the same
#   features that teach each other come to agree (`labels.disagreeing` of the rows `unisal`), and most of a late
#   query is then filled by entropy. Whole networks on pixels (rows with `network` = fine-tune) disagree far more.
# - **`ebhi` is not learnt with a tenth of its labels**: the last rows of `unisal` stay below `full-supervision`. Its
#   rarest class has few tiles in the pool, and a first query by chance can begin without it. More contrast and a
#   widened disagreement set end higher in the ablations (rows with `varied`), but these are scores of the test set, so
#   the published setting stays the default.

# %% [markdown]
# **Recap.** What training with unlabelled tiles gains and what choosing gains are two things, and the tables tell
# them apart. Next: `24_unisal_ablations` varies one rule at a time; `40_record` makes these tables for every dataset
# in the record.
