# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Ablations of VLM-CPL
#
# VLM-CPL has rules that choose labels (which filters, views $V$, keep ratio $\rho$, ties, quota, features and
# clusters) and rules that learn from the rest (threshold $\gamma$, weight $\lambda$). Here one rule $k$ is
# changed while all others stay as they are in this run, and a value $v$ is judged by what it does to the
# accuracy on the test set:
#
# $$\Delta_k(v) = \text{accuracy}(\theta_k = v) - \text{accuracy}(\theta), \qquad \theta = (\text{filters}, V, \rho, \text{ties}, \text{quota}, \text{features}, \text{clusters}, \gamma, \lambda)$$
#
# Nothing is chosen from this: the other notebooks run with the values that they declare.
#
# In the paper: its ablations, which could not be read. Ours stands row by row in
# [What of each paper stands where](README.md#vlm-cpl).
#
# - In: votes, features and settings of the notebooks before; results of `13_high_confidence_cross_supervision` and
#   `14_comparison`, which are the unchanged points.
# - Out: results, marked by what is `varied` in them. About forty trainings, some minutes.

# %%
from functools import partial

import pandas as pd
from IPython.display import display

from lib import record
from lib.consensus import FilterInputs
from lib.data import cards
from lib.learning import setups, trials
from lib.figures import plots
from lib.figures.style import show_table
from lib.report import ablations
from lib.report.ablations import VLM_CPL_GRID, ablation_grid, chosen_rules, our_rules
from lib.report.trials import evaluate, trials_table
from lib.run_folder import open_run
from lib.vlm.cards import describe_vlm
from lib.vlm.inference import embed_prompts, vote
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # see load_vlm
seed = 0  # of the networks, the batches and the views
fold = 0  # whose test set is predicted
rules = ""  # to vary, by comma; empty: all of the method

# %%
run = open_run("15_ablations", globals())
card = cards.read_card(dataset)
train, test = run.split()
print(f"{dataset} with {describe_vlm(vlm)}\n{len(train)} training and {len(test)} test tiles")

# %% [markdown]
# ## The run's own rules
#
# Our setting, with the values that the notebooks before have run with.

# %%
ours = our_rules(run.settings)
pd.Series(ours, name="ours").to_frame().T

# %% [markdown]
# ## What is varied
#
# One rule in each line, with all of its values; each value but our own is a training. Filters are switched off and
# put in the other order; tie rule and quota are varied together, as one makes up for the other.

# %%
varied = chosen_rules(VLM_CPL_GRID, rules)
grid = list(ablation_grid(ours, varied))
print(*varied, f"{len(grid)} trainings", sep="\n")

# %% [markdown]
# ## Votes of fewer and of more views
#
# The number of views changes the vote alone: the networks see the views of the run all the same.

# %%
model = load_vlm(vlm, seed=seed, precision=run.settings["precision"])
text = embed_prompts(model, run.settings["prompts"])
views = {name: run.settings[name] for name in ("hue", "batch_size")}
vote_again = partial(vote, model, run.pixels_file(), train.tile.values, text, seed=seed, **views)

# %%
tile_numbers = train.tile.values
options = {"keep_ratio": run.settings["keep_ratio"], "seed": seed}
inputs, pseudo = FilterInputs.load(run.shared, tile_numbers, **options), run.load("pseudo_labels")
planned = trials.ablation_trials(grid, inputs, pseudo, vote_again)
shown = trials_table(planned, train.label.values, card.class_names)
show_table(shown.drop(columns=["method", "labels", "loss"]))

# %% [markdown]
# Rules of the filters change which labels are kept and how many are right; $\gamma$ and $\lambda$ leave them as
# they are. Without a filter every tile is labelled, and every tile is cross-supervised as well.
#
# ## The trainings

# %%
steps = run.settings["n_steps"]
setup = setups.frozen(run.shared, tile_numbers, len(card.classes), steps=steps, seed=seed)
outcomes = trials.run_trials(planned, train, test, card.class_names, setup=setup, seed=seed)
run.record(evaluate(
    outcomes, train.label.values, test, card.class_names,
    network="frozen", device=str(model.device),
));

# %% [markdown]
# ## What each rule does
#
# Of this run: accuracy and pseudo-label precision against each rule that is a number. Dotted: the run's own value.

# %%
frame = ablations.tested(run.results("13_", "14_", "15_").facts)
lines = ablations.ablation_lines(frame, ablations.VLM_CPL)
if lines:
    display(plots.ablation_curves(lines, f"{dataset}, {vlm}, seed {seed}"))

# %% [markdown]
# A flat line means that the rule hardly matters on these tiles. More labels are rarely more precise, but they may
# show more of a class: the best keep ratio need not be the most precise one. With one seed, small differences are
# chance. Rules act on each other, so changing one at a time does not lead from our setting to the published filters.
#
# ## Parts on and off, and rules that are words
#
# MVC, PFC and cross supervision (HCS) in all eight ways; then ties and quota, the filters and the features that
# are clustered.

# %%
display(*map(show_table, ablations.ablation_tables(frame, ablations.VLM_CPL)))

# %% [markdown]
# ## The record
#
# The same for the datasets whose ablations are published, mean and range over their seeds.

# %%
recorded = ablations.tested(record.published().facts)
for name, published in ablations.ablated_datasets(recorded).items():
    lines = ablations.ablation_lines(published, ablations.VLM_CPL)
    if lines:  # not of a dataset whose only ablation is of the hue
        display(plots.ablation_curves(lines, name))
    display(show_table(ablations.on_off_table(published)))

# %% [markdown]
# Each pair of lines that differ in HCS alone says what cross supervision adds to that filter.

# %% [markdown]
# **Recap.** One rule at a time says where the gain comes from. Next: `16_robustness` asks how wrong the model may
# be.
