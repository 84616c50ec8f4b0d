# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From zero labels on
#
# VLM-CPL ends with two networks that have learnt without a single label. UniSAL, which asks for labels round by round,
# starts from tiles drawn by chance, because it has no network yet that could choose. Here the result of VLM-CPL is the
# start of UniSAL. Two questions: how many labels does it take to get beyond what the VLM gives for nothing? And how
# many labels does this start save, compared with a start by chance?
#
# UniSAL takes over two things from VLM-CPL:
#
# - **The networks choose the first query**: one tile of each compact cluster of the whole pool. The answers show
#   classes that the networks miss, and how often they are correct.
# - **The pseudo labels stay in the training**, those that the filters kept, beside the $n_c$ labels of class $c$ so
#   far. Their weight falls as labels come in: where a batch holds a tile of class $c$, it is one with a pseudo label
#   with the probability
#
# $$ P(\text{pseudo} \mid c) = \frac{m}{m + n_c}, $$
#
# so all pseudo labels of a class together weigh as much as $m$ labels. A pseudo label is dropped once its tile is
# labelled, and all of them are dropped when VLM-CPL is correct too seldom: with a probability below $\tau = 0.7$, which
# is estimated from the labels. If $n$ labels say that it is correct on a share $a$ of the pool, where each label counts
# for the tiles that lie nearest to it, Laplace's rule gives $(1 + n a) / (2 + n)$.
#
# In the papers: nothing, as neither joins the two methods. Results of all datasets:
# [from zero labels on](../figures/RESULTS.md).
#
# - In: features, votes and settings of the notebooks before; the networks of `13_high_confidence_cross_supervision`,
#   the rounds of `22_active_learning_rounds`.
# - Out: `cold_start/` with the networks and rounds of each loop; results.

# %%
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from IPython.display import display
from sklearn.preprocessing import StandardScaler, normalize

from lib.active import cold_start
from lib.active.loop import ActiveLearningConfig, TableOracle, read_rounds, run_loops
from lib.active.trainings import training_by_name, training_setup, voronoi_weights
from lib.consensus import FilterInputs
from lib.data import cards, shifts as tile_shifts
from lib.figures import active_plots
from lib.figures.style import show_table
from lib.labels import UNLABELLED
from lib.learning import networks, setups, trials
from lib.learning.losses import HighConfidenceCrossSupervision, Supervised
from lib.learning.batches import TrainingTiles
from lib.learning.vlm_cpl import read_vlm_cpl, train_vlm_cpl
from lib.report import active_learning
from lib.report.active_evaluation import evaluate_cold_starts, queries_per_class
from lib.run_folder import open_run
from lib.vlm.cards import describe_vlm
from lib.vlm.inference import embed_prompts
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # see load_vlm
seed = 0  # of the networks, the batches and the views
fold = 0  # whose training tiles are the pool
pseudo_counts = 10.0  # m, labels that the pseudo labels of a class weigh as much as
shifts = ""  # of the tiles, by comma, with seed 0; see lib.data.shifts

# %%
run = open_run("30_cold_start", globals())
card = cards.read_card(dataset)
vlm_cpl = run.settings_of("13_high_confidence_cross_supervision")
unisal = run.settings_of("22_active_learning_rounds")
train, test = run.split()
pool, class_names = train.tile.values, card.class_names
training, strategy = active_learning.OURS[0], active_learning.BY_CHANCE  # of UniSAL, ours
print(f"{dataset} with {describe_vlm(vlm)}\n{len(train)} tiles in the pool, {len(test)} to test on")

# %% [markdown]
# ## Shifted tiles
#
# Features and votes of tiles with another stain or blur, as in `16_robustness`: there the prompts err more often, and
# the alarm goes off. Without `shifts` this step is empty.

# %%
names = tile_shifts.parse_list(shifts) if shifts and seed == 0 else []
folders = {"": run.shared}
if names:
    files = [run.pixels_file(shift=name) for name in names]
    model = load_vlm(vlm, seed=seed, precision=vlm_cpl["precision"])
    text = embed_prompts(model, vlm_cpl["prompts"])
    shifted = trials.embed_shifted(model, files, run.shared, text, vlm_cpl, seed=seed)
    folders |= dict(zip(names, shifted, strict=True))

