# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Multi-view consensus (MVC)
#
# A label that survives cropping, turning and a change of colours is more likely right. Each of $V$
# random views of a tile casts one hard vote. The entropy of the vote histogram $h$ ranks the
# tiles, and the fraction $\rho$ with the lowest entropy is kept (VLM-CPL, arXiv 2403.15836):
#
# $$H = -\sum_c h_c \log h_c, \qquad h_c = \tfrac1V \sum_v \mathbb 1\big[\arg\max_k p(k \mid \text{view}_v(x)) = c\big]$$
#
# In the paper: part a of the method's figure; published are $V = 10$ (LC25000) or 30 (HPH), $\rho = 0.3$, hard votes and
# one global ranking, and no precision. Ours stands row by row in
# [What of each paper stands where](README.md#vlm-cpl).
#
# - In: `tiles.parquet`, `probs.npy` (prompt labels), `agree.npy`, the VLM and its prompts.
# - Out: `view_features.npy` [V, N, E], their means `mean_features.npy` [N, E], `votes.npy` [V, N], `view_probs.npy` [N, C]
#   of all tiles, which the folds share. `kept_by_views.parquet`: which training tiles of each fold the filter keeps, in both variants.
#   Results `mean-of-views` and `mvc`.

# %%
import time
from dataclasses import asdict

import numpy as np
import pandas as pd

from lib import consensus, random_draws
from lib.data import cards
from lib.data.staining import separate_stains
from lib.figures import consensus_plots, plots, step_plots
from lib.figures.style import show_table
from lib.report import evaluation, pseudo_labels
from lib.run_folder import open_run
from lib.shares import embed_in_parts
from lib.vlm.inference import embed_prompts, embed_views
from lib.vlm.loading import load_vlm
from lib.vlm.views import picture_views

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # see load_vlm
seed = 0  # of the views and of random ties
n_views = 10  # V; published: 10 for LC25000, 30 for HPH
hue = 0.05  # colour jitter, ± share of the colour circle; the published code's is 0.2 or more
keep_ratio = 0.3  # ρ; published
batch_size = 64  # tiles per forward pass
parts = 1  # jobs that share the tiles
part = -1  # this job, which ends with its share; -1: the one that does what is left and goes on

# %%
run = open_run("11_multi_view_consensus", globals())

# %%
card, table = cards.read_card(dataset), run.load("tiles")
model = load_vlm(vlm, seed=seed, precision=run.settings["precision"])
decoded = run.pixels()

# %% [markdown]
# ## Views
#
# A view is a random crop from 8/7 of the input size, a quarter turn and a flip; with probability one
# half its colours are jittered. The draw is fixed by seed, view and tile number, so every tile has its
# own. Haematoxylin and eosin are the two stains that the colours are made of.

# %%
first, drawing = table.tile.values[:1], {"seed": seed, "hue": hue}
eight = picture_views(decoded[first], model.image_size, n_views=8, tiles=first, **drawing)[0]
tile = decoded[first[0]]
consensus_plots.stains_and_views(tile, separate_stains(tile), eight)

# %% [markdown]
# A pathologist would give all eight views the same name. A model that does not is guessing.
#
# ## Vote
#
# $V$ encoder passes per tile. The features of the views are kept: networks will learn from those of
# the training tiles.

# %% tags=["share"]
text = embed_prompts(model, run.settings["prompts"])
started = time.perf_counter()
share = {"part": part, "parts": parts}
kwargs = {"n_views": n_views, "batch_size": batch_size, **drawing}
embed_in_parts(run, embed_views, model, text, **share, **kwargs)
seconds = time.perf_counter() - started
print(f"{len(table)} tiles × {n_views} views in {seconds:.1f} s")

# %%
numbers, labels, n_classes = table.tile.values, table.label.values, len(card.classes)
choice = {"keep_ratio": keep_ratio, "seed": seed, "features": False}
inputs = consensus.FilterInputs.load(run.folder, numbers, **choice)
votes, view_probs, prompt_labels = inputs.votes, inputs.view_probs, inputs.prompt_labels
print(f"votes {votes.shape}, view_probs {view_probs.shape}")
assert votes.shape == (n_views, len(table)) and np.allclose(view_probs.sum(1), 1, atol=1e-4)
chance = random_draws.tile_draws(numbers, 1, seed, random_draws.TIES)[:, 0]  # of each tile

# %% [markdown]
# ## The filter in numpy
#
# Count the votes, take the entropy of the histogram, keep the fraction $\rho$ of the tiles with the lowest. With few
# views many tiles have $H = 0$: in *published filters*, which this cell is, chance breaks the ties. It ranks all
# tiles of the dataset; in the next notebooks the filter sees the training tiles of a fold alone.

