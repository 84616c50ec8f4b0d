# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A stand-in VLM
#
# The pathology VLMs of the papers (PLIP, BiomedCLIP, …) are loaded by name where their weights are
# within reach. A **stand-in** is for everywhere else: an open_clip model with the same interface and
# the same weakness, trained elsewhere and hence wrong in places here. It is not PLIP, and its
# results bear its name.
#
# Two locked towers (EfficientNet-Lite0 with ImageNet weights, MiniLM for text) get projections
# $W_f, W_g$ and a scale $s$, learnt with the contrastive loss of CLIP on captioned tiles of a
# **source** dataset that shares no tile, slide or hospital with the target:
#
# $$\mathcal L = -\tfrac{1}{2B}\sum_i \Big(\log \frac{e^{s\,u_i\cdot v_i}}{\sum_j e^{s\,u_i\cdot v_j}} + \log \frac{e^{s\,u_i\cdot v_i}}{\sum_j e^{s\,u_j\cdot v_i}}\Big), \qquad u = \tfrac{W_f f(x)}{\|\cdot\|},\; v = \tfrac{W_g g(t)}{\|\cdot\|}$$
#
# - In: the card of the source, named by `vlm`: `stand-in-<source>`.
# - Out: the model folder `data/models/<vlm>/seed<k>/`, loaded by open_clip as `local-dir:`.

# %%
import numpy as np

from lib.data import cards, tiles
from lib import paths
from lib.report import plots
from lib.vlm import stand_in
from lib.paths import STAND_IN
from lib.vlm.inference import embed_prompts, embed_tiles
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo"  # the target, a card in data/cards
vlm = "stand-in-demo_other_lab"  # stand-in-<source card>
seed = 0  # of the projections and the batches
image_size = 96  # input size in pixels
steps = 400  # of pre-training

# %% [markdown]
# ## The source
#
# Another dataset than the target; no file may be in both. A source of the same collection must be
# made of other groups, and is re-stained as by another laboratory, as its card says.

# %%
assert vlm.startswith(STAND_IN), "only a stand-in is built; other VLMs are loaded by name"
source, source_table, store = stand_in.read_source(vlm, image_size)

# %%
target = cards.read_card(dataset)
target_table = tiles.read_tile_table(target, cards.prepare(target))
assert source.name != dataset and not set(source_table.digest) & set(target_table.digest)
if source.folder == target.folder:  # one collection: the groups must differ
    assert not set(source_table.group) & set(target_table.group), "source and target share groups"
    print(f"a source of the same collection: {source_table.group.nunique()} other groups, re-stained by {source.restain:+g}")
print(f"source: {source.title}, {len(source_table)} tiles; no file shared with {dataset}")

# %% [markdown]
# Tiles of the source with one of the captions that stand for their class.

# %%
decoded = np.load(store, mmap_mode="r", allow_pickle=False)
shuffled = source_table.sample(frac=1, random_state=seed)
sheet = {}
for number, c in enumerate(source.classes):
    title = c.captions[0].removeprefix("An H&E image of ").replace(" ", "\n", 1)
    sheet[title] = decoded[shuffled[shuffled.label == number].tile.values[:8]]
plots.tile_sheet(sheet, columns=8)

# %% [markdown]
# ## Pre-training
#
# The locked towers run once over the tiles; the projections then learn in seconds.

# %%
model_folder = paths.model_folder(vlm, seed)
captions = [c.captions for c in source.classes]
how = {"image_size": image_size, "seed": seed, "steps": steps}
stand_in.build(model_folder, store, source_table.label.values, captions, **how)

# %%
plots.loss_curve(np.load(model_folder / "losses.npy", allow_pickle=False), "contrastive loss")

# %% [markdown]
# ## Does it know its source?
#
# Zero-shot on the tiles it was trained on, by the source's prompts. This only checks the training;
# how it does on the target is the next notebook's question.

# %%
model = load_vlm(vlm, seed=seed)
text = embed_prompts(model, [c.prompts for c in source.classes])
embed_tiles(model, store, text, model_folder / "source")
on_source = np.load(model_folder / "source" / "probs.npy", allow_pickle=False).argmax(1)
plots.confusion(source_table.label.values, on_source, source.class_names)

# %%
accuracy = (on_source == source_table.label).mean()
print(f"accuracy on its source: {accuracy:.3f}, logit scale {model.scale:.1f}")
assert accuracy > source_table.label.value_counts(normalize=True).max(), "it learnt nothing"

# %% [markdown]
# **Recap.** `load_vlm(vlm)` now gives a model with image and text towers like any other of
# open_clip. Next: `10_zero_shot_inference`.
