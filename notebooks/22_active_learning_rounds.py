# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # History: label a few, train, choose the next few
#
# UniSAL from its first labels to a tenth of the pool, beside other strategies and beside plain training.
# With labelled tiles $L_r$ and unlabelled ones $U_r$ after round $r$:
#
# $$A_r, B_r = \text{train}(L_r, U_r), \qquad Q_{r+1} = \text{select}(A_r, B_r, U_r), \qquad L_{r+1} = L_r \cup \{(x, \text{oracle}(x)) : x \in Q_{r+1}\}$$
#
# The first tiles are drawn by chance. No label is seen but the oracle's, no tile is asked for twice, and no
# tile of the test set is ever asked for. Every round is on disk before the next begins: a loop that
# was cut off continues, with the same queries.
#
# - In: `tiles.parquet`, `view_features.npy`, `unprojected.npy`.
# - Out: `rounds/<training>/<strategy>/` with `round<r>.parquet` (tiles asked, in order, and answers),
#   predictions of every round and the last networks; `learning.parquet`; rows.

# %%
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from lib.data import cards, tiles
from lib.report import metrics, plots, active_plots, active_learning
from lib import paths
from lib.learning import setups
from lib.report.ablations import UNISAL_GRID, ablation_grid
from lib.learning.losses import DualViewTraining, Supervised
from lib.active.loop import ActiveLearningConfig, TableOracle, run_rounds
from lib.artefacts import atomic
from lib.record import read_rows, row, write_rows
from lib.learning.trainer import TrainingTiles

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of the first tiles, the networks, the batches and the views
network = "frozen"  # heads on the VLM's features, or fine-tune: whole networks on pixels
fine_tune_size = 64  # input of whole networks in pixels; the papers' 224 want a GPU
trainings = "dual-view,supervised"  # how to train, by comma
strategies = "unisal,random"  # how to choose, by comma; see lib/strategies.py
n_rounds = 10  # of training; one fewer of choosing
query_share = 0.01  # of the pool, asked for before each round
round_steps = 400  # of training in each round
n_steps = 1000  # of training with all labels
tau = 0.7  # confidence above which a pseudo label is used
weight = 0.5  # of cross supervision after the warm-up
contrast = 0.1  # β, of the class-wise contrastive loss
restart = True  # networks start afresh in each round
ablations = False  # whether to run UniSAL's ablations instead

# %%
run = paths.run_folder(dataset, vlm, seed)
card = cards.read_card(dataset)
table = pd.read_parquet(run / "tiles.parquet")
train, test = (table[table.split == split].reset_index(drop=True) for split in ("train", "test"))
about = read_rows(run / "rows" / "11_multi_view_consensus.jsonl")[0]["params"]
oracle = TableOracle(train.tile.values, train.label.values)
end = "" if network == "frozen" else f"-{network}"
size = about["image_size"] if network == "frozen" else fine_tune_size
store = tiles.decode_tiles(table, cards.prepare(card), dataset, size)
how = {"n_classes": len(card.classes), "seed": seed}
make = partial(setups.frozen, run, train.tile.values, **how) if network == "frozen" else partial(setups.fine_tune, store, size, **how)
way = {"dual-view": make(steps=round_steps, projection=128), "supervised": make(steps=round_steps)}
print(f"{dataset} with {describe_vlm(vlm)}\n{len(train)} tiles in the pool; {network}: {way['dual-view'].plan}")

# %% [markdown]
# ## Training and choosing
#
# The same networks, steps and first tiles for every strategy. *Supervised*: the labelled tiles alone.
# *Dual-view*: UniSAL's training, which `20_dual_view_pseudo_training` looks into. Both have two networks
# and predict by their mean, so that what training gains and what choosing gains are seen apart.

# %%
ours = {"strategy": "unisal", "training": "dual-view", "tau": tau, "weight": weight, "contrast": contrast, "query_share": query_share, "restart": restart}
main = [ours | {"training": t, "strategy": s} for t, s in product(trainings.split(","), strategies.split(","))]
courses = []
for rules in ablation_grid(ours, UNISAL_GRID) if ablations else main:
    assert rules["training"] in way, f"unknown training {rules['training']!r}; there are {', '.join(way)}"
    dual = rules["training"] == "dual-view"
    objective = DualViewTraining(rules["tau"], rules["weight"], contrast=rules["contrast"]) if dual else Supervised()
    course = ActiveLearningConfig(
        train.tile.values, card.class_names, rules["strategy"], objective, way[rules["training"]],
        query_size=max(1, round(rules["query_share"] * len(train))), n_rounds=round(n_rounds * query_share / rules["query_share"]),
        seed=seed, restart=rules["restart"], truth=train.label.values,
    )  # fmt: skip
    courses.append((rules, course))