# %% tags=["algorithm"]
h = np.stack([(votes == c).mean(0) for c in range(n_classes)], axis=1)
H = -(h * np.log(np.where(h > 0, h, 1))).sum(1)
kept = np.zeros(len(table), bool)
kept[np.lexsort((chance, H.round(9)))[: int(keep_ratio * len(table) + 1e-9)]] = True
published = consensus.VARIANTS["published filters"]
assert np.array_equal(kept, consensus.multi_view_consensus(inputs, published))

# %% [markdown]
# ## Two rules are left open, and one is changed
#
# What breaks a tie decides what is kept, and so does whether ρ is taken of all tiles or of every class.
# *Published filters*: ties at random, one global ranking. *Ours*: ties by the entropy of the mean view
# probabilities, and ρ of **every** predicted class, so that no class disappears.
#
# No filter can keep a class that the prompts never name. A model on unfamiliar stain may believe one
# class to be rare and another everywhere. So in our setting the label of a tile is the class of the
# highest *lift*: not the most probable one, but the one that gains most on its mean over all tiles (by
# Bayes' rule, the class in which such a tile is likeliest). With $\bar p_c$ the mean over the views:
#
# $$\hat y(x) = \arg\max_c\, \bar p_c(x) \,/\, \bar p_c(\text{all tiles})$$
#
# The two settings also cluster different features, as the next notebook explains.

# %%
show_table(pd.DataFrame(map(asdict, consensus.VARIANTS.values()), consensus.VARIANTS))

# %% [markdown]
# ## Two tiles and their votes
#
# The tile that the views agree on most and the one that they agree on least. The frame of a view, and
# the word below it, is the class that it votes for; $h$ counts the votes of all $V$ views.

# %%
ranking = consensus.rank_by_consensus(inputs, "probability")
two = ranking[[0, -1]]
true_names = np.array(card.class_names)[labels[two]]
titles = [f"agreed\ntrue: {true_names[0]}", f"not agreed\ntrue: {true_names[1]}"]
images = picture_views(decoded[two], model.image_size, n_views=10, tiles=two, **drawing)
pictures = dict(zip(titles, decoded[two], strict=True))
consensus_plots.tile_votes(pictures, images, votes[:, two], card.class_names)

# %% [markdown]
# Above, one bar holds all votes and $H$ is zero. Below, a turn or another shade is enough for another
# name, the votes scatter and $H$ is large: whatever label this tile has, it should not be learnt from.
#
# ## Ties are the rule

# %%
cut = np.quantile(H, keep_ratio, method="inverted_cdf")
ties = np.isclose(H, cut).mean()
print(f"the lowest {keep_ratio:.0%} end at H = {cut:.2f}, where {ties:.0%} of all tiles tie")
step_plots.judged_histogram(H, prompt_labels == labels, "vote entropy (nats)", cut=cut)

# %% [markdown]
# Low entropy means fewer wrong labels, so the ranking is a good one. But the cut falls into a bar of
# tiles with the same entropy: the rule for ties decides which of them are kept.
#
# ## What each rule keeps
#
# All combinations of tie rule and quota, and our setting, for several keep ratios, on the training tiles
# of each fold: a filter never sees the tiles that are tested. Precision is measured with the true labels,
# which no rule sees either.

# %%
fields = {"seconds": seconds, "device": str(model.device)}
of_folds = {fold: consensus.FilterInputs.load(run.folder, training_tiles, **choice)
            for fold, training_tiles, _ in evaluation.fold_tiles(table)}
kept_by_views = evaluation.keep_by_views(of_folds)
run.save(kept_by_views=kept_by_views)
recorded = run.record(
    evaluation.evaluate_views(of_folds, kept_by_views, table, card.class_names, **fields)
)
mvc = pseudo_labels.pseudo_label_frame(recorded.facts).query("method == 'mvc'")
plots.precision_against_keep_ratio(mvc)

# %% [markdown]
# Keeping more does not raise the precision. Where fewer are kept than are tied, only ties by probability
# still gain: random ties draw from tiles that are all alike to them. But precision alone misleads: a filter
# that keeps one class only can be very precise. The smallest class and the lost classes tell:

# %%
by_rule = pseudo_labels.consensus_table(mvc)
show_table(by_rule.drop(columns=["worst run", "folds", "seeds"]))

# %%
plots.kept_per_class(pseudo_labels.per_class_frame(mvc), card.class_names)

# %% [markdown]
# One global ranking keeps many tiles of the classes that the model is sure of and few of the others. With a quota per
# class every class stays; this is what the networks need later.

# %% [markdown]
# **Recap.** Labels on which the views agree are right far more often. Next, a second opinion that does
# not come from the prompts: `12_prompt_feature_consensus`.
