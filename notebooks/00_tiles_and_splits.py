# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tiles and splits
#
# A dataset card says what the classes are, where their tiles lie and which tiles belong together
# (one slide, one case, one source image). This notebook reads the tiles, divides them into five
# folds so that **no group is divided**, and decodes every file once.
#
# $$\text{fold}: \{1, \dots, N\} \to \{0, \dots, 4\}, \qquad g(i) = g(j) \Rightarrow \text{fold}(i) = \text{fold}(j)$$
#
# where $g(i)$ is the group of tile $i$. Fold $f$ is tested by methods that learn from the other four.
#
# - In: the card `data/cards/<dataset>.yaml`, the tiles it points to, and `data/splits/<dataset>.csv`.
# - Out: `tiles.parquet` (tile, path, label, part, group, digest, fold) in the run folder, and the
#   decoded tiles, shared by all runs on the dataset.

# %%
import numpy as np
import pandas as pd

from data.prepare.datasets import missing_tiles, prepare
from lib.data import cards, splits, tiles
from lib.figures import step_plots
from lib.figures.style import show_table
from lib.run_folder import open_run

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # names the run folder; the folds do not depend on it
image_size = 96  # input size of the VLM in pixels

# %% [markdown]
# ## The run
#
# A dataset, a VLM and a seed make a *run*. It has one folder, to which every notebook adds its
# arrays, tables and rows. Parameters of a notebook become settings of the run, so that a later
# notebook cannot silently work with other ones.

# %%
run = open_run("00_tiles_and_splits", globals())
print(f"results go to {run.folder}")

# %% [markdown]
# ## The card
#
# A dataset is looked for in `data/raw`, then in `DATA_ROOT`. `prepare` paints the synthetic tiles of
# `demo`, and cuts the tiles of a dataset that has masks in place of classes, the first time they are
# needed; `make data DATASET=...` downloads. The prompts are what the VLM will be asked, at least one
# sentence for each class.

# %%
card = cards.read_card(dataset)
folder = prepare(card)
print(cards.citation_lines(card))
lines = [{"class": c.name, "prompts": " · ".join(c.prompts)} for c in card.classes]
show_table(pd.DataFrame(lines))

# %% [markdown]
# ## The tiles
#
# One row per file; five of them are shown. Where the numbers differ from the published ones, a warning
# says what is missing, and the run goes on with the tiles that are there.

# %%
table = tiles.read_tile_table(card, folder)
for line in missing_tiles(card, table):
    print(f"WARNING: not the published number of tiles: {line}")
table.drop(columns=["tile", "part", "digest"]).sample(5, random_state=seed).sort_index()

# %% [markdown]
# ## Groups and folds
#
# The groups are divided into five folds, stratified by class, once for each dataset and whatever the
# seed: every group is tested exactly once. If the dataset comes with a test set, that is its only fold.

# %%
table["fold"] = splits.assign_folds(card, table)
run.save(tiles=table)
per_fold = pd.crosstab(np.array(card.class_names)[table.label], table.fold, rownames=["tiles"])
per_fold.loc["groups"] = table.groupby("fold").group.nunique()
per_fold

# %% [markdown]
# Columns are folds. Tiles of one slide look alike: with some of them in training and others in the test
# set, a test score would measure memory. So no group may be in two folds. Identical files in two folds
# would be copies that the card does not know of; they are counted here.

# %%
folds_of_group = table.groupby("group").fold.nunique()
folds_of_file = table.groupby("digest").fold.nunique()
print(f"identical files in two folds: {(folds_of_file > 1).sum()}")
assert (folds_of_group == 1).all(), "a group is divided"

# %% [markdown]
# ## Decode once
#
# Every file is decoded and resized once, to 8/7 of the model's input size: random views are cropped
# from that. Files that cannot be read are named now, before anything else runs.

# %%
decoded = run.pixels(image_size)
print(f"{decoded.shape} {decoded.dtype}, {decoded.nbytes / 2**20:.0f} MiB")

# %% [markdown]
# ## What the tiles look like
#
# Up to ten tiles of each class, each from another group.

# %%
one_per_group = table.sample(frac=1, random_state=seed).drop_duplicates(["label", "group"])
tiles_of = one_per_group.groupby("label").tile
numbers = {card.class_names[label]: tile[:10].values for label, tile in tiles_of}
step_plots.tile_sheet({name: decoded[some] for name, some in numbers.items()})

# %% [markdown]
# A row is a class. What differs within a row (stain, focus, density) is what a classifier has to
# ignore; what differs between the rows is what the prompts have to name.

# %% [markdown]
# **Recap.** Every tile has a number, a class, a group and a fold, and is decoded. If the VLM is a
# stand-in, `01_stand_in_vlm` builds it next; otherwise go on with `10_zero_shot_inference`.
