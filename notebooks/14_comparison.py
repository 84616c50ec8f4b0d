# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Comparison with other methods
#
# Is it the filters that help, or would any method for noisy labels do? Here VLM-CPL stands beside methods
# that learn from all zero-shot labels, beside its own filters with plain training, and beside full
# supervision. Every method gets the same tiles, the same split, the same kind of network and the same
# number of steps, and every trained one predicts by the mean of two networks. What differs is what they
# learn from:
#
# $$\min_\theta \; \frac{1}{|S|} \sum_{i \in S} \ell\big(p_\theta(x_i), \tilde y_i\big)$$
#
# with $S$ the tiles that a method trusts, $\tilde y$ their labels and $\ell$ its loss. No epoch is
# picked: the last step counts, for full supervision too. What our rules were chosen with stands
# [in one place](../CONTRIBUTING.md#what-was-chosen-with-which-labels).
#
# In the paper: the comparison with zero-shot and noisy-label methods; published are 87.1 % (HPH) and 95.1 % (LC25K) of
# VLM-CPL, and which methods stand beside it could not be read. Ours stands row by row in
# [What of each paper stands where](README.md#vlm-cpl).
#
# - In: `tiles.parquet`, `predictions.parquet`, features, votes and settings of the notebooks before.
# - Out: results of the comparison.

# %%
import numpy as np
import pandas as pd

from lib.consensus import FilterInputs
from lib.data import cards
from lib.labels import missing_classes_expected
from lib.learning import baselines, setups, trials
from lib.learning.batches import TrainingTiles
from lib.learning.vlm_cpl import read_vlm_cpl
from lib.learning.source_only import source_only_probabilities
from lib.learning.losses import CoTeaching, EarlyLearningRegularisation, Supervised
from lib.figures import plots
from lib.figures.style import show_table
from lib.report import comparison
from lib.report.trials import evaluate, trials_table
from lib.run_folder import open_run
from lib.vlm.cards import describe_vlm
from lib.vlm.inference import embed_prompts
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # see load_vlm
seed = 0  # of the networks, the batches and the views
fold = 0  # whose test set is predicted
network = "frozen"  # heads on the VLM's features, or fine-tune: whole networks on pixels
only = ""  # methods of the comparison, by comma; empty: all

# %%
run = open_run("14_comparison", globals())
card = cards.read_card(dataset)
train, test = run.split()
print(f"{dataset} with {describe_vlm(vlm)}\n{len(train)} training and {len(test)} test tiles")

# %% [markdown]
# ## One setup for all
#
# The networks, their views and the schedule are those of `13_high_confidence_cross_supervision`, with its number
# of steps.

# %%
options = {"n_classes": len(card.classes), "steps": run.settings["n_steps"], "seed": seed}
if network == "frozen":
    setup = setups.frozen(run.shared, train.tile.values, **options)
else:
    setup = setups.fine_tune(run.pixels_file(), run.settings["input_size"], **options)
assert setup.schedule.learning_rate == run.settings["learning_rate"]
rules = vars(setup.schedule)
print("{steps} steps, {batch_size} tiles a batch, learning rate {learning_rate:g}".format(**rules))

# %% [markdown]
# ## Methods that take noisy labels as they are
#
# They get the zero-shot label of every tile. The *generalised* cross-entropy forgives labels that the network
# finds unlikely; *early-learning regularisation* holds the network to what it believed early on; in
# *Co-teaching* each network learns only what its partner finds easy. It wants to know the share of wrong
# labels, which nobody does, and gets the default of its authors' code. *Confident learning* drops the labels
# that it takes for wrong and learns plainly from the others.

# %%
inputs = FilterInputs.load(
    run.shared, train.tile.values, keep_ratio=run.settings["keep_ratio"], seed=seed
)
features, prompt_labels = inputs.backbone_features, inputs.prompt_labels
suspected = baselines.suspected_labels(features, prompt_labels, train.group.values)
wrong = prompt_labels != train.label.values
print(f"wrong: {wrong.mean():.1%} of the zero-shot labels; suspected: {suspected.mean():.1%}")

# %%
losses = {
    "ce-all": Supervised(),
    "gce": Supervised(q=0.7),
    "elr": EarlyLearningRegularisation(),
    "co-teaching": CoTeaching(),
}
noisy = trials.noisy_label_trials(inputs, losses, suspected)

# %% [markdown]
# ## Filters with plain training
#
# What MVC, PFC and both of them keep, in both settings, learnt from with cross-entropy alone: beside these
# VLM-CPL shows what cross supervision adds. *Top share per class* keeps as many tiles of each predicted class
# as MVC does, but by plain confidence: are the views worth their passes? Full
# supervision, with the true label of every tile, is the reference.

# %%
full = trials.full_supervision(train.label.values)
by_filters = trials.filter_trials(inputs, run.load("pseudo_labels"))
planned = trials.select_trials([*noisy, full, *by_filters], only)
planned_table = trials_table(planned, train.label.values, card.class_names)
columns = ["method", "setting", "labels", "tiles", "pseudo-label precision", "classes without"]
show_table(planned_table, columns=columns)