# %% [markdown]
# ## The start
#
# VLM-CPL in our setting: the networks of `13_high_confidence_cross_supervision`, and for shifted tiles others that are
# trained alike. An alarm points at clusters: those to which prompts and lift give different classes, and those of a
# class of which no label was kept. Their tiles are called doubtful.

# %%
make = partial(setups.frozen, tiles=pool, n_classes=len(class_names), seed=seed)
heads = {shift: make(folder, steps=vlm_cpl["n_steps"]) for shift, folder in folders.items()}
inputs = {shift: FilterInputs.load(folder, pool, keep_ratio=vlm_cpl["keep_ratio"], seed=seed)
          for shift, folder in folders.items()}

# %%
kept = run.load("pseudo_labels").query("setting == 'ours'")
trained = {"": read_vlm_cpl(inputs[""], heads[""], class_names, tiles=pool, pseudo=kept,
                            folder=run.file("hcs") / "ours")}
hcs = HighConfidenceCrossSupervision(vlm_cpl["threshold"], vlm_cpl["cross_weight"])
for shift in names:
    trained[shift] = train_vlm_cpl(inputs[shift], heads[shift], class_names, objective=hcs,
                                   tiles=pool, folder=run.file("cold_start") / shift)

# %%
starts, doubtful = {}, {}
for shift, result in trained.items():
    start, doubtful[shift] = cold_start.vlm_cpl_cold_start(inputs[shift], result)
    starts[shift] = replace(start, pseudo_counts=pseudo_counts)
    print(shift or "no shift", *[alarm.text for alarm in result.alarms] or ["no alarm"], sep="\n  ")
    if doubtful[shift] is not None:
        print(f"  doubtful: {doubtful[shift].sum()} of {len(pool)} tiles")

# %% [markdown]
# ## The loops
#
# Networks, steps and queries are those of `22_active_learning_rounds`, in our setting of UniSAL: half of each query
# covers the pool, and the frequencies of the classes come from labels and, as far as they still weigh, from pseudo
# labels. `cold-start` is the start above; a start by chance is read from that notebook, for shifted tiles run here.
# With seed 0 there are variants of the start:
#
# - `cold-start-labels`: VLM-CPL chooses the first query, its pseudo labels are not used.
# - `cold-start-disagreement`: the first query is of compact tiles on which its networks disagree.
# - `cold-start-doubtful`, after an alarm: the first query is of compact doubtful tiles, whose pseudo labels are not
#   used.

# %%
weights = {name: unisal[name] for name in ("threshold", "own_weight", "contrast")}
objective = training_by_name(training, **weights)
query_size = max(1, round(unisal["query_share"] * len(pool)))
setup = {shift: training_setup(training, partial(make, folder, steps=unisal["n_steps"]))
         for shift, folder in folders.items()}

# %%
chosen = {}
for shift, start in starts.items():
    variants = cold_start.variants(start, doubtful[shift])
    names_of_variants = [*variants] if seed == 0 else ["cold-start"]
    chosen |= {(shift, name): variants[name] for name in names_of_variants}
chosen |= {(shift, strategy): None for shift in names}  # by chance

# %%
loops = {
    (shift, name): ActiveLearningConfig(
        pool, class_names, strategy, objective, setup[shift], cold_start=start,
        seed=seed, fold=fold,
        query_size=query_size, n_rounds=unisal["n_rounds"], restart=unisal["restart"],
        truth=train.label.values,
    )
    for (shift, name), start in chosen.items()
}
show_table(pd.DataFrame([*loops], columns=["shift", "start"]))

# %%
oracle, folder = TableOracle(pool, train.label.values), run.file("cold_start")
placed = {folder / (shift or "none") / name: config for (shift, name), config in loops.items()}
histories = dict(zip(loops, run_loops(placed, oracle, test.tile.values), strict=True))

# %%
by_chance = run.file("rounds") / training / strategy  # of the notebook before
if by_chance.is_dir():
    histories["", strategy] = read_rounds(by_chance)

