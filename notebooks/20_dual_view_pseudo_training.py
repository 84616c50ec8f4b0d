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
# UniSAL (Medical Image Analysis 102:103542) starts from a few labelled tiles, $D_l$, and many unlabelled ones,
# $D_u$. It trains two networks, $A$ and $B$, on two views of each tile. A batch is half $D_l$ and half $D_u$, and
# the loss of both networks together has three terms:
#
# $$\mathcal L = \underbrace{\mathrm{CE}_A + \mathrm{CE}_B}_{D_l} + w(t)\,\underbrace{\big(\mathcal L_{B \to A} + \mathcal L_{A \to B}\big)}_{D_u,\ \text{labels above } \tau} + \beta\, \mathcal L_{con}$$
#
# The middle one is cross supervision, as in `13_high_confidence_cross_supervision`: each network learns from the
# other's predictions where these are more confident than $\tau$. The last one is the pseudo-label-guided
# class-wise contrastive loss. It pulls the two projections of a tile together and pushes tiles of **different**
# classes apart; tiles of the same class are left alone.
#
# $$\ell_i = -\log \frac{e^{\cos(z^A_i, z^B_i)/T}}{e^{\cos(z^A_i, z^B_i)/T} + \sum_{j:\, y_j \ne y_i} \big[ e^{\cos(z^A_i, z^A_j)/T} + e^{\cos(z^B_i, z^B_j)/T} \big]}$$
#
# Here $y$ is the label, or the pseudo label where both networks are above $\tau$ and agree.
#
# In the paper: the training of UniSAL; its ablations could not be read. Ours on EBHI-Seg, one seed, area under the
# learning curve: 0.751 as published, 0.733 without cross supervision, 0.763 without the contrastive loss.
# [What differs](README.md#unisal).
#
# - In: `tiles.parquet`, `view_features.npy`, `mean_features.npy`.
# - Out: `dual-view/` with both networks and their curve; `labelled.parquet`, the tiles that were labelled.

# %%
import numpy as np
import pandas as pd
import torch
from sklearn.manifold import TSNE
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from lib.data import cards
from lib.labels import UNLABELLED
from lib.learning import losses, networks, samplers, setups
from lib.learning.batches import TrainingTiles
from lib.figures import active_plots, step_plots
from lib.report.evaluation import score_table
from lib.run_folder import open_run
from lib.vlm.cards import describe_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of the labelled tiles, the networks, the batches and the views
fold = 0  # whose training tiles are the pool
label_share = 0.03  # of the pool: drawn by chance and labelled
n_steps = 400  # of training
threshold = 0.7  # confidence above which a pseudo label is used
cross_weight = 0.5  # w, of cross supervision after the warm-up
contrast = 0.1  # β, of the class-wise contrastive loss

# %%
run = open_run("20_dual_view_pseudo_training", globals())
card = cards.read_card(dataset)
train, test = run.split()
print(f"{dataset} with {describe_vlm(vlm)}\n{len(train)} tiles in the pool, {len(test)} to test on")

# %% [markdown]
# ## Which tiles are labelled
#
# They are drawn by chance, so a rare class may get few labels or none. The labels of the other tiles serve
# reports only.

# %%
n_labelled = max(2, round(label_share * len(train)))
drawn = np.random.default_rng(seed).permutation(len(train))[:n_labelled]
labels = np.full(len(train), UNLABELLED)
labels[drawn] = train.label.values[drawn]
run.save(labelled=train.loc[drawn, ["tile", "label"]])
counts = {"pool": train.label, "labelled": train.label[drawn]}
counts = {name: np.bincount(column, minlength=len(card.classes)) for name, column in counts.items()}
pd.DataFrame(counts, index=card.class_names).T

# %% [markdown]
# ## Two views of a tile
#
# Each network sees a view of its own: another crop, turn, flip and colour of the same tile. Below they are shown
# in pixels; heads on frozen features get what the encoder made of such views.

# %%
size = run.settings["input_size"]
pixels_file = run.pixels_file()
shown = train.tile.values[drawn[:10]]
draw = samplers.pixel_views(pixels_file, size, seed=seed)
read = samplers.plain_pixels(pixels_file, size)
pixels = {"tile": read(shown), "seen by A": draw(shown, 0, 0), "seen by B": draw(shown, 1, 0)}
pixels = {name: (each.permute(0, 2, 3, 1) * 255).byte() for name, each in pixels.items()}
step_plots.tile_sheet({name: each.numpy() for name, each in pixels.items()})

