# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which words, which model?
#
# The same classes in several wordings $T$, by one or several models $m$: how much of what the prompts say hangs on
# the words? With $\hat y_i^{m,T}$ the label of tile $i$, and $k_i^m$ its cluster, which no word changes:
#
# $$\text{change}(m,T) = \tfrac1N \textstyle\sum_i \mathbb 1\big[\hat y_i^{m,T} \ne \hat y_i^{m,T_0}\big], \qquad \text{agree}(m,T) = \tfrac1N \sum_i \mathbb 1\big[\hat y_i^{m,T} = \pi_{m,T}(k_i^m)\big]$$
#
# - In: a folder of tiles and words for the classes, as for `90_your_own_tiles`; published templates, of
#   `data/templates.yaml`.
# - Out: `prompts.html`, a page for any browser, and `wordings.csv`.
#
# `make prompts TILES=folder CLASSES="benign colonic tissue; colon adenocarcinoma" VLM="plip; keep"` runs it without
# Jupyter. Nothing is chosen: there is no label to choose by.

# %%
import numpy as np

from apps.own_tiles import results, steps, wordings
from apps.own_tiles.tile_folder import list_tiles, tiles_folder
from lib import paths
from lib.vlm.prompts import by_semicolon

# %% tags=["parameters"]
dataset = "demo"  # names the folder of the results
vlm = "stand-in-demo_other_lab"  # see load_vlm
others = ""  # more models, by semicolon
seed = 0  # of the clusters
folder = ""  # of your tiles; empty: the synthetic tiles of the demo
classes = ""  # words for each class, by semicolon; names and more wordings: apps/own_tiles/words.py
templates = ""  # yours, by semicolon, with {} for the class; empty: the papers' come first
image_size = 96  # of a stand-in, in pixels; every other VLM has its own

# %% [markdown]
# ## Wordings
#
# The first is what `make own` takes. Where a class has several words, each of them stands alone once. Here are the
# prompts of one class.

# %%
said = wordings.read_wordings(classes, templates, demo=not folder)
names = list(next(iter(said.values())))
wordings.prompts_table(said).style.format(escape="html").hide()

# %%
listed = list_tiles(tiles_folder(folder))
out = paths.own_folder(dataset, vlm, seed, listed.folder)
models = list(dict.fromkeys([vlm, *by_semicolon(others)]))
print(f"{len(listed.unique)} tiles; results go to {out}")

# %% [markdown]
# ## Each model reads the tiles once
#
# Features are kept: with the same tiles, other words cost seconds.

# %%
readings = {}
for name in models:
    model = steps.load_model(name, listed.unique, image_size=image_size, seed=seed)
    tiles, pixels_file = listed.decode(dataset, model.image_size)
    features = paths.own_folder(dataset, name, seed, listed.folder) / "one_look"
    wordings.encode(model, pixels_file, tiles.unique, features)
    readings[name] = wordings.read_tiles(model, features, said, seed=seed)
pixels = np.load(pixels_file, mmap_mode="r", allow_pickle=False)
print(*tiles.left_out_lines(), sep="\n")

# %% [markdown]
# ## Where the words matter

# %%
table = wordings.wordings_table(readings)
results.write_tables(out, {"wordings": table})
table.round(3)

# %% [markdown]
# A wording with many changes, or with few labels that clusters agree with, is no worse for it: it is where to look.
# By class, the one that depends most on the words first:

# %%
wordings.classes_table(readings[vlm], names)

# %%
alarms = wordings.alarms_table(readings, names)
alarms.style.format(escape="html").hide() if len(alarms) else "no alarm"

# %% [markdown]
# ## The page
#
# The same tables, what they mean, and of each class the tiles on which the wordings are most divided.

# %%
page = {
    "title": f"{tiles.folder.resolve().name}: which words, which model?",
    "facts": wordings.page_facts(len(tiles.unique), models, said),
    "paths_of_tiles": tiles.unique.path.tolist(), "pixels": pixels,
}
wordings.write_page(out / "prompts.html", readings=readings, wordings=said, **page)
print(f"open {out / 'prompts.html'}")

# %% [markdown]
# **Recap.** Classes whose tiles change with the words, or that an alarm names, want other words, by what their tiles
# show. Which wording is right is measured by labels alone: label some tiles with `91_label_tiles`, whose audit says
# how often a result is correct. With the words that you keep, go on with `90_your_own_tiles`.