# %%
found = []
for rules, course in courses:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if ablations else run / f"rounds{end}" / rules["training"]
        found.append(run_rounds(folder / rules["strategy"], course, oracle, test.tile.values))
    scored = metrics.scores(found[-1].probs[-1], test.label.values, card.class_names)
    print(f"{rules}: {found[-1].about.labelled.iloc[-1]} labels, accuracy {scored['accuracy']:.3f}")

# %% [markdown]
# ## With all labels
#
# What the curves are held against: the same networks, trained longer, with every tile of the pool labelled.

# %%
new_row = partial(row, dataset=dataset, vlm=vlm, seed=seed, network=network, split="test", n=len(test), device=str(way["supervised"].read(test.tile.values[:1]).device))
scores = partial(metrics.scores, labels=test.label.values, class_names=card.class_names)
used = {"image_size": size, "n_views": about["n_views"], "query_size": courses[0][1].query_size, "restart": restart}
rows = []
if not ablations:
    started = time.perf_counter()
    every = TrainingTiles(train.tile.values, train.label.values, card.class_names)
    full = setups.fit_predict(Supervised(), every, test.tile.values, way=make(steps=n_steps), seed=seed)
    rows.append(new_row(method="full-supervision", training="supervised", budget=len(train), scores=scores(full), params=used | {"steps": n_steps}, seconds=time.perf_counter() - started))

# %%
for (rules, course), of in zip(courses, found, strict=True):
    params = used | rules | {"query_size": course.query_size, "steps": round_steps, "objective": repr(course.objective)}
    for r, line in of.about.astype(object).where(of.about.notna(), None).iterrows():
        asked = of.asked[of.asked["round"] <= r]
        labels = {"round": r, "labelled": line.labelled, "per_class": {name: int((asked.label == c).sum()) for c, name in enumerate(card.class_names)}}
        labels |= {name: line[name] for name in ("confident", "precision", "disagreeing", "filled")}
        seconds = line.training_seconds + line.selection_seconds
        rows.append(new_row(method=rules["strategy"], training=rules["training"], budget=line.labelled, scores=scores(of.probs[r]), labels=labels, params=params, seconds=seconds))
write_rows(run, f"22_active_learning_rounds{end}{'-ablations' if ablations else ''}", rows)

# %% [markdown]
# Right predictions per group of the test set, averaged over the curve: what the paired tests compare.

# %%
if not ablations:
    parts = [test[["group"]].assign(vlm=vlm, seed=seed, training=rules["training"], method=rules["strategy"], network=network, n=1, right=active_learning.curve_weights(of.about.labelled) @ (of.probs.argmax(2) == test.label.values)) for (rules, _), of in zip(courses, found, strict=True)]
    with atomic(run / f"learning{end}.parquet") as file:
        pd.concat(parts).groupby(active_learning.GROUP_COLUMNS[:-2]).sum().reset_index().to_parquet(file)

# %% [markdown]
# ## How fast it learns

# %%
of_run = active_learning.rounds_frame(read_rows(*sorted((run / "rows").glob("22*.jsonl"))))
curves = of_run[(of_run.varied == ()) & (of_run.network == network)]
if len(curves):
    display(active_plots.learning_curves(curves, f"{dataset}, {vlm}, seed {seed}"))
    display(active_learning.rounds_table(curves))

# %% [markdown]
# ## What was asked for
#
# The first and the last query of each strategy, and how the classes of the pool are shared out.

# %%
decoded = np.load(store, mmap_mode="r", allow_pickle=False)
sheets = {}
for (rules, course), of in zip(courses[:6], found, strict=False):
    for r in sorted({1, course.n_rounds - 1} & set(of.asked["round"])):
        sheets[f"{rules['training']}\n{rules['strategy']}, round {r}"] = decoded[of.asked.tile[of.asked["round"] == r].values[:10]]
display(plots.tile_sheet(sheets))
shares = {f"{rules['training']}, {rules['strategy']}": of.asked.label.value_counts(normalize=True) for rules, of in zip([r for r, _ in courses], found, strict=True)}
shares = pd.DataFrame({"pool": train.label.value_counts(normalize=True)} | shares).fillna(0).sort_index()
shares.set_axis(card.class_names, axis=0).T.round(3)

# %% [markdown]
# **Recap.** `rounds/` says who was asked for, in which order and with which answer. Next: `23_unisal_tables`
# compares over seeds and shows the ablations.
