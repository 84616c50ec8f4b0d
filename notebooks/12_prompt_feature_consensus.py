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
# image features gives labels of its own, once clusters are matched to classes by the assignment
# $\pi$ that agrees best with the prompt labels $\hat y$ (VLM-CPL, arXiv 2403.15836):
#
# $$\pi^* = \arg\max_{\pi} \sum_i \mathbb 1[\pi(k_i) = \hat y_i], \qquad \text{keep } i \iff \pi^*(k_i) = \hat y_i$$
#
# - In: `tiles.parquet`, features, `agree.npy`, `votes.npy`, `view_probs.npy`, `consensus.parquet`.
# - Out: `pseudo_labels.parquet` (setting, tile, prompt_label, feature_label, vote_entropy,
#   view_entropy, kept_by_views, kept), rows `pfc`, `mvc+pfc` and `pfc+mvc` of the record.

# %%
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from lib.data import cards, tiles
from lib import consensus, paths
from lib.report import pseudo_labels as pseudo_labels, metrics, plots
from lib.artefacts import atomic
from lib.record import read_rows, row, write_rows

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of K-means, random ties and the pictures
share = 0.3  # ρ of multi-view consensus; published

# %%
run = paths.run_folder(dataset, vlm, seed)
card = cards.read_card(dataset)
table = pd.read_parquet(run / "tiles.parquet")
views_say = pd.read_parquet(run / "consensus.parquet")
train = table.set_index("tile").loc[views_say.tile].reset_index()
labels, prompt_labels, number = train.label.values, views_say.prompt_label.values, train.tile.values

# %%
votes = np.load(run / "votes.npy", allow_pickle=False)
view_probs = np.load(run / "view_probs.npy", allow_pickle=False)
agree = np.load(run / "agree.npy", allow_pickle=False)[number]
files = {"projected": run / "features.npy", "unprojected": run / "unprojected.npy"}
features = {name: np.load(file, mmap_mode="r", allow_pickle=False)[number] for name, file in files.items()}
pd.DataFrame({name: {"tiles": len(of), "size": of.shape[1]} for name, of in features.items()})

# %% [markdown]
# ## Both filters, alone and in both orders
#
# The published setting clusters the projected features. Ours clusters the unprojected ones: the
# projection was trained to agree with prompts, so what it says is hardly a second opinion.

# %%
about = read_rows(run / "rows" / "11_multi_view_consensus.jsonl")[0]["params"]
new_row = partial(row, dataset=dataset, vlm=vlm, seed=seed, split="train", n=len(train), device="cpu")
chance = {"seed": seed, "tiles": number}
rows = []
for (name, setting), cluster_on in product(consensus.SETTINGS.items(), features):
    for order in ("mvc+pfc", "pfc+mvc"):
        rules = setting | {"cluster_on": cluster_on, "share": share}
        kept = consensus.keep_by_consensus(order, votes, view_probs, features, prompt_labels, among=agree, **rules, **chance)
        quality = metrics.label_quality(prompt_labels, kept, labels, card.class_names)
        named = consensus.setting_of(rules)
        rows.append(new_row(method=order, setting=named, params=about | rules, labels=quality))

# %%
for cluster_on, of in features.items():
    kept = consensus.prompt_feature_consensus(of, prompt_labels, len(card.classes), among=agree, **chance)
    quality = metrics.label_quality(prompt_labels, kept, labels, card.class_names)
    rules = {"cluster_on": cluster_on}
    named = consensus.setting_of(rules)
    rows.append(new_row(method="pfc", setting=named, params=about | rules, labels=quality))
write_rows(run, "12_prompt_feature_consensus", rows)
pseudo_labels.consensus_table(pseudo_labels.pseudo_label_frame(read_rows(run / "rows" / "12_prompt_feature_consensus.jsonl")))

# %% [markdown]
# ## What is written for training
#
# MVC, then PFC, in both settings.

# %%
both = []
for name, rules in consensus.SETTINGS.items():
    kept_by_views = views_say[f"kept_{name}"].values
    of = features[rules["cluster_on"]]
    found = consensus.feature_labels(of, prompt_labels, len(card.classes), among=kept_by_views, **chance)
    part = views_say[["tile", "prompt_label", "vote_entropy", "view_entropy"]]
    both.append(part.assign(setting=name, feature_label=found, kept_by_views=kept_by_views, kept=found == prompt_labels))
with atomic(run / "pseudo_labels.parquet") as file:
    pd.concat(both, ignore_index=True).to_parquet(file)

# %%
pseudo = pd.read_parquet(run / "pseudo_labels.parquet").merge(train[["tile", "label", "split"]])
pseudo["right"] = pseudo.prompt_label == pseudo.label
precision = pseudo[pseudo.kept].groupby("setting").right.mean()
print(precision.round(3).to_string(), f"\nall prompt labels: {(prompt_labels == labels).mean():.3f}")
assert (pseudo.split == "train").all() and not (pseudo.kept & ~pseudo.kept_by_views).any()
assert (precision >= (prompt_labels == labels).mean()).all(), "the filters made it worse"

# %% [markdown]
# ## The clusters
#
# The tiles that MVC kept (our setting), their clustered features in two dimensions.

# %%
ours = pseudo[pseudo.setting == "ours"]
shown = ours.kept_by_views.values
of = features[consensus.SETTINGS["ours"]["cluster_on"]][shown]
flat = PCA(min(30, *of.shape), random_state=seed).fit_transform(of)
points = TSNE(perplexity=min(30, len(flat) / 4), random_state=seed, init="pca").fit_transform(flat)
plots.cluster_map(points, *ours.loc[shown, ["prompt_label", "feature_label", "label"]].values.T, card.class_names)

# %% [markdown]
# ## The tiles themselves
#
# Kept and right, kept and wrong, kept by the views but dropped by the clusters, dropped by the views.

# %%
store = tiles.decode_tiles(table, cards.prepare(card), dataset, about["image_size"])
decoded = np.load(store, mmap_mode="r", allow_pickle=False)
some = ours.sample(frac=1, random_state=seed)
sheets = {
    "kept, right": some[some.kept & some.right],
    "kept, wrong": some[some.kept & ~some.right],
    "dropped by\nclusters": some[some.kept_by_views & ~some.kept],
    "dropped by\nviews, right": some[~some.kept_by_views & some.right],
    "dropped by\nviews, wrong": some[~some.kept_by_views & ~some.right],
}
plots.tile_sheet({f"{title} ({len(part)})": decoded[part.tile.values[:10]] for title, part in sheets.items()})

# %% [markdown]
# **Recap.** `pseudo_labels.parquet` holds labels that are nearly all right, and says which tiles have
# none. Next: `13_high_confidence_cross_supervision` learns from both.
