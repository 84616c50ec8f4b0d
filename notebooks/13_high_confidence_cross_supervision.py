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
# - Out: `hcs/<setting>/network_{a,b}.safetensors`, their curves, `predictions.parquet`, rows `vlm-cpl`
#   (fine-tuned networks: `hcs-fine-tune/`, `predictions-fine-tune.parquet`).

# %%
import time

import numpy as np
import pandas as pd
from IPython.display import display

from lib.data import cards, tiles
from lib import consensus, paths
from lib.report import metrics, plots
from lib.learning import networks, trainer, setups
from lib.learning.losses import HighConfidenceCrossSupervision
from lib.artefacts import atomic
from lib.record import read_rows, row, write_rows

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of the networks, the batches and the views
network = "frozen"  # heads on the VLM's features, or fine-tune: whole networks on pixels
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
# already voted, a network is a small head on those features. Nothing needs a GPU. *Fine-tune*: a view
# is a new one in pixels, a network is a whole ImageNet backbone.

# %%
store = tiles.decode_tiles(table, cards.prepare(card), dataset, about["image_size"])
how = {"n_classes": len(card.classes), "steps": n_steps, "seed": seed}
if network == "frozen":
    way, end = setups.frozen(run, train.tile.values, **how), ""
else:
    way, end = setups.fine_tune(store, about["image_size"], **how), f"-{network}"
print(f"{network}: {setup.plan}")

# %% [markdown]
# ## Training, in both settings
#
# `truth` is looked at for the curve only: how many of the confident labels are right.

# %%
objective = HighConfidenceCrossSupervision(threshold=threshold, weight=weight)
folder = run / f"hcs{end}"
probs, seconds = {}, {}
for setting in consensus.SETTINGS:
    part = pseudo[pseudo.setting == setting]
    labels = np.where(part.kept, part.prompt_label, consensus.UNLABELLED)
    data = trainer.TrainingTiles(part.tile.values, labels, card.class_names, train.label.values)
    started = time.perf_counter()
    both, _ = trainer.train(objective, setup.make_network, setup.sampler, data, plan=setup.plan, seed=seed, folder=folder / setting)
    probs[setting] = networks.predict(both, setup.reader, table.tile.values)
    seconds[setting] = time.perf_counter() - started

# %%
curve = pd.read_parquet(folder / "ours" / "curve.parquet")
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
with atomic(run / f"predictions{end}.parquet") as file:
    predictions.to_parquet(file)
assert all(np.allclose(p.sum(1), 1, atol=1e-4) for p in probs.values())

# %%
test = (table.split == "test").values
used = {"threshold": threshold, "weight": weight, "steps": n_steps, "learning_rate": setup.plan.learning_rate}
used |= {"filters": "mvc+pfc", "share": consensus.PUBLISHED_KEEP_RATIO, "clusters_per_class": 1, "stain_shift": 0.0, **about}
rows = []
for setting, rules in consensus.SETTINGS.items():
    part = pseudo[pseudo.setting == setting]
    rows.append(row(
        dataset=dataset, vlm=vlm, seed=seed, split="test", n=int(test.sum()), method="vlm-cpl", setting=setting, network=network,
        scores=metrics.scores(probs[setting][test], table.label.values[test], card.class_names),
        labels=metrics.label_quality(part.prompt_label.values, part.kept.values, train.label.values, card.class_names),
        params=used | rules, device=str(next(both[0].parameters()).device), seconds=seconds[setting],
    ))
write_rows(run, f"13_high_confidence_cross_supervision{end}", rows)
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
# classifiers. Next: `14_vlm_cpl_tables` asks what each part is worth, and what other methods make of
# the same tiles.
