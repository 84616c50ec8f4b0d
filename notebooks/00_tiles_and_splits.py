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
# - In: the card `data/cards/<dataset>.yaml` and the tiles it points to.
# - Out: `tiles.parquet` (tile, path, label, part, group, split, digest) in the run folder, and the
#   decoded tiles, shared by all runs on the dataset.
#
# $$\text{test} : \text{rest} = 1 : 4, \qquad g(i) = g(j) \Rightarrow \text{split}(i) = \text{split}(j)$$

# %%
import numpy as np
import pandas as pd

from lib.data import cards, tiles
from lib import paths
from lib.report import plots
from lib.artefacts import atomic

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of the split
image_size = 96  # input size of the VLM in pixels

# %% [markdown]
# ## The card
#
# A dataset is looked up in `data/raw`, then in `DATA_ROOT`. The `demo` tiles are drawn, and those of
# a dataset with masks are cut, when they are first asked for.

# %%
card = cards.read_card(dataset)
folder = cards.prepare(card)
print(cards.credits(card), f"It lies in {folder}", sep="\n")
pd.DataFrame([{"class": c.name, "prompts": " · ".join(c.prompts)} for c in card.classes])

# %% [markdown]
# ## The tiles
#
# PlainReader as the card says, and compared with the numbers that were published: what is missing is said
# here, and the run goes on with what there is.

# %%
table = tiles.read_tile_table(card, folder)
table.insert(3, "class", np.array(card.class_names)[table.label])
for line in tiles.missing_tiles(card, table):
    print(f"WARNING: not the published number of tiles: {line}")

# %% [markdown]
# ## Their groups and the split
#
# A dataset's own division is kept: its test set is the test set, whatever the seed. Where there is
# none, a fifth of the groups, stratified by class, is the test set. A tenth of the other groups is
# the validation part, which only full supervision may look at; all methods train on the same `train`.

# %%
own_test = (table.part == "test").values if card.parts else None
table["split"] = tiles.split_by_group(table.label.values, table.group.values, seed, own_test)
table.pivot_table(index="class", columns="split", values="tile", aggfunc="count", margins=True)

# %% [markdown]
# Groups per part, and what would leak: groups in two parts (must be none) and identical files in
# two parts (copies that the card's groups do not know of).

# %%
parts = table.groupby("group").split.nunique()
copies = table.groupby("digest").split.nunique()
print(table.groupby("split").group.nunique().rename("groups").to_string())
print(f"identical files across parts: {(copies > 1).sum()}")
assert (parts == 1).all(), "a group straddles the split"

# %% [markdown]
# ## Decode once
#
# Every file is decoded and resized once, to 8/7 of the model's input size, the size that random
# views are cropped from. Unreadable files are named here, before anything else runs.

# %%
store = tiles.decode_tiles(table, folder, dataset, image_size)
decoded = np.load(store, mmap_mode="r", allow_pickle=False)
print(f"{store.name}: {decoded.shape} {decoded.dtype}, {decoded.nbytes / 2**20:.0f} MiB")

# %%
run = paths.run_folder(dataset, vlm, seed)
with atomic(run / "tiles.parquet") as file:
    table.drop(columns="class").to_parquet(file)

# %% [markdown]
# ## What the tiles look like
#
# Ten tiles of each class, from ten groups of the training part.

# %%
train = table[table.split == "train"].sample(frac=1, random_state=seed)
ten_groups = train.drop_duplicates(["label", "group"])
rows = {name: ten_groups[ten_groups["class"] == name].tile.values[:10] for name in card.class_names}
plots.tile_sheet({name: decoded[numbers] for name, numbers in rows.items()})

# %% [markdown]
# **Recap.** Every tile has a number, a class, a group and a part, and is decoded. If the VLM is a
# stand-in, `01_stand_in_vlm` builds it next; else go on to `10_zero_shot_inference`.
