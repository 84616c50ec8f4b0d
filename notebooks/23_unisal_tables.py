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
# and by the labels that it needs for 95, 98 and 100 % of the accuracy that all labels give. No tile is tested in
# two folds, and a run trains on all folds but its own; scores are pooled over folds and averaged over seeds. The
# "best other" strategies are chosen on the test sets; what our rules were chosen with stands
# [in one place](../CONTRIBUTING.md#what-was-chosen-with-which-labels).
#
# In the paper: UniSAL surpasses several methods of active learning, which could not be read. Ours on LC25000, AULC under
# the same training: 0.941 for UniSAL as published, 0.926 for tiles by chance, 0.941 for the smallest margin.
# [What differs](README.md#unisal).
#
# - In: results of `22_active_learning_rounds`, all folds and seeds; the record.
# - Out: tables and figures, here.

# %%
from IPython.display import display

from lib import record
from figures.overviews import few_labels_table
from figures.publish import of_runs, own_vlms
from lib.figures import active_plots
from lib.figures.style import show_table
from lib.report import active_learning
from lib.vlm.cards import describe_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folders

# %%
loops = active_learning.loops(of_runs(dataset, vlm))
frame = active_learning.rounds(loops.facts)
of_network = {f"{dataset}, {network}": active_learning.heads(loops, network)
              for network in frame.network.unique()}
print(f"{dataset} with {describe_vlm(vlm)}; "
      f"folds: {frame.fold.nunique()}, seeds: {frame.seed.nunique()}")
kinds = frame[frame.varied == ""].groupby(["network", "training", "method"], sort=False)
show_table(kinds[["round", "fold", "seed"]].nunique().add_suffix("s"))

# %% [markdown]
# ## Learning curves
#
# Lines: pooled over folds, mean over seeds. Bands: range over seeds, of UniSAL and of chance, where there are several.

# %%
for title, some in of_network.items():
    display(active_plots.learning_curves(active_learning.rounds(some.facts), title))

# %% [markdown]
# A curve that rises early needs few labels; the dotted line is what all labels give. Whether the difference of two
# curves is more than chance, the table below says.

# %% [markdown]
# ## Tables
#
# "UniSAL is better by": AULC of UniSAL with the training of the line minus that of the line, over the folds and seeds
# that both have; "UniSAL, ours": aligned, half of each query coverage, so that in aligned lines the training is the same. The interval of 95 % and the p come from a
# bootstrap over folds and the groups in them, in which the seeds of a group stay together; p is corrected by Holm over
# the lines of the table, and there is none with a single seed. "Labels for 95%": the budget from which on the curve
# stays at or above that fraction of full supervision, at every later budget too. `figures/RESULTS.md` has the balanced
# accuracy and the other columns.

# %%
columns = ["training", "strategy", "AULC", "UniSAL is better by", "UniSAL, ours, is better by",
           "accuracy", "labels for 95%"]
for title, some in of_network.items():
    display(show_table(active_learning.rounds_table(some), title, columns))

# %% [markdown]
# Compare within a training to judge a strategy, and across trainings to judge what unlabelled tiles are worth.

# %% [markdown]
# ## How often do the networks disagree?
#
# The size of the disagreement set before each query, and how many tiles of a query had to be filled by entropy
# because it was too small.

# %%
show_table(active_learning.disagreement_table(frame))

# %% [markdown]
# The set shrinks from round to round in all trainings, in supervised ones too, where no network teaches the other: more
# labels make both networks agree. Once it is smaller than the query, UniSAL chooses by entropy in part.

# %% [markdown]
# ## All datasets of the record
#
# One line per dataset, heads on frozen features, pooled over folds. The "best other" is that with the largest AULC on
# the test sets, hence chosen on them: no choice that anybody has beforehand.

# %%
show_table(few_labels_table(own_vlms(record.published())))

# %% [markdown]
# ## Where it falls short
#
# Three limits hold by construction. Two heads on the same features soon agree, and a query that the disagreement set
# cannot fill is filled by entropy: DUS and CS are tested by the rest alone. A first query by
# chance can begin without a rare class, and pseudo labels cannot bring it in; typical tiles miss it less often. And whichever strategy the tables show to
# be best was best on these test sets; the defaults were not set by them.

# %% [markdown]
# **Recap.** What training with unlabelled tiles gains and what choosing gains are two things, and the tables tell
# them apart. Next: `24_unisal_ablations` varies one rule at a time; `figures/RESULTS.md` has these tables for every
# dataset of the record.
