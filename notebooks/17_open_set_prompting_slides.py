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
# Consensus and cross supervision then learn from the tiles that count, and a slide is labelled by the mean of its
# tiles' probabilities, $p(c \mid S) = \frac{1}{|S|} \sum_{x \in S} p(c \mid x)$. These labels teach a gated attention
# (Ilse et al. 2018) which tiles of a slide to look at. Everything is done three times: on all tissue, with open-set
# prompting, and with networks that learn other tissue too (ours). There the attention learns from the class that gains
# most on its mean over the slides, $\arg\max_c p(c \mid S) / \bar p(c)$, as the filters do with tiles: a class that the
# prompts name too seldom is not lost.
#
# - In: the features of `02_slide_features`, slides and their table.
# - Out: `slides.parquet` (what is right, by each way, on each slide of the fold), rows, `slides/page/index.html` and a
#   GeoJSON of the tiles of each slide.

# %%
import numpy as np
import pandas as pd

from lib import paths
from lib.artefacts import atomic
from lib.data import cards, datasets, splits
from lib.figures import slide_plots
from lib.run_folder import open_run
from apps.slide_viewer import page
from lib.slides import cohort, open_set, scores, study
from lib.vlm.cards import describe_vlm
from lib.vlm.inference import embed_prompts
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo_slides"  # a card in data/cards that names a table of slides
vlm = "stand-in-demo_other_lab"  # see load_vlm
seed = 0  # of the draws, the networks, the batches and the views
fold = 0  # whose slides are labelled
tiles_per_slide = 40  # that views vote on, drawn by chance among those that count
n_views = 10  # V
hue = 0.05  # colour jitter of the views, ± share of the colour circle
batch_size = 64  # of the encoder
keep_ratio = 0.3  # ρ, the share of each class that multi-view consensus keeps
threshold = 0.95  # γ, confidence above which the partner is believed
cross_weight = 0.5  # λ after the warm-up
n_steps = 1000  # of training on tiles
slide_steps = 300  # of training the attention

# %%
run = open_run("17_open_set_prompting_slides", globals())

# %%
card = cards.read_card(dataset)
folder = datasets.locate_tiles(card)
table = cohort.read_slide_table(card, folder)
table["fold"] = splits.assign_folds(card, table)
train, test = table[table.fold != fold], table[table.fold == fold]
print(f"{dataset} with {describe_vlm(vlm)}")
print(f"{len(train)} slides to learn from, {len(test)} to label")

# %% [markdown]
# ## Which tiles count?
#
# The softmax of every tile over the prompts of the targets and of other tissue.

# %%
model = load_vlm(vlm, seed=seed)

# %%
out, table = run.shared / "slides", cohort.with_tissue(table, run.settings["tissue"])
done = cohort.embed_slides(model, folder, table, out, mpp=run.settings["tile_mpp"])
assert not done.error.any(), f"features that are missing or old: {done.error.max()}"
tiles = study.gather(table, out)
names = list(card.other_tissue or open_set.OTHER_TISSUE)
prompts = [list(c.prompts) for c in card.classes]
text = embed_prompts(model, prompts + open_set.other_prompts(names))
probs = study.tile_probabilities(model, out, text)

# %%
n_classes = len(prompts)
relevant = open_set.relevant_tiles(probs, n_classes)
truth = cohort.relevant_tissue(card, folder, table, tiles)
print(f"{len(tiles)} tiles in {len(table)} slides, {relevant.mean():.0%} of them count")
open_set.dropped_tiles(probs, n_classes, names, truth)

# %% [markdown]
# `wrongly`, where the truth is known: dropped tiles that do show a target. Tiles that each prompt took, the surest
# first; those of the classes count:

# %%
slide_plots.taken_tiles(folder, table, tiles, probs, card.class_names, names,
                        pixels=model.image_size, mpp=run.settings["tile_mpp"])

# %% [markdown]
# ## Views vote, filters choose, networks learn
#
# As in `11_multi_view_consensus` to `13_high_confidence_cross_supervision`, in our setting, on tiles drawn from all
# slides, three times: from all tissue; from the tiles that count by their prompt (*open set*, as published); and once
# more from all tissue, with every other tissue as a class too (*open set, learnt*, ours). There the views, the
# clusters and the networks have a say in what is no target, and not one prompt alone; a tile counts if the networks
# think most of a target. The filters and the networks see the tiles of the training slides alone.

# %%
views = {"n_views": n_views, "hue": hue, "batch_size": batch_size, "seed": seed}
choice = {"mpp": run.settings["tile_mpp"], "most": tiles_per_slide, "views": views}
every = np.arange(len(tiles))
rows = {open_set.ALL_TISSUE: every, open_set.OPEN_SET: every[relevant], open_set.LEARNT: every}
given = rows, model, folder, table, tiles, card.class_names, names, text, out
voted = study.vote_on(*given, **choice)

# %%
zero_shot = open_set.target_probabilities(probs, n_classes)
given = (out, tiles.slide.values, zero_shot, table.label.values, (table.fold != fold).values)
given += (card.class_names, run.settings)
folders = {setting: run.file(f"slides-{paths.file_name(setting)}") for setting in voted}
found = {setting: study.label_slides(own, *given, folders[setting], seed=seed)
         for setting, own in voted.items()}
{setting: f"{each.kept:.0%} of the drawn tiles kept" for setting, each in found.items()}

# %%
for setting, each in found.items():
    print("\n".join(f"alarm: {setting}: {a.text}" for a in each.alarms) or f"{setting}: no alarm")

# %% [markdown]
# Shares of the tiles that do not count in the end, where the truth is known: of other tissue, rightly, and of what
# gives the slide its class, wrongly.

# %%
masks = {} if truth is None else {s: np.isin(every, each.rows) for s, each in found.items()}
quality = {s: open_set.open_set_quality(mask, truth) for s, mask in masks.items()}
pd.DataFrame(quality).T.round(3)

# %% [markdown]
# ## Slides of this fold
#
# Each way to learn and to pool, with the three choices of tiles: accuracy / balanced accuracy. *True labels of
# slides*: the same attention taught by what nobody had to know here.

# %%
outcomes = [outcome for each in found.values() for outcome in each.outcomes]
given = outcomes, test.slide.values, test.label.values, card.class_names, quality
rows = run.record(scores.evaluate_slides(*given, device=str(model.device)))
right = scores.right_per_slide(outcomes, test, vlm=vlm, seed=seed, fold=fold)
run.save(slides=right)
scores.slides_table(rows)

# %% [markdown]
# A fold has few slides; the table of `40_record` pools all folds and has intervals.
#
# ## Where does it look?
#
# The first slide of the last class in this fold: the probability of its predicted class in each tile that counts, and
# its attention.

# %%
shown, ours = test[test.label == test.label.max()].iloc[0], found[open_set.LEARNT]
tile_probs, attention = ours.of_tiles(len(tiles))
best = ours.probs("vlm-cpl", "mean")[shown.slide].argmax()
own = (tiles.slide == shown.slide).values
maps = {f"p({card.class_names[best]})": tile_probs[own, best],
        "attention, its highest is 1": attention[own] / np.nanmax(attention[own])}
places = tiles.loc[own, ["x", "y"]].values, tiles.side[own].iloc[0]

# %%
figure = slide_plots.heat_maps(folder, shown, *places, maps)
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
seen = folder, test, tiles, ours, probs, card.class_names, names
print("open", page.write_study_page(run.file("slides"), *seen, title=title))

# %% [markdown]
# **Recap.** Slides are labelled without a label, and it shows which tissue was left out and where the networks
# looked. `40_record` pools the folds.
