# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Open-set prompting and slides
#
# Nobody has labelled these slides, and most of their tissue is none of the classes. Besides the prompts $T_c$ of the
# targets there are prompts $T_k$ of other tissue $O$; a tile counts if its best prompt is a target's:
#
# $$ \arg\max_{j \in C \cup O} \cos\big(f(x), g(T_j)\big) \in C $$
#
# Consensus and cross supervision learn from the tiles that count, and a slide gets the mean of its tiles'
# probabilities, $p(c \mid S) = \frac{1}{|S|} \sum_{x \in S} p(c \mid x)$. From these labels gated attention (Ilse et al.
# 2018) learns which tiles of a slide to look at. Three choices of tiles are compared: all tissue; those that open-set
# prompting leaves; and those that networks leave which learn other tissue too (ours). In the last the attention learns
# the class that gains most on its mean over the slides, $\arg\max_c p(c \mid S) / \bar p(c)$, as the filters do with
# tiles, so that a class that the prompts name too seldom is not lost.
#
# In the paper: part d of the method's figure, on TCGA's kidney tumours; no published value could be read. Ours, on
# composed slides, stands row by row in [What of each paper stands where](README.md#vlm-cpl).
#
# - In: the features of `02_slide_features`, slides and their table.
# - Out: results, `slides/page/index.html` and a
#   GeoJSON of the tiles of each slide.

# %%
import numpy as np
import pandas as pd

from apps.slide_viewer import page
from data.prepare import synthetic_slides
from lib import paths
from lib.artefacts import atomic
from lib.data import cards, datasets, splits
from lib.figures import slide_plots
from lib.run_folder import open_run
from lib.slides import open_set, scores, study
from lib.slides.cohort import Cohort, embed_slides
from lib.slides.slide_table import read_slide_table, with_tissue
from lib.vlm.cards import describe_vlm
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo_slides"  # a card in data/cards that names a table of slides
vlm = "stand-in-demo_other_lab"  # see load_vlm
seed = 0  # of the draws, the networks, the batches and the views
fold = 0  # whose slides are labelled
tiles_per_slide = 40  # that views vote on, sampled from those that may count
n_views = 10  # V
hue = 0.05  # colour jitter of the views, ± share of the colour circle
batch_size = 64  # of the encoder
keep_ratio = 0.3  # ρ, the share of each class that multi-view consensus keeps
threshold = 0.8  # γ, confidence above which the partner is believed
cross_weight = 0.5  # λ after the warm-up
n_steps = 1000  # of training on tiles
slide_steps = 300  # of training the attention

# %%
run = open_run("17_open_set_prompting_slides", globals())

# %%
card = cards.read_card(dataset)
folder = datasets.locate_tiles(card)
table = with_tissue(read_slide_table(card, folder), run.settings["tissue"])
table["fold"] = splits.assign_folds(card, table)
table["learnt_from"] = table.fold != fold
test = table[~table.learnt_from]
print(f"{dataset} with {describe_vlm(vlm)}")
print(f"{len(table) - len(test)} slides to learn from, {len(test)} to label")

# %% [markdown]
# ## Which tiles count?
#
# The softmax of each tile over the prompts of the targets and of other tissue.

# %%
model = load_vlm(vlm, seed=seed, precision=run.settings["precision"])

# %%
out = run.shared / "slides"
cohort = Cohort(folder, table, out, *model.tile(run.settings["tile_mpp"]))
done = embed_slides(model, cohort)
assert not done.error.any(), f"features that are missing or old: {done.error.max()}"
prompts = {c.name: c.prompts for c in card.classes}
tiles = study.prompted_tiles(model, cohort, prompts, card.other_tissue)

# %%
truth = synthetic_slides.relevant_tissue(card, cohort, tiles.table)
print(f"{len(tiles.probs)} tiles in {len(table)} slides, {tiles.relevant.mean():.0%} of them count")
open_set.dropped_tiles(tiles.probs, tiles.others, truth)

