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
# The pathology VLMs of the papers (PLIP, BiomedCLIP, …) are loaded by name where their weights can be
# downloaded. Everywhere else a **stand-in** takes their place: an open_clip model with the same
# interface and the same weakness, for it was trained on other images and makes mistakes on these. It
# is not PLIP, and its results carry its own name.
#
# Two locked towers (EfficientNet-Lite0 with ImageNet weights for images, MiniLM for text) get
# projections $W_f, W_g$ and a scale $s$. These are learnt with the contrastive loss of CLIP on
# captioned tiles of a **source** dataset. It shares no tile and no slide with the target, and no hospital where that is
# possible:
#
# $$\mathcal L = -\tfrac{1}{2B}\sum_i \Big(\log \frac{e^{s\,u_i\cdot v_i}}{\sum_j e^{s\,u_i\cdot v_j}} + \log \frac{e^{s\,u_i\cdot v_i}}{\sum_j e^{s\,u_j\cdot v_i}}\Big), \qquad u = \tfrac{W_f f(x)}{\|\cdot\|},\; v = \tfrac{W_g g(t)}{\|\cdot\|}$$
#
# - In: the card of the source, named by `vlm`: `stand-in-<source>`.
# - Out: the model folder `data/models/<vlm>/seed<k>/`, loaded by open_clip as `local-dir:`.

# %%
import textwrap

import numpy as np
import torch
from open_clip import ClipLoss

from lib import paths
from data.prepare import stand_in
from data.prepare.datasets import prepare, prepare_source
from lib.data import cards, tiles
from lib.data.sources import read_source
from lib.figures import step_plots
from lib.run_folder import open_run
from lib.vlm.inference import embed_prompts, embed_tiles
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo"  # the target, a card in data/cards
vlm = "stand-in-demo_other_lab"  # stand-in-<source card>
seed = 0  # of the projections and the batches
image_size = 96  # input size in pixels
steps = 400  # of pre-training

# %%
assert vlm.startswith(paths.STAND_IN), "only a stand-in is built; other VLMs are loaded by name"
run = open_run("01_stand_in_vlm", globals())
model_folder = paths.model_folder(vlm, seed)

# %% [markdown]
# ## The source
#
# Another dataset than the target. No file may be in both; this is checked byte by byte.

# %%
prepare_source(vlm)
source, source_table, pixels_file = read_source(vlm, image_size)
target = cards.read_card(dataset)
assert source.name != dataset
if target.slides is None:  # of slides nothing is cut yet
    target_table = tiles.read_tile_table(target, prepare(target))
    assert not set(source_table.digest) & set(target_table.digest)
print(f"source: {source.title}, {len(source_table)} tiles; no file shared with {dataset}")

# %% [markdown]
# A source may be taken from the same collection as the target. Then it is made of other groups
# (slides, cases), and its tiles are re-stained as another laboratory would, as its card says.

# %%
if source.folder == target.folder:
    assert not set(source_table.group) & set(target_table.group), "source and target share groups"
    print(f"{source_table.group.nunique()} groups of its own, stain shifted by {source.restain:+g}")

# %% [markdown]
# Tiles of each class of the source, beside one of the captions that they are matched with.

# %%
decoded = np.load(pixels_file, mmap_mode="r", allow_pickle=False)
captions = [c.captions for c in source.classes]
titles = [textwrap.fill(own[0].removeprefix("An H&E image of "), 20) for own in captions]
masks = {title: source_table.label.values == c for c, title in enumerate(titles)}
step_plots.mask_sheet(masks, source_table.tile.values, decoded, seed=seed)

# %% [markdown]
# The source shows the same kinds of tissue as the target, in other colours and textures. That gap is
# what makes the model err on the target.
#
# ## Pre-training
#
# The locked towers run over the tiles and captions once; the projections then learn within seconds.

# %%
labels, kwargs = source_table.label.values, {"image_size": image_size, "seed": seed, "steps": steps}
stand_in.build(model_folder, pixels_file, labels, captions, **kwargs)
losses = np.load(model_folder / "losses.npy", allow_pickle=False)
step_plots.loss_curve(losses, "contrastive loss")

# %% [markdown]
# The loss falls, then levels off well above zero: a batch holds many tiles of the same class, and no
# model can tell which of them a caption was meant for.
#
# ## Does it know its source?
#
# Zero-shot on the very tiles it was trained on. This only checks the training; how well the model
# does on the target is the question of the next notebook.

# %%
model = load_vlm(vlm, seed=seed)
text = embed_prompts(model, [c.prompts for c in source.classes])
embed_tiles(model, pixels_file, text, model_folder / "source")
predicted = np.load(model_folder / "source" / "probs.npy", allow_pickle=False).argmax(1)
step_plots.confusion(labels, {"stand-in": predicted}, source.class_names)

# %%
accuracy = (predicted == labels).mean()
print(f"accuracy on its source: {accuracy:.3f}, logit scale {model.scale:.1f}")
assert accuracy > source_table.label.value_counts(normalize=True).max(), "it learnt nothing"

# %% [markdown]
# Nearly everything should lie on the diagonal: on its source the model matches images and words.
#
# ## The loss in torch
#
# A batch of tiles, each with the first caption of its class: cross-entropy along the rows (which caption belongs to
# the tile) and along the columns (which tile belongs to the caption). `ClipLoss` has trained the projections.

# %%
first_captions = embed_prompts(model, [of_class[:1] for of_class in captions])

# %% tags=["algorithm"]
batch = np.random.default_rng(seed).permutation(len(labels))[:256]
u = torch.from_numpy(np.load(model_folder / "source" / "image_embeds.npy")[batch]).float()
v = first_captions[labels[batch]].cpu()
logits = model.scale * u @ v.T
loss = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).mean() / 2
assert torch.allclose(loss, ClipLoss()(u, v, model.scale))

# %% [markdown]
# **Recap.** `load_vlm(vlm)` now gives a model with an image and a text tower like any other of
# open_clip. Next: `10_zero_shot_inference`.
