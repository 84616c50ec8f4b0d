# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Prompt-feature consensus (PFC)
#
# Tiles of one class lie close together, whatever the prompts say. K-means with $C$ clusters on the
# image features gives labels of its own, once clusters $k$ are matched to classes by the assignment
# $\pi$ that agrees best with the prompt labels $\hat y$ (VLM-CPL, arXiv 2403.15836):
#
# $$\pi^* = \arg\max_{\pi} \sum_i \mathbb 1[\pi(k_i) = \hat y_i], \qquad \text{keep } i \iff \pi^*(k_i) = \hat y_i$$
#
# In our setting a cluster gets the class that is more probable in it than elsewhere. With $\bar p_c$ the
# mean probability of class $c$, over the views and over tiles:
#
# $$\pi(k) = \arg\max_c \text{lift}_{kc}, \qquad \text{lift}_{kc} = \bar p_c(\text{cluster } k) \,/\, \bar p_c(\text{all tiles})$$
#
# In the paper: part b of the method's figure. The release also has this filter alone, and both filters in the other
# order; no published precision could be read. Ours stands row by row in
# [What of each paper stands where](README.md#vlm-cpl).
#
# - In: `tiles.parquet`, `image_embeds.npy`, `backbone_features.npy`, `probs.npy`, `view_probs.npy`, `kept_by_views.parquet`.
# - Out: `pseudo_labels.parquet` (setting, tile, label, feature_label, vote_entropy, kept_by_views,
#   kept, training_label), results `pfc`, `mvc+pfc` and `pfc+mvc`.

# %%
import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from lib import clusters, consensus
from lib.data import cards
from lib.figures import consensus_plots, step_plots
from lib.figures.style import show_table
from lib.learning.vlm_cpl import raise_alarms
from lib.report import evaluation, pseudo_labels
from lib.run_folder import open_run

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of K-means, random ties and the pictures
fold = 0  # whose training tiles are filtered

# %%
run = open_run("12_prompt_feature_consensus", globals())
card = cards.read_card(dataset)
train, test = run.split()
numbers, labels, n_classes = train.tile.values, train.label.values, len(card.classes)
print(f"fold {fold}: {len(train)} training tiles, {len(test)} to test on, which no filter sees")

# %%
inputs = consensus.FilterInputs.load(
    run.shared, numbers, keep_ratio=run.settings["keep_ratio"], seed=seed
)
prompt_labels, image_embeds = inputs.prompt_labels, inputs.image_embeds
backbone_features, kept_by_views = inputs.backbone_features, run.load("kept_by_views")
kept_by_views = kept_by_views[kept_by_views.fold == fold].reset_index(drop=True)

# %% [markdown]
# ## Which features?
#
# The VLM has two kinds: those that its projection brought into the space of the text, and those before
# the projection. *Published filters* cluster the projected ones. *Ours* clusters those before it:
# the projection was trained to agree with text, so its clusters are hardly a second opinion.

# %%
{"image_embeds": image_embeds.shape, "backbone_features": backbone_features.shape}

# %% [markdown]
# ## Clusters meet classes: published filters
#
# K-means divides the tiles that the views agree on into $C$ clusters $k$. The matrix counts how many tiles of each
# cluster bear each prompt label $\hat y$. Hungarian matching gives every cluster one class so that as many tiles as
# possible agree, and tiles whose cluster has their prompt label are confirmed.

# %%
rules = consensus.VARIANTS["published filters"]
published = kept_by_views["published filters"].values

# %% tags=["algorithm"]
rows, y = np.flatnonzero(published), prompt_labels[published]
points = image_embeds[rows].astype(np.float32)
k = KMeans(n_classes, n_init=10, random_state=seed).fit_predict(points)
agreement = np.zeros((n_classes, n_classes), int)
np.add.at(agreement, (k, y), 1)
_, class_of_cluster = linear_sum_assignment(agreement, maximize=True)
confirmed = rows[class_of_cluster[k] == y]
assert np.array_equal(confirmed, np.flatnonzero(
    consensus.filter_tiles(inputs, rules, kept_by_views=published).kept))

# %%
consensus_plots.cluster_matrix(agreement, class_of_cluster, card.class_names)

# %% [markdown]
# A row is a cluster, a column a prompt label, a number counts tiles. Tiles in a framed cell are kept: prompt and
# cluster say the same. All others are dropped. K-means has never seen a prompt, so where a row has one large number
# two opinions from different evidence agree. But where the views keep few tiles of a class, it has no cluster of its
# own, and the one-to-one matching gives it one that is full of another class: then the class is lost.
#
# ## Clusters meet classes: ours
#
# Three clusters per class, of **all** training tiles. A number is a lift: how many times as probable
# the class is in this cluster as in all tiles. Framed is the highest of each row; a class that is the
# highest nowhere takes the cluster where it is highest itself. No class needs to be as frequent as
# another.

