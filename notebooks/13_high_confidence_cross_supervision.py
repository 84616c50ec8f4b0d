# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # High-confidence cross supervision (HCS)
#
# The kept tiles $D_l$ have labels that are nearly all right; the others, $D_u$, have none that can be
# trusted. Two networks learn from both: from $D_l$ by cross-entropy, and on $D_u$ each from the
# labels that **the other** is sure of (VLM-CPL, arXiv 2403.15836). For network $A$, partner $B$:
#
# $$\mathcal L_A = \frac1{|D_l|}\sum_{D_l} \mathrm{CE}(p_A, \hat y) + \lambda(t)\,\frac1{|D_u|}\sum_{D_u} \mathbb 1\big[\max_c p_B(c) > \gamma\big]\; \mathrm{CE}\big(p_A, \arg\max_c p_B(c)\big)$$
#
# and the same for $B$; no gradient reaches the partner. A batch is half $D_l$ and half $D_u$, each
# network sees its own view of a tile. The prediction is the mean of the two softmaxes after the last
# step: no label may choose an epoch. The authors' release leaves this step out, and neither γ nor λ
# could be read: 0.95 and 0.5 are our defaults.
#
# - In: `pseudo_labels.parquet`, `view_features.npy`, `unprojected.npy`, `probs.npy`.
# - Out: `hcs/<setting>/network_{a,b}.safetensors`, their curves, `predictions.parquet`, rows `vlm-cpl`.

# %%
import time
from functools import partial

import numpy as np
import pandas as pd
from IPython.display import display

from lib import cards, consensus, inputs, metrics, networks, paths, plots, tiles, training
from lib.losses import HighConfidenceCrossSupervision
from lib.run import atomic, read_rows, row, write_rows

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of the networks, the batches and the views
threshold = 0.95  # γ, confidence above which the partner is believed
weight = 0.5  # λ after the warm-up
n_steps = 1000  # of training

# %%
run = paths.run_folder(dataset, vlm, seed)
card = cards.read_card(dataset)
table = pd.read_parquet(run / "tiles.parquet")
pseudo = pd.read_parquet(run / "pseudo_labels.parquet")
about = read_rows(run / "rows" / "11_multi_view_consensus.jsonl")[0]["params"]
train = table.set_index("tile").loc[pseudo[pseudo.setting == "ours"].tile].reset_index()

# %% [markdown]
# ## Networks and views
#
# *Frozen*: a view of a tile is what the VLM's image encoder made of one of the random views that
# already voted, a network is a small head on those features. Nothing needs a GPU.

# %%
view_file = run / "view_features.npy"
mean, std = networks.feature_statistics(np.load(view_file, mmap_mode="r", allow_pickle=False))
make_network = partial(networks.frozen_head, mean, std, len(card.classes))
draw = inputs.feature_views(view_file, train.tile.values, seed=seed)
read = inputs.plain_features(run / "unprojected.npy")

# %% [markdown]
# ## Training, in both settings
#
# `truth` is looked at for the curve only: how many of the confident labels are right.

# %%
objective = HighConfidenceCrossSupervision(threshold=threshold, weight=weight)
plan = training.Plan(steps=n_steps)
probs, seconds = {}, {}
for setting in consensus.SETTINGS:
    part = pseudo[pseudo.setting == setting]
    labels = np.where(part.kept, part.prompt_label, consensus.NONE)
    data = training.TrainingTiles(part.tile.values, labels, card.class_names, train.label.values)
    started = time.perf_counter()
    both, _ = training.train(objective, make_network, draw, data, plan=plan, seed=seed, folder=run / "hcs" / setting)
    probs[setting] = training.predict(both, read, table.tile.values)
    seconds[setting] = time.perf_counter() - started

# %%
curve = pd.read_parquet(run / "hcs" / "ours" / "curve.parquet")
plots.training_curve(curve, threshold)

# %% [markdown]
# ## Predictions
#
# For every tile, of all parts.

# %%
zero_shot = np.load(run / "probs.npy", allow_pickle=False)
probs = {"zero-shot": zero_shot, **probs}
predictions = table[["tile", "label", "split"]].copy()
for name, p in probs.items():
    predictions[f"{name}_label"], predictions[f"{name}_confidence"] = p.argmax(1), p.max(1)
with atomic(run / "predictions.parquet") as file:
    predictions.to_parquet(file)
assert all(np.allclose(p.sum(1), 1, atol=1e-4) for p in probs.values())

# %%
test = (table.split == "test").values
rows = []
for setting in consensus.SETTINGS:
    used = {"threshold": threshold, "weight": weight, "steps": n_steps, **about, **consensus.SETTINGS[setting]}
    rows.append(row(
        dataset=dataset, vlm=vlm, seed=seed, split="test", n=int(test.sum()), method="vlm-cpl", setting=setting, network="frozen",
        scores=metrics.scores(probs[setting][test], table.label.values[test], card.class_names),
        params=used, device="cpu", seconds=seconds[setting],
    ))
write_rows(run, "13_high_confidence_cross_supervision", rows)
scores = {name: metrics.scores(p[test], table.label.values[test], card.class_names) for name, p in probs.items()}
pd.DataFrame(scores).drop("recall")

# %% [markdown]
# ## Before and after
#
# Test tiles, by prompts alone and by the two networks (our setting).

# %%
for name in ("zero-shot", "ours"):
    of = predictions[test]
    display(plots.confusion(of.label.values, of[f"{name}_label"].values, card.class_names, name))

# %% [markdown]
# The tiles whose prompt label was wrong and is now right, those that went the other way, and those
# that both get wrong.

# %%
about_test = predictions[test].sample(frac=1, random_state=seed)
was, now = (about_test[f"{name}_label"] == about_test.label for name in ("zero-shot", "ours"))
store = tiles.decode_tiles(table, cards.locate(card), dataset, about["image_size"])
decoded = np.load(store, mmap_mode="r", allow_pickle=False)
sheets = {"corrected": ~was & now, "made wrong": was & ~now, "wrong\nbefore and after": ~was & ~now}
plots.tile_sheet({f"{t} ({m.sum()})": decoded[about_test.tile[m].values[:10]] for t, m in sheets.items()})

# %% [markdown]
# ## Calibration
#
# Is a confidence of 0.9 right nine times in ten? On the diagonal it is.

# %%
plots.reliability({name: p[test] for name, p in probs.items()}, table.label.values[test])

# %% [markdown]
# **Recap.** Two networks, no label: `predictions.parquet` says what every tile is, `hcs/` holds the
# classifiers. Next: `40_record` gathers what was measured into tables and figures.
