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
# VLM-CPL ends with two networks that learnt without a label; UniSAL begins by drawing tiles by chance, as it has no
# network to ask. Here the one is the start of the other. The networks of VLM-CPL choose the first query, by the compact
# selector in the whole pool: its answers find what the networks do not know, and say how often they are right. The
# labels $\hat y$ that the filters kept, $D_l$, teach on beside the $n_c$ labels of class $c$ given so far, with a weight
# that falls as these come in: in a batch, a tile of class $c$ is one of $D_l$ with the chance
#
# $$ P(\text{pseudo} \mid c) = \frac{m}{m + n_c}, $$
#
# so that all pseudo labels of a class weigh as much as $m$ labels. A pseudo label is gone once its tile is labelled. As
# UniSAL's own, they are used while they are right with a chance of at least $\tau = 0.7$: by Laplace's rule this is
# $(1 + n a) / (2 + n)$ if $n$ labels say that VLM-CPL is right on a share $a$ of the pool, each label for the tiles that
# lie nearest to it. How many labels does it take to gain what the VLM could not give, and how many does the VLM save?
#
# - In: features, votes and settings of the notebooks before; the networks of `13_high_confidence_cross_supervision`,
#   the rounds of `22_active_learning_rounds`.
# - Out: `cold_start/` with the networks and rounds of each loop; `learning_cold_start.parquet`; rows.

# %%
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from IPython.display import display
from sklearn.preprocessing import StandardScaler, normalize

from lib.active import cold_start
from lib.active.loop import ActiveLearningConfig, TableOracle, read_rounds, run_rounds
from lib.active.trainings import voronoi_weights, training_by_name, training_setup
from lib.consensus import FilterInputs
from lib.data import cards, shifts as tile_shifts
from lib.figures import active_plots
from lib.labels import UNLABELLED
from lib.learning import networks, setups, trials
from lib.learning.losses import Supervised
from lib.learning.vlm_cpl import read_vlm_cpl, train_vlm_cpl
from lib.learning.trainer import TrainingTiles
from lib.report import active_learning
from lib.report.active_evaluation import evaluate_cold_starts, queries_per_class, right_per_group
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
training, strategy = active_learning.OURS
print(f"{dataset} with {describe_vlm(vlm)}\n{len(train)} tiles in the pool, {len(test)} to test on")

# %% [markdown]
# ## Where the tiles look otherwise
#
# Features and votes of shifted tiles, as in `16_robustness`: there the prompts err more, and the alarm goes off.

# %%
names = tile_shifts.parse_list(shifts) if shifts and seed == 0 else []
files = [run.pixels_file(shift=name) for name in names]
model = load_vlm(vlm, seed=seed)
text = embed_prompts(model, vlm_cpl["prompts"])
shifted = trials.embed_shifted(model, files, run.shared, text, vlm_cpl, seed=seed)
folders = {"": run.shared} | dict(zip(names, shifted, strict=True))

# %% [markdown]
# ## The start
#
# VLM-CPL in our setting: the networks of `13_high_confidence_cross_supervision`, and where tiles are shifted, others
# that are trained alike. Where there is an alarm, it points at clusters: those that prompts and lift call by another
# class, and those of a class of which no label was kept. Their tiles are doubtful.

# %%
place = run.file("cold_start")
make = partial(setups.frozen, tiles=pool, n_classes=len(class_names), seed=seed)
inputs = {shift: FilterInputs.load(folder, pool, keep_ratio=vlm_cpl["keep_ratio"], seed=seed)
          for shift, folder in folders.items()}
heads = {shift: make(folder, steps=vlm_cpl["n_steps"]) for shift, folder in folders.items()}
kept = run.load("pseudo_labels").query("setting == 'ours'")
trained = {"": read_vlm_cpl(inputs[""], heads[""], class_names, tiles=pool, pseudo=kept,
                            folder=run.file("hcs") / "ours")}
trained |= {shift: train_vlm_cpl(inputs[shift], heads[shift], class_names, vlm_cpl, tiles=pool,
                                 folder=place / shift) for shift in names}

# %%
starts, doubtful = {}, {}
for shift, own in trained.items():
    start, doubtful[shift] = cold_start.vlm_cpl_cold_start(inputs[shift], own)
    starts[shift] = replace(start, pseudo_counts=pseudo_counts)

# %%
for shift, own in trained.items():
    print(shift or "no shift", *[alarm.text for alarm in own.alarms] or ["no alarm"], sep="\n  ")
    if doubtful[shift] is not None:
        print(f"  doubtful: {doubtful[shift].sum()} of {len(pool)} tiles")

# %% [markdown]
# ## The loops
#
# With the networks, steps and queries of `22_active_learning_rounds`, in our setting of UniSAL: half of each query
# covers the pool, and training takes the frequencies of the classes from labels and, as far as they still weigh, from
# pseudo labels. The start as above, beside UniSAL's own beginning by chance, which without a shift is read from there.
# With seed 0 also: the first query alone from VLM-CPL, without its labels; a first query of compact tiles on which its
# networks disagree; after an alarm a first query in the doubtful clusters, one tile of each compact part of them, whose
# pseudo labels are not used.

