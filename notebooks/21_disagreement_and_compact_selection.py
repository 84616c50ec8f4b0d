# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Disagreement and compactness: which tiles to ask for
#
# Two networks have learnt from the same labels, so a tile on which they disagree is one that these labels do
# not decide. UniSAL asks among those (disagreement-aware uncertainty selector, DUS), and of those that look
# alike for one only (compact selector, CS): with $q$ tiles to ask for and $z$ the mean projection,
#
# $$D = \{i \in U : \arg\max p_A(x_i) \ne \arg\max p_B(x_i)\}, \qquad \mu_1 \dots \mu_q = \text{K-means}(z_D), \qquad Q = \{\arg\min_{i \in D_k} \lVert z_i - \mu_k \rVert\}_{k=1}^q$$
#
# If no more than $q$ disagree all of them are taken, and the rest by the highest entropy of the mean prediction.
#
# - In: `dual-view/` of `20_dual_view_pseudo_training`.
# - Out: nothing; `22_active_learning_rounds` makes such a selection in every round.

# %%
import numpy as np
import pandas as pd
from sklearn.manifold import TSNE

from lib.data import cards, tiles
from lib.learning import networks, setups
from lib import paths
from lib.report import plots, active_plots
from lib.active import strategies
from lib.labels import UNLABELLED
from lib.record import read_rows

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of the clusters and of chance
query_share = 0.01  # of the pool, to be asked for
compared = "unisal,entropy,random"  # strategies, by comma; see lib/strategies.py

# %%
run = paths.run_folder(dataset, vlm, seed)
card = cards.read_card(dataset)
table = pd.read_parquet(run / "tiles.parquet")
train = table[table.split == "train"].reset_index(drop=True)
about = read_rows(run / "rows" / "11_multi_view_consensus.jsonl")[0]["params"]
labelled = train.tile.isin(pd.read_parquet(run / "dual-view" / "labelled.parquet").tile).values
decoded = np.load(tiles.decode_tiles(table, cards.prepare(card), dataset, about["image_size"]), mmap_mode="r", allow_pickle=False)
n_queries = max(2, round(query_share * len(train)))
print(f"{dataset} with {describe_vlm(vlm)}\n{labelled.sum()} of {len(train)} tiles are labelled, {n_queries} are to be asked for")

# %% [markdown]
# ## What the networks say of the pool
#
# Selection looks at this alone: predictions of both networks, the mean of their projections, and which
# tiles are labelled.

# %%
way = setups.frozen(run, train.tile.values, len(card.classes), steps=1, seed=seed, projection=128)
probs, features = networks.predict_members(setups.load(way, run / "dual-view"), setup.reader, train.tile.values)
pool = strategies.Pool(probs, features, np.where(labelled, train.label, UNLABELLED), ~labelled)
print(f"probabilities {probs.shape}, features {features.shape}")

# %% [markdown]
# ## How many disagree, and how wrong are they?
#
# The labels of the unlabelled tiles are looked at for this table only.

# %%
disagree = strategies.disagreement(probs) & pool.unlabelled_mask
right = probs.mean(0).argmax(1) == train.label.values
groups = {"networks agree": pool.unlabelled_mask & ~disagree, "networks disagree": disagree}
of_pool = {name: {"tiles": of.sum(), "mean prediction wrong": 1 - right[of].mean() if of.any() else np.nan, "mean entropy": strategies.entropy(probs)[of].mean() if of.any() else np.nan} for name, of in groups.items()}
pd.DataFrame(of_pool).T.round(3)

# %%
confused = pd.DataFrame({name: np.array(card.class_names)[p.argmax(1)] for name, p in zip(("A says", "B says"), probs, strict=True)})[disagree]
pd.crosstab(confused["A says"], confused["B says"])

# %% [markdown]
# ## The clusters
#
# Of the tiles in dispute, the five largest clusters; the tile nearest to the centre, which is asked for, comes first.

# %%
among = np.flatnonzero(disagree)
cluster, centres = strategies.clusters(features[among], n_queries, seed)
away = ((features[among] - centres[cluster]) ** 2).sum(1)
sizes = np.bincount(cluster)
sheet = {}
for k in np.argsort(-sizes, kind="stable")[:5]:
    members = among[cluster == k][np.argsort(away[cluster == k], kind="stable")]
    sheet[f"cluster {k}\n{sizes[k]} tiles"] = decoded[train.tile.values[members[:10]]]
    print(f"cluster {k}: {', '.join(sorted(set(np.array(card.class_names)[train.label.values[members]])))}")
plots.tile_sheet(sheet)

# %% [markdown]
# ## What is chosen
#
# The pool by t-SNE of the projections. UniSAL's tiles (rings) lie among those in dispute, one per cluster; those
# of entropy where the mean is undecided, whether the networks contradict each other or are unsure together; those of
# chance anywhere.

# %%
chosen = {name: strategies.select(name, pool, n_queries, seed) for name in compared.split(",")}
shown = np.random.default_rng(seed).permutation(len(train))[:1500]
shown = np.unique(np.concatenate([shown, np.flatnonzero(disagree), *(query.rows for query in chosen.values())]))
points = np.full((len(train), 2), np.nan)
points[shown] = TSNE(perplexity=min(30, len(shown) / 4), random_state=seed).fit_transform(features[shown])
active_plots.selection_map(points, disagree, right, {name: query.rows for name, query in chosen.items()})

# %% [markdown]
# ## The chosen tiles
#
# Ten of each, in the order in which they are asked for.

# %%
plots.tile_sheet({name: decoded[train.tile.values[query.rows[:10]]] for name, query in chosen.items()})

# %% [markdown]
# ## What an answer is worth
#
# How many of the chosen tiles the networks are wrong about, how many classes and groups (slides, cases, source
# tiles) are among them, and how far the nearest other chosen tile is (cosine distance of projections).

# %%
unit = features / np.linalg.norm(features, axis=1, keepdims=True)
worth = {}
for name, query in chosen.items():
    of = train.iloc[query.rows]
    alike = unit[query.rows] @ unit[query.rows].T - 2 * np.eye(len(of))
    worth[name] = {"tiles": len(of), "wrong now": 1 - right[query.rows].mean(), "networks disagree": disagree[query.rows].mean()}
    worth[name] |= {"classes": of.label.nunique(), "groups": of.group.nunique(), "distance to the nearest": 1 - alike.max(1).mean(), "filled by entropy": query.filled or 0}
pd.DataFrame(worth).T.round(3)

# %% [markdown]
# **Recap.** Tiles in dispute are more often wrong than the others, and one per cluster asks no question twice. How
# few they are says how alike the two networks have become. Next: `22_active_learning_rounds` does this again and again.