# %%
cluster, lift = inputs.lift_clusters()
sizes = np.bincount(cluster[inputs.candidates], minlength=len(lift))
best = clusters.classes_by_lift(lift)
consensus_plots.cluster_matrix(lift, best, card.class_names, n_tiles=sizes)

# %% [markdown]
# Several clusters of one class are its different looks. A row with one orange cell is sure of its class;
# in a row of pale cells the prompts say little about these tiles.
#
# ## Pseudo labels for training
#
# MVC, then PFC, in both settings. Precision is measured with labels that no filter has seen.

# %%
pseudo = pd.concat([
    consensus.filter_tiles(inputs, rules, kept_by_views=kept_by_views[variant].values)
    .assign(setting=variant)
    for variant, rules in consensus.VARIANTS.items()
], ignore_index=True)
run.save(pseudo_labels=pseudo)
pseudo["right"] = pseudo.label.values == pseudo.tile.map(train.set_index("tile").label)
precision = pseudo[pseudo.kept].groupby("setting").right.mean()
print(precision.round(3).to_string(), f"\nall prompts: {(prompt_labels == labels).mean():.3f}")
assert pseudo.tile.isin(numbers).all() and not (pseudo.kept & ~pseudo.kept_by_views).any()

# %% [markdown]
# ## An alarm that needs no label
#
# A class that keeps no label, clusters of which no class is surer than elsewhere, prompts and clusters
# that contradict each other: each can be seen without a label, and says that the result may be wrong.
# What the prompts say is taken by the label rule of our setting.

# %%
ours = pseudo[pseudo.setting == "ours"].reset_index(drop=True)
alarms = raise_alarms(inputs, ours, card.class_names)
print("\n".join(f"{alarm.name}: {alarm.text}" for alarm in alarms) or "no alarm")

# %% [markdown]
# ## Both filters, alone and in both orders

# %%
evaluations = evaluation.evaluate_filters(inputs, pseudo, labels, card.class_names)
frame = pseudo_labels.pseudo_label_frame(run.record(evaluations).facts)
by_filter = pseudo_labels.consensus_table(frame)
show_table(by_filter.drop(columns=["worst run", "folds", "seeds"]))

# %% [markdown]
# PFC alone keeps many labels, and many wrong ones with them. Both filters together keep fewer; whether more of
# those are right the table says. *Classes lost* are those without a single right label.
#
# ## The clusters in two dimensions
#
# The features that our setting has clustered, of the tiles that the views agree on, flattened by
# t-SNE: only for the eye, no filter uses it.

# %%
shown = ours.kept_by_views.values
chosen = backbone_features[shown]
flat = PCA(min(30, *chosen.shape), random_state=seed).fit_transform(chosen)
points = TSNE(perplexity=min(30, len(flat) / 4), random_state=seed, init="pca").fit_transform(flat)
names = np.array(card.class_names)
prompt, of_cluster = ours[["label", "feature_label"]].values[shown].T
fates = ["prompt and cluster disagree", "agree, correct"]
fates = np.select([prompt != of_cluster, prompt == labels[shown]], fates, "agree, incorrect")
groups = {"true class": names[labels[shown]], "class of the cluster": names[of_cluster],
          "prompt and cluster": fates}
step_plots.feature_maps(dict.fromkeys(groups, points), groups, card.class_names)

# %% [markdown]
# Where the left and the middle picture have the same colour, the cluster's class is the true one. The
# right picture shows what is dropped (grey), and wrong labels that prompts and clusters share (orange):
# these slip through.
#
# ## The tiles themselves
#
# What became of the tiles in our setting. The number of all such tiles is in brackets.

# %%
kept, by_views, right = ours.kept, ours.kept_by_views, ours.right
fates = {"kept, right": kept & right, "kept, wrong": kept & ~right}
fates |= {"dropped by\nclusters": by_views & ~kept, "dropped by\nviews, right": ~by_views & right}
fates |= {"dropped by\nviews, wrong": ~by_views & ~right}
step_plots.mask_sheet(fates, numbers, run.pixels(), seed=seed)

# %% [markdown]
# The filters pay for clean labels with many right ones: the tiles of the fourth row have no label for
# now. The next step can give them one.

# %% [markdown]
# **Recap.** `pseudo_labels.parquet` holds the labels on which views, prompts and clusters agree, and says which
# tiles have none. Next: `13_high_confidence_cross_supervision` learns from both.
