# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Dual-view pseudo training: one round, looked into
#
# A few tiles are labelled, $D_l$, the others are not, $D_u$. UniSAL trains two networks on two views of each
# tile. A batch is half $D_l$ and half $D_u$, and the loss of both together has three terms:
#
# $$\mathcal L = \underbrace{\mathrm{CE}_A + \mathrm{CE}_B}_{D_l} + w(t)\,\underbrace{\big(\mathcal L_{B \to A} + \mathcal L_{A \to B}\big)}_{D_u,\ \text{labels above } \tau} + \beta\, \mathcal L_{con}$$
#
# The middle one is cross supervision as in `13_high_confidence_cross_supervision`. The last one is the
# pseudo-label-guided class-wise contrastive loss: the two projections of a tile ought to be alike, and
# unlike those of tiles of **another** class; tiles of the same class are left in peace.
#
# $$\ell_i = -\log \frac{e^{\cos(z^A_i, z^B_i)/T}}{e^{\cos(z^A_i, z^B_i)/T} + \sum_{j:\, y_j \ne y_i} \big[ e^{\cos(z^A_i, z^A_j)/T} + e^{\cos(z^B_i, z^B_j)/T} \big]}$$
#
# with $y$ the label, or the pseudo label where both networks are above $\tau$ and agree.
#
# - In: `tiles.parquet`, `view_features.npy`, `unprojected.npy`.
# - Out: `dual-view/` with both networks, their curve and `labelled.parquet`, the tiles that were labelled.

# %%
import numpy as np
import pandas as pd
import torch
from sklearn.manifold import TSNE
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from lib.data import cards, tiles
from lib.learning import samplers, losses, networks, trainer, setups
from lib.report import metrics, plots, active_plots
from lib import paths
from lib.labels import UNLABELLED
from lib.artefacts import atomic
from lib.record import read_rows

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of the labelled tiles, the networks, the batches and the views
label_share = 0.03  # of the pool: drawn by chance and labelled
round_steps = 400  # of training
tau = 0.7  # confidence above which a pseudo label is used
weight = 0.5  # of cross supervision after the warm-up
contrast = 0.1  # β, of the class-wise contrastive loss

# %%
run = paths.run_folder(dataset, vlm, seed)
card = cards.read_card(dataset)
table = pd.read_parquet(run / "tiles.parquet")
train, test = (table[table.split == split].reset_index(drop=True) for split in ("train", "test"))
about = read_rows(run / "rows" / "11_multi_view_consensus.jsonl")[0]["params"]
store = tiles.decode_tiles(table, cards.prepare(card), dataset, about["image_size"])
print(f"{dataset} with {describe_vlm(vlm)}")

# %% [markdown]
# ## What is labelled
#
# Drawn by chance, so that rare classes get few labels or none. The labels of the rest are looked at for
# reports only.

# %%
drawn = np.random.default_rng(seed).permutation(len(train))[: max(2, round(label_share * len(train)))]
labels = np.full(len(train), UNLABELLED)
labels[drawn] = train.label.values[drawn]
data = trainer.TrainingTiles(train.tile.values, labels, card.class_names, train.label.values)
counts = {"pool": np.bincount(train.label, minlength=len(card.classes)), "labelled": np.bincount(labels[drawn], minlength=len(card.classes))}
pd.DataFrame(counts, index=card.class_names).T

# %% [markdown]
# ## Two views of a tile
#
# What each network might see of the same tiles: a view in pixels; heads on frozen features get what the
# encoder made of such a view.

# %%
draw = samplers.pixel_views(store, about["image_size"], seed=seed)
pictures = {f"seen by {name}": (draw(train.tile.values[drawn[:10]], k, 0).permute(0, 2, 3, 1) * 255).byte().cpu().numpy() for k, name in enumerate("AB")}
plots.tile_sheet(pictures)