# %% [markdown]
# A label stays true under these changes, and so does a pseudo label: what one network recognises in its view, the
# other can learn from its own.

# %% [markdown]
# ## Three trainings
#
# The labels alone; with cross supervision; and with the contrastive term as well, which is UniSAL's. All have
# two networks with a projector, the same start and the same batches. In a deviation from the paper's text the
# labelled half of a batch holds every class equally often.

# %%
objectives = {
    "labels alone": losses.DualViewTraining(threshold, weight=0.0, contrast=0.0),
    "cross supervision": losses.DualViewTraining(threshold, cross_weight, contrast=0.0),
    "dual-view": losses.DualViewTraining(threshold, cross_weight, contrast=contrast),
}

# %%
setup = setups.frozen(run.shared, train.tile.values, len(card.classes), steps=n_steps,
                      seed=seed, projection=128)
data = TrainingTiles(train.tile.values, labels, card.class_names, train.label.values)
folders = {name: run.file("dual-view") / name.replace(" ", "_") for name in objectives}
trainings = [setups.Training(setup, objectives[name], data, seed, folder)
             for name, folder in folders.items()]
done = dict(zip(objectives, setups.train_all(trainings), strict=True))
trained = {name: own.networks for name, own in done.items()}

# %% [markdown]
# ## One batch
#
# The labelled tiles and 64 unlabelled ones, each network on its own view of them: logits [2, B, C] and projections
# $z$ [2, B, P]. The $n$ labelled tiles come first.

# %%
unlabelled = np.random.default_rng(seed).permutation(data.unlabelled)[:64]
rows = np.concatenate([drawn, unlabelled])
batch_tiles = train.tile.values[rows]
y, n = torch.from_numpy(labels[drawn]), n_labelled


# %%
@torch.inference_mode()
def see_batch(pair):
    outputs = [network(setup.sampler(batch_tiles, k, 0)) for k, network in enumerate(pair)]
    return [torch.stack(each) for each in zip(*outputs, strict=True)]


# %% [markdown]
# ## The loss in torch
#
# The equations above, with the published temperature $T = 0.15$. `known` is $y$; `apart` says which pairs of tiles
# have different classes.

# %% tags=["algorithm"]
def dual_view_terms(logits, z, T=0.15):
    supervised = F.cross_entropy(logits[0, :n], y) + F.cross_entropy(logits[1, :n], y)
    (p_a, y_a), (p_b, y_b) = (network.max(1) for network in logits[:, n:].softmax(2))
    b_to_a = (F.cross_entropy(logits[0, n:], y_b, reduction="none") * (p_b > threshold)).mean()
    a_to_b = (F.cross_entropy(logits[1, n:], y_a, reduction="none") * (p_a > threshold)).mean()
    both_sure = (p_a > threshold) & (p_b > threshold) & (y_a == y_b)
    known = torch.cat([y, torch.where(both_sure, y_a, UNLABELLED)])
    apart = (known[:, None] != known) & (known[:, None] != UNLABELLED) & (known != UNLABELLED)
    a, b = F.normalize(z, dim=2)
    same = ((a * b).sum(1) / T).exp()
    others = (((a @ a.T / T).exp() + (b @ b.T / T).exp()) * apart).sum(1)
    contrastive = -(same / (same + others)).log()[apart.any(1)].mean()
    return (supervised, b_to_a + a_to_b, contrastive), known, apart


logits, z = see_batch(trained["dual-view"])
(supervised, cross, contrastive), known, apart = dual_view_terms(logits, z)
loss = supervised + cross_weight * cross + contrast * contrastive
assert torch.allclose(loss, objectives["dual-view"]((logits, z), y, progress=1)[0].sum())

# %% [markdown]
# The three terms, without their weights, before training and after each of the trainings:

# %%
members = {"before training": networks.new_networks(setup.make_network, seed)} | trained
seen = {name: see_batch(pair) for name, pair in members.items()}
terms = {name: dual_view_terms(*outputs)[0] for name, outputs in seen.items()}
columns = ["cross-entropy", "cross supervision", "contrast"]
pd.DataFrame.from_dict(terms, orient="index", columns=columns).astype(float).round(3)