# %% [markdown]
# Fewer tiles and a higher precision is the trade of the filters; the losses of the first lines try to do
# without it.

# %%
outcomes = trials.run_trials(planned, train, test, card.class_names, setup=setup, seed=seed)
print(f"{len(outcomes)} trainings in {sum(o.seconds for o in outcomes):.0f} s")

# %% [markdown]
# ## Three opinions
#
# The filters keep what prompts, views and clusters agree on: mostly right, but the typical tiles. Two further pairs of
# networks learn from all tiles, one what the prompts say (early-learning regularisation, from above), one what the
# clusters say (Co-teaching, from above). The mean of the three pairs is no part of the paper.

# %%
if network == "frozen" and not only:
    pseudo = run.load("pseudo_labels").query("setting == 'ours'")
    ours = read_vlm_cpl(inputs, setup, card.class_names, tiles=test.tile.values, pseudo=pseudo,
                        folder=run.file("hcs") / "ours")
    outcomes.append(trials.three_opinions(ours.probs, outcomes))

# %% [markdown]
# ## A linear probe
#
# What ten lines give: logistic regression on the mean of the views, with the zero-shot label of every tile, and with the
# true one.

# %%
if network == "frozen":
    probe = setups.linear_probe(run.shared, train.tile.values, len(card.classes))
    for method, labels in {"linear-probe": prompt_labels, "full-probe": train.label.values}.items():
        with missing_classes_expected():
            data = TrainingTiles(train.tile.values, labels, card.class_names)
        probs = setups.fit_predict(Supervised(), data, test.tile.values, setup=probe, seed=seed)
        outcomes.append(trials.Outcome(method, probs))

# %% [markdown]
# ## Without any training
#
# The mean over random views; transduction, in which all tiles, of training and test set, are classified together
# from their features and zero-shot probabilities (TransCLIP, and anchored to the prompts as in StatA); and
# zero-shot with other class shares: features centred, probabilities forced to equal shares or to those of the
# clusters (Sinkhorn), or to the shares that explain them best (EM).

# %%
model = load_vlm(vlm, seed=seed)
text = embed_prompts(model, run.settings["prompts"])
if network == "frozen":
    untrained = trials.untrained_outcomes(model, run.shared, text, inputs, test.tile.values)
    outcomes += untrained

# %% [markdown]
# ## Without the target
#
# A stand-in has learnt from labelled tiles of another dataset. *Source-only supervision* trains the same heads on
# those labels and never sees a tile of the target. Where the source has no class for one of the target's, it is
# left out, with a warning.

# %%
if network == "frozen":
    names_and_settings = card.class_names, run.settings
    source = source_only_probabilities(model, run.shared, *names_and_settings, seed=seed)
    outcomes += [] if source is None else [trials.Outcome("source-only", source[test.tile])]

# %%
run.record(evaluate(
    outcomes, train.label.values, test, card.class_names, network=network, device=str(model.device),
));

# %% [markdown]
# ## The comparison
#
# Of this seed. "Ours is better by" is the accuracy of VLM-CPL in our setting minus that of the line, tested
# over the groups of the test set: tiles of one slide err together, so slides are counted and not tiles.

# %%
measured = run.results("10_", "13_", "14_")
measured = comparison.compared(measured[measured.facts.network.isin(["", network])])
columns = ["method", "setting", "accuracy", "balanced accuracy", "ours is better by"]
show_table(comparison.scores_table(measured), f"fold {fold}, seed {seed}", columns)

# %%
plots.comparison(measured.facts, comparison.COMPARED, f"{dataset}, {vlm}, seed {seed}")

# %% [markdown]
# Between the line of zero-shot and that of full supervision lies what can be gained. Methods for noisy labels
# have to guess which labels are wrong; views and clusters are evidence of it. Full supervision is a reference and
# no bound: a method can pass it by chance, or by learning less of what does not carry over to the test set.
#
# ## Per class
#
# Recall of each class on the test set. An accuracy can hide a class that a filter has lost.

# %%
n, correct = (np.stack(measured.facts[name].tolist()) for name in ("class_n", "class_correct"))
names = [comparison.COMPARED[m] + f", {v}" * bool(v)
         for m, v in measured.facts[["method", "variant"]].itertuples(index=False)]
pd.DataFrame(correct / n, pd.Index(names, name="recall"), card.class_names).round(2)

# %% [markdown]
# ## Where it falls short
#
# One fold and one seed say little; `figures/RESULTS.md` has all of them, with intervals, and counts how often the
# alarm was right. What the method rests on holds by construction:
#
# - What is wrong among the kept labels is learnt: filters that agree on an error let it through.
# - A class that no prompt names keeps no tile, whatever the clusters say; the alarm tells.
# - Pseudo labels favour the classes that the model favours: look at the balanced accuracy where classes are uneven.

# %% [markdown]
# **Recap.** The same networks learn from labels that were chosen in different ways, so the table says what a way
# to choose is worth. Next: `15_ablations` changes one rule of VLM-CPL at a time, and
# `16_robustness` gives it a model that is wrong more often.