# %% [markdown]
# ## Three trainings
#
# The labels alone; with cross supervision; and with the contrastive term as well, which is UniSAL's. All have
# two networks with a projector, the same start and the same batches. In a deviation from the paper's text the
# labelled half of a batch holds every class equally often.

# %%
way = setups.frozen(run, train.tile.values, len(card.classes), steps=round_steps, seed=seed, projection=128)
objectives = {
    "labels alone": losses.DualViewTraining(tau, weight=0.0, contrast=0.0),
    "cross supervision": losses.DualViewTraining(tau, weight, contrast=0.0),
    "dual-view": losses.DualViewTraining(tau, weight, contrast=contrast),
}
folder = run / "dual-view"
trained, curves = {}, {}
for name, objective in objectives.items():
    here = folder if name == "dual-view" else folder / name.replace(" ", "_")
    trained[name], curves[name] = trainer.train(objective, setup.make_network, setup.sampler, data, plan=setup.plan, seed=seed, folder=here)
with atomic(folder / "labelled.parquet") as file:
    train.loc[drawn, ["tile", "label"]].to_parquet(file)

# %% [markdown]
# ## The three terms
#
# On one batch of each half, before and after: every training lowers the term that it minimises, and the
# contrastive one hardly falls by itself.

# %%
batch = np.concatenate([drawn, np.random.default_rng(seed).choice(np.flatnonzero(labels == UNLABELLED), 64)])
given = torch.from_numpy(labels[batch[: len(drawn)]])
terms = {}
for name, both in {"before training": trainer.new_networks(setup.make_network, 2, seed), **trained}.items():
    with torch.inference_mode():
        logits, projections = zip(*(network(setup.sampler(train.tile.values[batch], k, 0)) for k, network in enumerate(both)), strict=True)
    unlabelled = [own[len(drawn) :] for own in logits]
    sure = [losses.confident_labels(own, tau) for own in unlabelled]
    known = torch.cat([given, torch.where(sure[0] == sure[1], sure[0], UNLABELLED)])
    terms[name] = {
        "cross-entropy": sum(torch.nn.functional.cross_entropy(own[: len(drawn)], given).item() for own in logits),
        "cross supervision": sum(losses.cross_supervision(own, other, tau).item() for own, other in (unlabelled, unlabelled[::-1])),
        "contrast": losses.class_contrast(*projections, known).item(),
    }
pd.DataFrame(terms).T.round(3)

# %% [markdown]
# ## How many pseudo labels, and how many are right?

# %%
active_plots.pseudo_label_curves(curves, tau)

# %% [markdown]
# ## What is gained
#
# Test part, mean of both networks.

# %%
seen = {name: networks.predict_members(both, setup.reader, test.tile.values) for name, both in trained.items()}
scored = {name: metrics.scores(probs.mean(0), test.label.values, card.class_names) for name, (probs, _) in seen.items()}
pd.DataFrame(scored).drop("recall").astype(float).round(3)

# %% [markdown]
# ## Projections with and without the contrastive term
#
# Test tiles, mean projection of both networks, laid out by t-SNE and coloured by true class. The number is how
# often the five nearest tiles of the other folds name the right class.

# %%
some = np.random.default_rng(seed).permutation(len(test))[:800]
points = {}
for name in ("cross supervision", "dual-view"):
    unit = seen[name][1][some] / np.linalg.norm(seen[name][1][some], axis=1, keepdims=True)
    by_neighbours = cross_val_score(KNeighborsClassifier(5), unit, test.label.values[some]).mean()
    title = f"{'with' if name == 'dual-view' else 'without'} contrast: {by_neighbours:.3f}"
    points[title] = TSNE(perplexity=min(30, len(some) / 4), random_state=seed).fit_transform(unit)
active_plots.feature_maps(points, test.label.values[some], card.class_names)

# %% [markdown]
# **Recap.** A few labels, and pseudo labels of two networks for the rest. Where the networks disagree they have
# something to ask: next is `21_disagreement_and_compact_selection`.
