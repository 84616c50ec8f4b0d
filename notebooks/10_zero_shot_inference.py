# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Zero-shot inference
#
# A vision-language model compares a tile with one sentence per class, $T_c$ = "An H&E image of
# {class}". With image encoder $f$, text encoder $g$ and the model's own logit scale $s$
# (VLM-CPL, arXiv 2403.15836):
#
# $$p(c \mid x) = \operatorname{softmax}_c\big(s \cdot \cos(f(x), g(T_c))\big), \qquad \text{prompt label} = \arg\max_c p(c \mid x)$$
#
# - In: `tiles.parquet`, the VLM, the prompts of the card.
# - Out: `features.npy` [N, D] and `unprojected.npy` [N, E] (float16), `probs.npy` [N, C], rows
#   `zero-shot` of the record.

# %%
import time
from functools import partial

import numpy as np
import pandas as pd

from lib import cards, metrics, paths, plots, tiles
from lib.run import row, write_rows
from lib.vlm import embed_prompts, embed_tiles, load_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # see load_vlm
seed = 0  # of the split (and of a stand-in)
batch_size = 64  # tiles per forward pass

# %%
run = paths.run_folder(dataset, vlm, seed)
card = cards.read_card(dataset)
table = pd.read_parquet(run / "tiles.parquet")
model = load_vlm(vlm, seed=seed)
store = tiles.decode_tiles(table, cards.locate(card), dataset, model.image_size)
print(
    f"{model.name} on {model.device}, {model.dtype}, {model.image_size} px, scale {model.scale:.1f}"
)

# %% [markdown]
# ## Prompts
#
# Several prompts of a class are averaged as normalised text features. Cosines between classes near
# one mean prompts that the model can hardly tell apart.

# %%
prompts = [list(c.prompts) for c in card.classes]
text = embed_prompts(model, prompts)
pd.DataFrame((text @ text.T).cpu(), card.class_names, card.class_names).round(2)

# %% [markdown]
# ## Every tile, un-augmented

# %%
started = time.perf_counter()
embed_tiles(model, store, text, run, batch_size=batch_size)
seconds = time.perf_counter() - started
print(f"{len(table)} tiles in {seconds:.1f} s")

# %%
probs = np.load(run / "probs.npy", allow_pickle=False)
assert np.allclose(probs.sum(1), 1, atol=1e-4) and len(probs) == len(table)
predicted = probs.argmax(1)

# %% [markdown]
# ## How wrong is it?
#
# From here on true labels are used, to judge only: nothing is chosen by them.

# %%
plots.confusion(table.label.values, predicted, card.class_names)

# %% [markdown]
# A wrong label is often a confident one, so a threshold on the confidence is a weak filter.

# %%
plots.confidence_histogram(probs, table.label.values)

# %%
about = {"prompts": prompts, "image_size": model.image_size}
new_row = partial(row, dataset=dataset, vlm=vlm, seed=seed, method="zero-shot", params=about)
new_row = partial(new_row, device=str(model.device), seconds=seconds)
rows = []
for split in ("train", "test"):
    of = (table.split == split).values
    labels = table.label.values[of]
    quality = metrics.label_quality(predicted[of], np.ones(len(labels), bool), labels, card.class_names)
    measured = metrics.scores(probs[of], labels, card.class_names)
    rows.append(new_row(split=split, n=len(labels), scores=measured, labels=quality))
write_rows(run, "10_zero_shot_inference", rows)
pd.DataFrame({r["split"]: r["scores"] for r in rows}).drop("recall")

# %% [markdown]
# The interval of the test accuracy resamples whole groups, because tiles of a group are alike.

# %%
test = table[table.split == "test"]
right = predicted[test.tile] == test.label.values
low, high = metrics.grouped_interval(lambda at: right[at].mean(), test.group.values, seed=seed)
print(f"zero-shot accuracy on test: {right.mean():.3f}, 95 % interval over groups {low:.3f}–{high:.3f}")

# %% [markdown]
# **Recap.** Every tile has a prompt label, and many are wrong. Which ones can be trusted?
# Next: `11_multi_view_consensus`.
