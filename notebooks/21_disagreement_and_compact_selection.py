# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Disagreement and compactness: which tiles to query
#
# Two networks have learnt from the same labels, so a tile on which they disagree is one that these labels do
# not decide. UniSAL queries from that **disagreement set** $D$ (disagreement-aware uncertainty selector, DUS), and
# of tiles that look alike only one (compact selector, CS). With $q$ tiles to query and $z$ the mean projection:
#
# $$D = \{i \in U : \arg\max p_A(x_i) \ne \arg\max p_B(x_i)\}, \qquad \mu_1 \dots \mu_q = \text{K-means}(z_D), \qquad Q = \{\arg\min_{i \in D_k} \lVert z_i - \mu_k \rVert\}_{k=1}^q$$
#
# If no more than $q$ tiles disagree, all of them are taken, and the rest by the highest entropy of the mean
# prediction.
#
# In the paper: both selectors; its ablations could not be read. Ours on EBHI-Seg, one seed, area under the learning
# curve: 0.751 with both, 0.741 without compactness, 0.741 without disagreement. [What differs](README.md#unisal).
#
# - In: `dual-view/` and `labelled.parquet` of `20_dual_view_pseudo_training`.
# - Out: nothing; `22_active_learning_rounds` makes such a selection in every round.

# %%
import numpy as np
import pandas as pd
from scipy.stats import entropy
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics.pairwise import cosine_distances

from lib.active import strategies
from lib.data import cards
from lib.labels import UNLABELLED
from lib.learning import networks, setups
from lib.figures import active_plots, step_plots
from lib.run_folder import open_run
from lib.vlm.cards import describe_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of the clusters and of chance
fold = 0  # whose training tiles are the pool
query_share = 0.01  # of the pool, for one query
compared = "unisal,entropy,random"  # strategies, by comma; see lib/active/strategies.py

# %%
run = open_run("21_disagreement_and_compact_selection", globals())
card, labelled = cards.read_card(dataset), run.load("labelled")
train, _ = run.split()
unlabelled = ~train.tile.isin(labelled.tile).values
query_size = max(2, round(query_share * len(train)))
print(f"{dataset} with {describe_vlm(vlm)}: {len(labelled)} of {len(train)} tiles are labelled, "
      f"{query_size} are queried")

# %% [markdown]
# ## What a strategy may look at
#
# The predictions of both networks, the mean of their projections, and which tiles are labelled: a `Pool`.

# %%
setup = setups.frozen(run.shared, train.tile.values, len(card.classes), steps=1, seed=seed,
                      projection=128)
pair = setups.load_networks(setup, run.file("dual-view") / "dual-view")
probs, features = networks.predict_members(pair, setup.reader, train.tile.values)
labels = np.where(unlabelled, UNLABELLED, train.label)
pool = strategies.Pool(probs, features, labels, unlabelled)
print(f"probabilities {probs.shape}, features {features.shape}")

# %% [markdown]
# ## The query in numpy and scikit-learn
#
# K-means divides the disagreement set $D$ into a cluster for each tile to query, and the tile nearest to each centre
# is queried. Where $D$ is no larger than the query, all of it is taken, with the most uncertain other tiles.

# %% tags=["algorithm"]
A, B = probs
disagree = unlabelled & (A.argmax(1) != B.argmax(1))
uncertain = entropy(probs.mean(0, dtype=float), axis=1)
D = np.flatnonzero(disagree)
Q = np.lexsort((-uncertain, ~disagree, ~unlabelled))[:query_size]
if len(D) > query_size:
    kmeans = KMeans(query_size, n_init=1, random_state=seed).fit(features[D])
    distance = ((features[D] - kmeans.cluster_centers_[kmeans.labels_]) ** 2).sum(1)
    Q = [D[np.where(kmeans.labels_ == k, distance, np.inf).argmin()] for k in range(query_size)]
assert np.array_equal(np.sort(Q), np.sort(strategies.unisal(pool, query_size, seed).rows))

# %% [markdown]
# ## The disagreement set
#
# How many tiles it holds, and how often the mean prediction is incorrect there. The labels of unlabelled tiles
# serve this report only.

# %%
correct = probs.mean(0).argmax(1) == train.label.values
networks_say = np.where(disagree, "disagree", "agree")
described = pd.DataFrame({"networks": networks_say, "incorrect": ~correct, "entropy": uncertain})
described[unlabelled].groupby("networks").agg(
    tiles=("incorrect", "size"), incorrect=("incorrect", "mean"), entropy=("entropy", "mean")
).round(3)

# %% [markdown]
# The set is a small part of the pool, and the networks are wrong far more often inside it than outside. This is
# why a label is worth more there. Between which classes are they torn?