# %% [markdown]
# Cross-entropy falls in every training. The contrastive term falls only where it is part of the loss. Cross
# supervision is small before training because few predictions pass the threshold yet.
#
# ## The mask of the threshold
#
# Each bar is an unlabelled tile of the batch. Only predictions above the dashed line become pseudo labels, for
# the **other** network.

# %%
shown = ("before training", "labels alone", "dual-view")
probs = {name: seen[name][0][:, n:].softmax(2).numpy() for name in shown}
active_plots.threshold_mask(probs, train.label.values[unlabelled], threshold)

# %% [markdown]
# Before training few tiles pass, and those that do are correct by chance alone, which is why $w(t)$ is zero for a
# while. Afterwards most pass. Incorrect ones tend to stand towards the right end, where the networks are less
# confident, and no network learns from the tiles at the very end.

# %% [markdown]
# ## The pairs of the contrastive loss
#
# The same batch as a $B \times B$ picture, sorted by class: which pairs the loss compares, and how alike their
# projections are without and with the contrastive term. On the diagonal stand the two views of each tile.

# %%
cosines = {}
for name in ("cross supervision", "dual-view"):
    a, b = F.normalize(seen[name][1], dim=2)
    cosines[name] = ((a @ a.T + b @ b.T) / 2).fill_diagonal_(0) + torch.diag((a * b).sum(1))

# %%
labelled = labels[rows] != UNLABELLED
cosines = {name: cosine.numpy() for name, cosine in cosines.items()}
active_plots.contrast_pairs(apart.numpy(), known.numpy(), labelled, card.class_names, cosines)

# %% [markdown]
# Blocks on the diagonal are tiles of one class, which are not compared with each other; everything outside the
# blocks is pushed apart. Without the term the two networks have nothing in common on the diagonal. With it the two
# views of a tile agree, and tiles of different classes point in different, even opposite, directions. Tiles of one
# class end up alike although nothing pulls them together.

# %% [markdown]
# ## How many pseudo labels, and how many are correct?

# %%
step_plots.training_curves({name: own.curve for name, own in done.items()}, threshold)

# %% [markdown]
# Most unlabelled tiles pass the threshold soon. Where the networks learn from each other, their loss stays higher,
# because it asks each network to agree with the other on tiles that nobody labelled.

# %% [markdown]
# ## What is gained
#
# On the test set, mean of both networks.

# %%
predicted = {name: networks.predict_members(pair, setup.reader, test.tile.values)
             for name, pair in trained.items()}
score_table({name: probs.mean(0) for name, (probs, _) in predicted.items()}, test)

# %% [markdown]
# ## Projections with and without the contrastive term
#
# Test tiles, mean projection of both networks, laid out by t-SNE and coloured by true class. The number is how
# often the five nearest of the other tiles, which did not vote on themselves, name the true class.

# %%
some = np.random.default_rng(seed).permutation(len(test))[:800]
truth = test.label.values[some]
points = {}
for title, name in (("without contrast", "cross supervision"), ("with contrast", "dual-view")):
    unit = predicted[name][1][some]
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    accuracy = cross_val_score(KNeighborsClassifier(5), unit, truth).mean()
    layout = TSNE(perplexity=min(30, len(some) / 4), random_state=seed)
    points[f"{title}: {accuracy:.3f}"] = layout.fit_transform(unit)

# %%
names = dict.fromkeys(points, np.array(card.class_names)[truth])
step_plots.feature_maps(points, names, card.class_names)

# %% [markdown]
# The classes lie in islands, which touch where two classes look alike. The layout keeps neighbours together but
# not distances; how far apart the contrastive term puts the classes is seen in the cosines above. Where the number
# on the right is the smaller one, the term has moved tiles of unlike classes together as well: it acts on pseudo
# labels, and some of them are incorrect. This is the space in which the next notebook looks for clusters.

# %% [markdown]
# **Recap.** A few labels, and for the rest pseudo labels that two networks give each other. The tiles on which
# the two disagree are worth a question: next is `21_disagreement_and_compact_selection`.