# %% [markdown]
# ## The probability that a pseudo label is used
#
# After the first query of the loop `cold-start`, each label counts for the $w$ tiles of the pool that lie nearest to
# it. By these weights VLM-CPL is correct on the share $a$ of the pool, and the labels say as much as
# $n = (\sum w)^2 / \sum w^2$ equal ones. $P$ is the probability above, or 0 where VLM-CPL is correct too seldom.

# %%
start, labels = starts[""], np.full(len(pool), UNLABELLED)
asked = np.isin(pool, histories["", "cold-start"].queries.query("round == 0").tile)
labels[asked] = train.label[asked]
features = run.load("backbone_features")[pool].astype(np.float32)
refused = np.zeros(len(pool), bool)
learnt, weights = start.training_labels(labels, refused, voronoi_weights(features, labels))

# %% tags=["algorithm"]
x = normalize(StandardScaler().fit_transform(features))
L = np.flatnonzero(labels != UNLABELLED)
w = np.bincount((x @ x[L].T).argmax(1), minlength=len(L))  # tiles that lie nearest to each label
n = w.sum() ** 2 / (w**2).sum()
a = w[start.predicted[L] == labels[L]].sum() / w.sum()
pseudo = np.where(labels == UNLABELLED, start.pseudo_labels, UNLABELLED)
C = len(class_names)
m = pseudo_counts * np.isin(np.arange(C), pseudo)
n_c = np.bincount(labels[L], minlength=C)
P = np.where((1 + n * a) / (2 + n) >= 0.7, m / np.maximum(m + n_c, 1e-9), 0)
all_weights = np.bincount(learnt[learnt >= 0], weights[learnt >= 0], C)
alone = (learnt >= 0) & (learnt == pseudo)
assert np.allclose(P * all_weights, np.bincount(learnt[alone], weights[alone], C))

# %%
print(f"VLM-CPL is correct with a probability of {(1 + n * a) / (2 + n):.2f}")
pd.DataFrame({"labels": n_c, "P(pseudo)": P.round(2)}, class_names)

# %% [markdown]
# ## Lower and upper bound: without a label, and with all
#
# Predictions of VLM-CPL, the point at zero labels; and of the same networks with every tile labelled.

# %%
without_label = {shift: networks.predict(start.networks, setup[shift].reader, test.tile.values)
                 for shift, start in starts.items()}
labelled = TrainingTiles(pool, train.label.values, class_names)
all_labels = {}
for shift in names:  # without a shift it is that of 22
    setup_of_all = make(folders[shift], steps=unisal["full_steps"])
    all_labels[shift] = setups.fit_predict(
        Supervised(), labelled, test.tile.values, setup=setup_of_all, seed=seed
    )

# %%
params = {"query_size": query_size, "input_size": vlm_cpl["input_size"]}
run.record(evaluate_cold_starts(
    histories, without_label, all_labels, test, class_names, params, device=setups.DEVICE
));

# %% [markdown]
# ## How fast it learns
#
# Dashed: VLM-CPL alone. Where a line starts above it, the first labels already mend something.

# %%
loops = active_learning.loops(run.results("22_", "30_"), cold_starts=True)
display(active_plots.cold_start_curves(loops.facts, f"{dataset}, {vlm}, seed {seed}"))
table = active_learning.cold_start_table(loops).set_index(["shift", "begins with"])
show_table(table.filter(regex="^(?!.*balanced|folds|seeds|.*0.02)"))

# %% [markdown]
# A curve may fall below the dashed line at first: the networks start afresh in each round, and a dozen labels of tiles
# that the filters did not keep are fewer than VLM-CPL has learnt from. Without the pseudo labels (`cold-start-labels`),
# or when labels have shown that VLM-CPL is correct too seldom and the pseudo labels were dropped, nothing else holds
# the curve up; it recovers as labels come in. With one fold and one seed small differences are chance;
# `40_record` pools all folds.
#
# ## What is asked first
#
# Shares of the classes in the pool and in all queries.

# %%
shown = {(shift or "no shift", name): history for (shift, name), history in histories.items()}
show_table(queries_per_class(shown, train.label, class_names))

# %% [markdown]
# **Recap.** The result without a label is a start from which labels go on. Next: `31_how_good_is_it` says how far to
# trust it, and `91_label_tiles` asks a person in place of the table.
