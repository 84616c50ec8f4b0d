# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Ablations of UniSAL: one rule at a time
#
# UniSAL has two kinds of rules: how to train (threshold $\tau$, weights $w$ and $\beta$, whether networks start
# afresh in each round, whether batches are balanced) and how to choose (DUS, CS, how many tiles per query). Here one
# rule $k$ is varied while all others stay as in `22_active_learning_rounds`. A value $v$ is judged by what it does to
# the area under the learning curve:
#
# $$\Delta_k(v) = \text{AULC}(\theta_k = v) - \text{AULC}(\theta), \qquad \theta = (\text{strategy}, \tau, w, \beta, \text{query share}, \text{restart})$$
#
# In the paper: ablations that could not be read; a comment of the release finds a weight of 0.2 good, 0.5 better, 1
# worse. Ours on EBHI-Seg, one seed, AULC: 0.751 as published, 0.757 with a weight of 1, 0.753 with networks that do not
# start afresh. [What differs](README.md#unisal).
#
# - In: the settings and results of `22_active_learning_rounds`; `tiles.parquet`, `view_features.npy`, `mean_features.npy`.
# - Out: results, marked by what is `varied` in them. The rounds themselves lie in temporary folders.

# %%
from functools import cache, partial

import pandas as pd
from IPython.display import display

from lib import record
from lib.active.loop import ActiveLearningConfig, TableOracle, run_loops
from lib.active.trainings import training_by_name, training_setup
from lib.artefacts import scratch_folder
from lib.data import cards
from lib.learning import setups
from lib.figures import plots
from lib.figures.style import show_table
from lib.report import ablations, active_learning
from lib.report.ablations import UNISAL_GRID, ablation_grid, chosen_rules
from lib.report.active_evaluation import evaluate_loops
from lib.run_folder import open_run
from lib.vlm.cards import describe_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of the first tiles, the networks, the batches and the views
fold = 0  # whose training tiles are the pool
rules = ""  # to vary, by comma; empty: all of lib.report.ablations.UNISAL_GRID

# %%
run = open_run("24_unisal_ablations", globals())
card = cards.read_card(dataset)
train, test = run.split()
print(f"{dataset} with {describe_vlm(vlm)}\n{len(train)} tiles in the pool, {len(test)} to test on")

# %% [markdown]
# ## The rules of this run
#
# Those that `22_active_learning_rounds` ran with.

# %%
names = ("threshold", "cross_weight", "contrast", "query_share", "restart")
own = {"strategy": "unisal", "training": "dual-view", "balance_classes": True}
own |= {name: run.settings[name] for name in names}
pd.Series(own, name="this run").to_frame().T

# %% [markdown]
# ## What is varied
#
# `dus` leaves the compact selector out, `cs` the disagreement set; `unisal-wide` widens a small disagreement set.
# A weight of 0 is training without that term. Without `balance_classes` the labelled half of a batch is drawn as the
# labels come, with every training and three strategies: a balance can help one way to train and harm another. The
# unchanged loop comes first if `22_active_learning_rounds` ran without it.

# %%
grid = list(ablation_grid(own, chosen_rules(UNISAL_GRID, rules)))
before = run.results("22_")
unchanged = active_learning.of_loop(before.facts, (own["training"], own["strategy"])).varied == ""
trials = grid if unchanged.any() else [{**own, "varied": []}, *grid]
varied = pd.Index([", ".join(trial["varied"]) for trial in trials], name="varied")
pd.DataFrame(trials, index=varied).drop(columns="varied")

# %% [markdown]
# ## The loops
#
# A larger query means fewer rounds, so that all loops end with the same number of labels.

# %%
pool, n_rounds = train.tile.values, run.settings["n_rounds"]
make_setup = cache(partial(setups.frozen, run.shared, pool, len(card.classes),
                           steps=run.settings["n_steps"], seed=seed))


# %%
def make_config(trial):
    weights = {name: trial[name] for name in ("threshold", "cross_weight", "contrast")}
    training, share = trial["training"], trial["query_share"]
    return ActiveLearningConfig(
        pool, card.class_names, trial["strategy"], training_by_name(training, **weights),
        training_setup(training, make_setup, balance_classes=trial["balance_classes"]),
        query_size=max(1, round(share * len(pool))), restart=trial["restart"], seed=seed, fold=fold,
        n_rounds=round(n_rounds * own["query_share"] / share), truth=train.label.values,
    )


# %%
oracle, configs = TableOracle(pool, train.label.values), [make_config(trial) for trial in trials]
with scratch_folder() as folder:
    loops = {folder / str(number): config for number, config in enumerate(configs)}
    histories = run_loops(loops, oracle, test.tile.values)

# %%
device = str(configs[0].setup.reader(test.tile.values[:1]).device)
recorded = run.record(evaluate_loops(
    trials, configs, histories, test, card.class_names, network="frozen", device=device
))
print(f"{len(recorded.facts)} evaluations of {len(trials)} loops")

# %% [markdown]
# ## What each rule does
#
# Of this run: the area under the curve and the accuracy at the end against each rule that is a number; dotted is the
# value of this run. A larger query has more labels at the start of its curve, so compare its end.

# %%
frame = active_learning.loops(record.concat([before, recorded])).facts
frame = frame[frame.network == "frozen"]
lines = ablations.ablation_lines(frame, ablations.UNISAL)
if lines:
    display(plots.ablation_curves(lines, f"{dataset}, {vlm}, seed {seed}"))

# %% [markdown]
# A flat line means that the rule hardly matters on these tiles; a peak at the dotted line means that the published
# value fits. With one seed small differences are chance.
#
# ## Parts on and off, and rules one by one
#
# Cross supervision and contrast belong to training, DUS and CS to choosing. Without all four it is supervised
# training on tiles drawn by chance.

# %%
display(*map(show_table, ablations.ablation_tables(frame, ablations.UNISAL)))

# %% [markdown]
# In the first table lines that differ in one part show what this part adds to the others. A line is missing where its
# rule was not varied.

# %% [markdown]
# ## The record
#
# The same for every dataset whose ablations are published: mean over seeds, bands from the lowest to the highest.

# %%
published = active_learning.loops(record.published()).facts
for name, facts in ablations.ablated_datasets(published).items():
    lines = ablations.ablation_lines(facts, ablations.UNISAL)
    if lines:  # not of a dataset whose only ablation is of batches
        display(plots.ablation_curves(lines, name))
    display(*map(show_table, ablations.ablation_tables(facts, ablations.UNISAL)))

# %% [markdown]
# **Recap.** One rule at a time says what each part of UniSAL is worth; nothing here chose the settings of the other
# notebooks. Next: `40_record` shows the tables and figures of all datasets.