# %%
says_a, says_b = np.array(card.class_names)[probs.argmax(2)[:, disagree]]
pd.crosstab(pd.Series(says_a, name="A predicts"), pd.Series(says_b, name="B predicts"))

# %% [markdown]
# ## The clusters
#
# K-means groups the disagreement set into as many clusters as tiles are to be queried, and of each cluster the
# tile nearest to the centre is queried. So that clusters of several tiles are seen, they are computed here for a
# query that is no larger than a quarter of the set.

# %%
n_clusters = max(1, min(query_size, len(D) // 4))
members = strategies.cluster_members(features[D], n_clusters, seed)
print(f"{len(D)} tiles in the disagreement set; {len(members)} clusters")

# %% [markdown]
# The disagreement set alone, by the two main directions of its projections:

# %%
cluster = np.empty(len(D), int)
for k, tiles_of_cluster in enumerate(members):
    cluster[tiles_of_cluster] = k
nearest = np.array([tiles_of_cluster[0] for tiles_of_cluster in members], int)
plane = PCA(2).fit_transform(features[D]) if len(D) > 1 else np.zeros((len(D), 2))
active_plots.disagreement_clusters(plane, cluster, nearest)

# %% [markdown]
# Lines lead from each tile to the one that is queried in its place (rings). A second label from the same cluster
# would tell less than one from another.

# %% [markdown]
# ## The same clusters as tiles
#
# Framed the tile that is queried, beside it tiles that it stands for; at most five clusters, with their true
# classes.

# %%
decoded = run.pixels()[train.tile.values]
names = np.array(card.class_names)[train.label.values]
sheet = {}
for k, tiles_of_cluster in enumerate(members[:5], 1):
    classes = sorted(set(names[D[tiles_of_cluster]]))
    sheet[f"{k}. " + " or\n".join(classes)] = decoded[D[tiles_of_cluster[:10]]]
step_plots.tile_sheet(sheet, frame_first=True)

# %% [markdown]
# Tiles of a cluster have something in common that the networks read differently, often two tissues in one tile or a
# blurred one. One answer tells something about all of them.

# %% [markdown]
# ## UniSAL beside other strategies
#
# The pool by t-SNE of the projections, at most 1,500 tiles and all that matter here, with what each strategy
# chooses (rings).

# %%
chosen = {name: strategies.select(name, pool, query_size, seed) for name in compared.split(",")}
chosen_rows = {name: query.rows for name, query in chosen.items()}
others = np.random.default_rng(seed).permutation(len(train))[:1500]
shown = np.unique(np.concatenate([others, D, *chosen_rows.values()]))
points = np.full((len(train), 2), np.nan)
layout = TSNE(perplexity=min(30, len(shown) / 4), random_state=seed)
points[shown] = layout.fit_transform(features[shown])

# %%
fates = ["networks agree", "disagree, mean is correct"]
fates = np.select([~disagree, correct], fates, "disagree, mean is incorrect")
maps, fates = dict.fromkeys(chosen, points), dict.fromkeys(chosen, fates)
step_plots.feature_maps(maps, fates, chosen=chosen_rows)

# %% [markdown]
# The disagreement set lies where the arms of the classes meet. UniSAL chooses there, one tile per cluster, and fills
# up by entropy where the set is smaller than the query. Entropy chooses where the mean prediction is undecided,
# whether the networks contradict each other or are unsure together. Chance chooses anywhere, mostly where the
# networks are correct already.

# %%
step_plots.tile_sheet({name: decoded[rows[:10]] for name, rows in chosen_rows.items()})

# %% [markdown]
# ## What an answer is worth
#
# How many of the chosen tiles the networks are wrong about, how many classes and groups (slides, cases, source
# tiles) they are of, and how far the nearest other chosen tile is (cosine distance of projections).

# %%
def describe(query):
    picked, distances = train.iloc[query.rows], cosine_distances(features[query.rows])
    return {
        "incorrect now": (~correct[query.rows]).mean(), "classes": picked.label.nunique(),
        "groups": picked.group.nunique(), "filled by entropy": query.filled or 0,
        "distance to the nearest": np.sort(distances, axis=1)[:, 1].mean(),
    }


worth = {name: describe(query) for name, query in chosen.items()}
pd.DataFrame.from_dict(worth, orient="index").round(3)

# %% [markdown]
# A good query is of tiles on which the networks are wrong now (the answer teaches something) and diverse (no answer
# is bought twice). "Filled by entropy" counts the tiles for which the disagreement set was too small.

# %% [markdown]
# **Recap.** Tiles on which the networks disagree are more often incorrect than others, and one per cluster spreads
# the questions. A small set says how alike the two networks have become; the query is then filled up. Whether such
# queries also train better networks than chance is another question, which the next notebook measures:
# `22_active_learning_rounds` does this again and again.