# %% [markdown]
# `wrongly`, where the truth is known: dropped tiles that do show a target. Tiles that each prompt took, the surest
# first; those of the classes count:

# %%
slide_plots.taken_tiles(tiles)

# %% [markdown]
# ## Views vote, filters choose, networks learn
#
# As in `11_multi_view_consensus` to `13_high_confidence_cross_supervision`, in our setting, on tiles sampled from all
# slides, three times: from all tissue; from the tiles that count by their prompt (*open set*, as published); and once
# more from all tissue, with other tissue as further classes (*open set, learnt*, ours). There the views, the clusters
# and the networks have a say in what is no target, and not one prompt alone; a tile counts if the networks find a
# target most probable. The filters and the networks see the tiles of the training slides alone.

# %%
views = {"n_views": n_views, "hue": hue, "batch_size": batch_size, "seed": seed}
choices = open_set.ALL_TISSUE, open_set.OPEN_SET, open_set.LEARNT
voted = study.vote_on(model, tiles, choices, max_tiles=tiles_per_slide, views=views)

# %%
found = {}
for choice in choices:
    networks = run.file(f"slides-{paths.file_name(choice)}")
    found[choice] = study.label_slides(tiles, voted[choice], run.settings, networks, seed=seed)
    print(f"{found[choice].kept:.0%} of the sampled tiles kept: {choice}")

# %%
for setting, each in found.items():
    print("\n".join(f"alarm: {setting}: {a.text}" for a in each.alarms) or f"no alarm: {setting}")

# %% [markdown]
# Where the truth is known: shares of the tiles that do not count in the end, of other tissue (correctly) and of what
# gives the slide its class (incorrectly).

# %%
rows = np.arange(len(tiles.probs))
masks = {} if truth is None else {s: np.isin(rows, each.rows) for s, each in found.items()}
quality = {s: open_set.open_set_quality(mask, truth) for s, mask in masks.items()}
pd.DataFrame(quality).T.round(3)

# %% [markdown]
# ## Slides of this fold
#
# Each way to learn and to pool, with the three choices of tiles: accuracy / balanced accuracy. *True labels of
# slides*: the same attention learns from the true labels, an upper bound.

# %%
evaluated = scores.evaluate_slides(found, test, quality, device=str(model.device))
scores.slides_table(run.record(evaluated))

# %% [markdown]
# A fold has few slides; the table of `40_record` pools all folds and has intervals.
#
# ## Where does it look?
#
# The first slide of the last class in this fold: the probability of its predicted class in each tile that counts, and
# its attention.

# %%
shown, ours = test[test.label == test.label.max()].iloc[0], found[open_set.LEARNT]
tile_probs, attention = ours.of_tiles(len(tiles.probs))
best = ours.probs["vlm-cpl", "mean"][shown.slide].argmax()
inside = tiles.slide_of == shown.slide
maps = {f"p({tiles.targets[best]})": tile_probs[inside, best],
        "attention, its highest is 1": attention[inside] / np.nanmax(attention[inside])}

# %%
figure = slide_plots.heat_maps(cohort, shown, tiles.table[inside], maps)
with atomic(run.file("slides") / "heat_map.png") as file:
    figure.savefig(file)
figure

# %% [markdown]
# Tiles without colour do not count. Where attention is high, the networks look; of many tiles that show the same,
# they may choose a few.
#
# ## What a pathologist opens
#
# A table of the slides of this fold, a deep-zoom view of each with its maps, and its tiles for QuPath as GeoJSON. The
# page needs no server.

# %%
title = f"{card.title}, fold {fold}"
print("open", page.write_study_page(run.file("slides"), tiles, ours, title=title, slides=test))

# %% [markdown]
# **Recap.** Each slide of the fold has a class, without a label to learn from; the page shows which tissue was left out
# and where the networks looked. The scores of one fold are of few slides: `40_record` pools the folds.
