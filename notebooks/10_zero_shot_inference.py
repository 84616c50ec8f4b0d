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
# - Out: `features.npy` [N, D] and `unprojected.npy` [N, E] (float16), `probs.npy` [N, C], `agree.npy`
#   [N] (whether several VLMs agree), rows `zero-shot` of the record.

# %%
import time
from functools import partial

import numpy as np
import pandas as pd
import torch

from lib.data import cards, tiles
from lib.report import metrics, plots
from lib import paths
from lib.vlm.prompts import TEMPLATES, class_prompts, parse_templates
from lib.record import row, write_rows
from lib.vlm.inference import class_probabilities, embed_prompts, embed_tiles
from lib.vlm.cards import credits
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # see load_vlm; several joined by +
seed = 0  # of the split (and of a stand-in)
templates = ""  # by semicolon, with {} for the class; empty: the prompts of the card
batch_size = 64  # tiles per forward pass

# %%
run = paths.run_folder(dataset, vlm, seed)
card = cards.read_card(dataset)
table = pd.read_parquet(run / "tiles.parquet")
model = load_vlm(vlm, seed=seed)
store = tiles.decode_tiles(table, cards.prepare(card), dataset, model.image_size)
for m in model.members:
    print(f"{m.name} on {m.device}, {m.dtype}, {m.image_size} px, scale {m.scale:.1f}")
print(credits(vlm))

# %% [markdown]
# ## Prompts
#
# Several prompts of a class are averaged as normalised text features. Cosines between classes near
# one mean prompts that the model can hardly tell apart. All later notebooks take the prompts from here.

# %%
prompts = class_prompts(card, parse_templates(templates))
text = embed_prompts(model, prompts)
pd.DataFrame((text @ text.T).cpu(), card.class_names, card.class_names).round(2)

# %% [markdown]
# ## Every tile, un-augmented
#
# Several VLMs (`vlm` of two names joined by +) give the average of their probabilities; tiles that they
# do not agree on are never kept by the filters.

# %%
started = time.perf_counter()
embed_tiles(model, store, text, run, batch_size=batch_size)
seconds = time.perf_counter() - started
print(f"{len(table)} tiles in {seconds:.1f} s")

# %%
probs = np.load(run / "probs.npy", allow_pickle=False)
assert np.allclose(probs.sum(1), 1, atol=1e-4) and len(probs) == len(table)
agree = np.load(run / "agree.npy", allow_pickle=False)
print(f"{len(model.members)} VLM, agreed on {agree.mean():.1%} of the tiles")
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
# ## How much do the words matter?
#
# The same tiles, other prompts: each template alone, and all of them averaged. Labels judge only; the
# run keeps the prompts above, for a prompt that is chosen by its accuracy is chosen with labels.

# %%
features = torch.from_numpy(np.load(run / "features.npy", allow_pickle=False)).float().to(model.device)
wordings = {"of this run": prompts} | {t: class_prompts(card, [t]) for t in TEMPLATES} | {"all templates": class_prompts(card, TEMPLATES)}
accuracy = {}
for wording, said in wordings.items():
    right = class_probabilities(model, features, embed_prompts(model, said)).argmax(1).cpu().numpy() == table.label
    accuracy[wording] = right.groupby(table.split).mean()
pd.DataFrame(accuracy).T[["train", "test"]].round(3)

# %% [markdown]
# **Recap.** Every tile has a prompt label, and many are wrong. Which ones can be trusted?
# Next: `11_multi_view_consensus`.
