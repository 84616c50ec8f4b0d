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
# (one slide, one case, one source image). This notebook reads the tiles, divides them so that **no
# group straddles the split**, and decodes every file once.
#
# $$\text{test} : \text{rest} = 1 : 4, \qquad g(i) = g(j) \Rightarrow \text{split}(i) = \text{split}(j)$$
#
# where $g(i)$ is the group of tile $i$.
#
# - In: the card `data/cards/<dataset>.yaml` and the tiles it points to.
# - Out: `tiles.parquet` (tile, path, label, part, group, split, digest) in the run folder, and the
#   decoded tiles, shared by all runs on the dataset.

# %%
import numpy as np
import pandas as pd

from lib.data import cards, datasets, tiles
from lib.figures import step_plots
from lib.run_folder import Run

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of the split
image_size = 96  # input size of the VLM in pixels

# %% [markdown]
# ## The run
#
# A dataset, a VLM and a seed make a *run*. It has one folder, to which every notebook adds its
# arrays, tables and rows. Parameters of a notebook become settings of the run, so that a later
# notebook cannot silently work with other ones.

# %%
run = Run("00_tiles_and_splits", dataset, vlm, seed, image_size=image_size)
print(f"results go to {run.folder}")

# %% [markdown]
# ## The card
#
# A dataset is looked up in `data/raw`, then in `DATA_ROOT`. The tiles of `demo` are drawn, and those
# of a dataset with masks are cut out of its images, the first time they are needed. The prompts are
# what the VLM will be asked: one sentence or more per class.

# %%
card = cards.read_card(dataset)
folder = datasets.prepare(card)
print(cards.credits(card), f"Tiles: {folder}", sep="\n")
lines = [{"class": c.name, "prompts": " · ".join(c.prompts)} for c in card.classes]
pd.DataFrame(lines).style.hide()

# %% [markdown]
# ## The tiles
#
# One row per file. If the numbers differ from the published ones, a warning names what is missing,
# and the run goes on with the tiles that are there.

# %%
table = tiles.read_tile_table(card, folder)
for line in datasets.missing_tiles(card, table):
    print(f"WARNING: not the published number of tiles: {line}")
table.head()

# %% [markdown]
# ## Groups and the split
#
# If the dataset comes with a test set, that is the test set for every seed. Otherwise it is a fifth
# of the groups, stratified by class. A tenth of the remaining groups is called `validation`: no
# method looks at it, and the next version of the splits drops it. All methods learn from `train`.

# %%
own_test = (table.part == "test").values if card.splits else None
table["split"] = tiles.split_by_group(table.label.values, table.group.values, seed, own_test)
run.save(tiles=table)
pd.crosstab(np.array(card.class_names)[table.label], table.split, rownames=["class"], margins=True)

# %% [markdown]
# Tiles of one slide look alike. If some were in `train` and some in `test`, a test score would measure
# memory. So no group may be in two splits. Identical files in two splits would be copies that the
# card's groups do not know of; they are counted here.

# %%
splits_of_group = table.groupby("group").split.nunique()
splits_of_file = table.groupby("digest").split.nunique()
print(table.groupby("split").group.nunique().rename("groups").to_string())
print(f"identical files in two splits: {(splits_of_file > 1).sum()}")
assert (splits_of_group == 1).all(), "a group straddles the split"

# %% [markdown]
# ## Decode once
#
# Every file is decoded and resized once, to 8/7 of the model's input size: random views are cropped
# from that. Files that cannot be read are named now, before anything else runs.

# %%
store = tiles.decode_tiles(table, folder, dataset, image_size)
decoded = np.load(store, mmap_mode="r", allow_pickle=False)
print(f"{store.name}: {decoded.shape} {decoded.dtype}, {decoded.nbytes / 2**20:.0f} MiB")

# %% [markdown]
# ## What the tiles look like
#
# Up to ten tiles of each class, each from another group of the training tiles.

# %%
train = table[table.split == "train"].sample(frac=1, random_state=seed)
one_per_group = train.drop_duplicates(["label", "group"])
tiles_of = one_per_group.groupby("label").tile
numbers = {card.class_names[label]: tile[:10].values for label, tile in tiles_of}
step_plots.tile_sheet({name: decoded[some] for name, some in numbers.items()})

# %% [markdown]
# A row is a class. What differs within a row (stain, focus, density) is what a classifier has to
# ignore; what differs between the rows is what the prompts have to name.

# %% [markdown]
# **Recap.** Every tile has a number, a class, a group and a split, and is decoded. If the VLM is a
# stand-in, `01_stand_in_vlm` builds it next; otherwise go on with `10_zero_shot_inference`.
