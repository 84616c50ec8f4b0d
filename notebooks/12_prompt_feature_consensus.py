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
# - In: `tiles.parquet`, features, `votes.npy`, `view_probs.npy`, `consensus.parquet`.
# - Out: `pseudo_labels.parquet` (setting, tile, prompt_label, feature_label, vote_entropy,
#   view_entropy, kept_by_views, kept), rows `pfc`, `mvc+pfc` and `pfc+mvc` of the record.

# %%
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from lib import cards, consensus, metrics, paths, plots, tiles
from lib.run import atomic, read_rows, row, write_rows

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of K-means, random ties and the pictures
share = 0.3  # ρ of multi-view consensus; published

# %%
run = paths.run_folder(dataset, vlm, seed)
card = cards.read_card(dataset)
table = pd.read_parquet(run / "tiles.parquet")
views = pd.read_parquet(run / "consensus.parquet")
train = table.set_index("tile").loc[views.tile].reset_index()
labels, prompt_labels, number = train.label.values, views.prompt_label.values, train.tile.values

# %%
votes, view_probs = (
    np.load(run / f"{name}.npy", allow_pickle=False) for name in ("votes", "view_probs")
)
features = {
    name: np.load(run / file, mmap_mode="r", allow_pickle=False)[number].astype(np.float32)
    for name, file in (("projected", "features.npy"), ("unprojected", "unprojected.npy"))
}
pd.DataFrame({name: {"tiles": len(f), "size": f.shape[1]} for name, f in features.items()})

# %% [markdown]
# ## Both filters, alone and in both orders
#
# The published setting clusters the projected features. Ours clusters the unprojected ones: the
# projection was trained to agree with prompts, so what it says is hardly a second opinion.

# %%
about = read_rows(run / "rows" / "11_multi_view_consensus.jsonl")[0]["params"]
base = dict(dataset=dataset, vlm=vlm, seed=seed, split="train", n=len(train), device="cpu")
rows, kept = [], {}
for name, rules in consensus.SETTINGS.items():
    for order in ("pfc", "mvc+pfc", "pfc+mvc"):
        for cluster_on in features:
            used = rules | {"cluster_on": cluster_on}
            kept[name, order, cluster_on] = mask = consensus.keep_by_consensus(
                order,
                votes,
                view_probs,
                features,
                prompt_labels,
                share=share,
                seed=seed,
                tiles=number,
                **used,
            )
            params = (
                about | {"share": share, **used}
                if "mvc" in order
                else {
                    "cluster_on": cluster_on,
                    "prompts": about["prompts"],
                    "image_size": about["image_size"],
                }
            )
            rows.append(
                row(
                    method=order,
                    setting=name if used == rules else None,
                    params=params,
                    labels=metrics.label_quality(prompt_labels, mask, labels, card.class_names),
                    **base,
                )
            )
unique = {str(r["params"]) + r["method"]: r for r in rows if r["method"] != "pfc" or r["setting"]}
write_rows(run, "12_prompt_feature_consensus", list(unique.values()))

# %%
summary = pd.DataFrame(
    [
        {"method": r["method"], "setting": r["setting"], "clusters on": r["params"]["cluster_on"]}
        | {k: r["labels"][k] for k in ("kept", "share", "precision", "lost_classes")}
        for r in unique.values()
    ]
)
summary.round(3)

# %% [markdown]
# ## What is written for training
#
# MVC, then PFC, in both settings.

# %%
tables = []
for name, rules in consensus.SETTINGS.items():
    by_views = views[f"kept_{name}"].values
    found = consensus.feature_labels(
        features[rules["cluster_on"]],
        prompt_labels,
        len(card.classes),
        seed=seed,
        tiles=number,
        among=by_views,
    )
    tables.append(
        views[["tile", "prompt_label", "vote_entropy", "view_entropy"]].assign(
            setting=name, feature_label=found, kept_by_views=by_views, kept=found == prompt_labels
        )
    )
    assert (tables[-1].kept.values == kept[name, "mvc+pfc", rules["cluster_on"]]).all()
with atomic(run / "pseudo_labels.parquet") as file:
    pd.concat(tables, ignore_index=True).to_parquet(file)

# %%
pseudo = pd.read_parquet(run / "pseudo_labels.parquet").merge(train[["tile", "label", "split"]])
assert (pseudo.split == "train").all() and not (pseudo.kept & ~pseudo.kept_by_views).any()
pseudo["right"] = pseudo.prompt_label == pseudo.label
precision = pseudo[pseudo.kept].groupby("setting").right.mean()
print(precision.to_string(), f"\nall prompt labels: {(prompt_labels == labels).mean():.3f}")
assert (precision >= (prompt_labels == labels).mean()).all(), "the filters made it worse"

# %% [markdown]
# ## The clusters
#
# The tiles that MVC kept (our setting), their clustered features in two dimensions.

# %%
ours = pseudo[(pseudo.setting == "ours") & pseudo.kept_by_views].merge(
    pd.DataFrame({"tile": number, "at": np.arange(len(number))})
)
chosen = features[consensus.SETTINGS["ours"]["cluster_on"]][ours["at"]]
flat = PCA(min(30, *chosen.shape), random_state=seed).fit_transform(chosen)
points = TSNE(perplexity=min(30, len(flat) / 4), random_state=seed, init="pca").fit_transform(flat)
plots.cluster_map(
    points, ours.prompt_label.values, ours.feature_label.values, ours.label.values, card.class_names
)
# %% [markdown]
# ## The tiles themselves
#
# Kept and right, kept and wrong, kept by the views but dropped by the clusters, dropped by the views.

# %%
decoded = np.load(
    tiles.decode_tiles(table, cards.locate(card), dataset, about["image_size"]),
    mmap_mode="r",
    allow_pickle=False,
)
ours = pseudo[pseudo.setting == "ours"].sample(frac=1, random_state=seed)
sheets = {
    "kept, right": ours[ours.kept & ours.right],
    "kept, wrong": ours[ours.kept & ~ours.right],
    "dropped by\nclusters": ours[ours.kept_by_views & ~ours.kept],
    "dropped by\nviews, right": ours[~ours.kept_by_views & ours.right],
    "dropped by\nviews, wrong": ours[~ours.kept_by_views & ~ours.right],
}
plots.tile_sheet(
    {f"{title} ({len(part)})": decoded[part.tile.values[:10]] for title, part in sheets.items()}
)

# %% [markdown]
# **Recap.** `pseudo_labels.parquet` holds labels that are nearly all right, and says which tiles have
# none. Next: `40_record` gathers what was measured into tables and figures.