# %%
weights = {name: unisal[name] for name in ("threshold", "cross_weight", "contrast")}
query_size = max(1, round(unisal["query_share"] * len(pool)))
base = {"strategy": strategy, "objective": training_by_name(training, **weights)[0], "seed": seed,
        "query_size": query_size, "truth": train.label.values}
base |= {name: unisal[name] for name in ("n_rounds", "restart")}
setup = {shift: training_setup(training, partial(make, folder, steps=unisal["n_steps"]))
         for shift, folder in folders.items()}

# %%
ways = {shift: cold_start.variants(start, doubtful[shift]) for shift, start in starts.items()}
named = [(shift, name, way) for shift, own in ways.items() for name, way in own.items()
         if seed == 0 or name == "cold-start"] + [(shift, strategy, None) for shift in names]
loops = {(shift, name): ActiveLearningConfig(
             pool, class_names, setup=setup[shift], cold_start=way, **base)
         for shift, name, way in named}
pd.DataFrame([*loops], columns=["shift", "begins with"])

# %%
oracle = TableOracle(pool, train.label.values)
histories = {
    (shift, name): run_rounds(place / (shift or "none") / name, config, oracle, test.tile.values)
    for (shift, name), config in loops.items()
}
by_chance = run.file("rounds") / training / strategy  # of the notebook before
histories |= {("", strategy): read_rounds(by_chance)} if by_chance.is_dir() else {}

# %% [markdown]
# ## How much the pseudo labels still weigh
#
# After the first query of the loop `cold-start`, each label counts for the $w$ tiles of the pool that lie nearest to
# it. By these weights VLM-CPL is right on the share $a$ of the pool, and the labels say as much as
# $n = (\sum w)^2 / \sum w^2$ equal ones. $P$ is the chance above, or 0 where VLM-CPL is right too seldom.

# %%
start, labels = starts[""], np.full(len(pool), UNLABELLED)
asked = histories["", "cold-start"].queries.query("round == 0").tile
labels[np.isin(pool, asked)] = train.label[np.isin(pool, asked)]
features = run.load("backbone_features")[pool].astype(np.float32)
refused = np.zeros(len(pool), bool)
learnt, weights = start.training_labels(labels, refused, voronoi_weights(features, labels))

# %% tags=["algorithm"]
x = normalize(StandardScaler().fit_transform(features))
L = np.flatnonzero(labels != UNLABELLED)
w = np.bincount((x @ x[L].T).argmax(1), minlength=len(L))  # tiles that lie nearest to each label
n, a = w.sum() ** 2 / (w**2).sum(), w[start.predicted[L] == labels[L]].sum() / w.sum()
pseudo = np.where(labels == UNLABELLED, start.pseudo_labels, UNLABELLED)
C = len(class_names)
m, n_c = pseudo_counts * np.isin(np.arange(C), pseudo), np.bincount(labels[L], minlength=C)
P = np.where((1 + n * a) / (2 + n) >= 0.7, m / np.maximum(m + n_c, 1e-9), 0)
both, alone = ((learnt >= 0) & mask for mask in (True, learnt == pseudo))
assert np.allclose(P * np.bincount(learnt[both], weights[both], C),
                   np.bincount(learnt[alone], weights[alone], C))

# %%
pd.DataFrame({"labels": n_c, "P(pseudo)": P}, class_names).T.round(2)

# %% [markdown]
# ## Without a label, and with all
#
# Predictions of VLM-CPL, the point at zero labels; and of the same networks with every tile labelled.

# %%
reader = {shift: own.reader for shift, own in setup.items()}
none = {shift: networks.predict(start.networks, reader[shift], test.tile.values)
        for shift, start in starts.items()}
labelled = TrainingTiles(pool, train.label.values, class_names)
make_full = partial(make, steps=unisal["full_steps"])
given = Supervised(), labelled, test.tile.values
every = {shift: setups.fit_predict(*given, setup=make_full(folder), seed=seed)
         for shift, folder in folders.items() if shift}

# %%
judged = test, class_names, {"query_size": query_size, "input_size": vlm_cpl["input_size"]}
rows = run.record(evaluate_cold_starts(histories, none, every, *judged, device=str(model.device)))
new = {(training, name): history for (shift, name), history in histories.items()
       if not shift and name != strategy}
of_run = {"vlm": vlm, "seed": seed, "fold": fold, "network": "frozen"}
run.save(learning_cold_start=right_per_group(new, test, **of_run))

# %% [markdown]
# ## How fast it learns
#
# Dashed: VLM-CPL alone. Where a line begins above it, the first labels already mend something.

# %%
before = run.rows("22_active_learning_rounds")
curves = active_learning.rounds_frame(before + rows, cold_starts=True)
display(active_plots.cold_start_curves(curves, f"{dataset}, {vlm}, seed {seed}"))
active_learning.cold_start_table(curves)

# %% [markdown]
# With one fold and one seed, small differences are chance; `40_record` pools all folds.
#
# ## What is asked first
#
# Shares of the classes in the pool and in all queries.

# %%
shown = {(shift or "no shift", name): history for (shift, name), history in histories.items()}
queries_per_class(shown, train.label, class_names).round(3)

# %% [markdown]
# **Recap.** The zero-label result is a start that labels go on from. Next: `31_how_good_is_it` says how far to trust
# it, and `91_label_tiles` asks a person in place of the table.
