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
# In the paper: the labels that all else starts from. The abstract says that VLM-CPL "largely outperformed existing
# zero-shot classification" methods; no published value of these could be read. Ours stands row by row in
# [What of each paper stands where](README.md#vlm-cpl).
#
# - In: `tiles.parquet`, the VLM, the prompts of the card.
# - Out: `image_embeds.npy` [N, D] and `backbone_features.npy` [N, E] (float16), `probs.npy` [N, C], `agree.npy`
#   [N] (whether several VLMs agree), results `zero-shot`.

# %%
import time

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax

from lib.data import cards
from lib.figures import step_plots
from lib.figures.style import show_table
from lib.report import evaluation, statistics
from lib.report.format import with_interval
from lib.run_folder import open_run
from lib.shares import embed_in_parts
from lib.vlm.cards import vlm_citations
from lib.vlm.inference import class_probabilities, embed_prompts, embed_tiles
from lib.vlm.loading import load_vlm
from lib.vlm.prompts import TEMPLATES, class_prompts, parse_templates

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # see load_vlm; several joined by +
seed = 0  # of a stand-in
precision = "float32"  # of the image encoder; bfloat16 is faster where the processor computes in it
templates = ""  # by semicolon, with {} for the class; empty: the prompts of the card
batch_size = 64  # tiles per forward pass
parts = 1  # jobs that share the tiles
part = -1  # this job, which ends with its share; -1: the one that does what is left and goes on

# %%
run = open_run("10_zero_shot_inference", globals())
card, table = cards.read_card(dataset), run.load("tiles")
model = load_vlm(vlm, seed=seed, precision=precision)
for m in model.members:
    print(f"{m.name} on {m.device}, {m.dtype}, {m.image_size} px, scale {m.scale:.1f}")
print(vlm_citations(vlm), model.caveat, sep="\n")

# %% [markdown]
# ## Prompts
#
# Several prompts of a class become one: the mean of their normalised text features. The table shows
# the prompts and the cosine between classes. Near one, the model can hardly tell the two sentences apart. Prompts and
# input size become settings of the run; all later notebooks use them.

# %%
prompts = class_prompts(card, parse_templates(templates))
run.decide(prompts=prompts, input_size=model.image_size)
if model.commits:  # of the hub, where the same name can be another model later
    run.decide(commits=model.commits)
text = embed_prompts(model, prompts)
cosines = pd.DataFrame((text @ text.T).cpu(), card.class_names, card.class_names).round(2)
show_table(cosines.assign(prompts=[" · ".join(of_class) for of_class in prompts]))

# %% [markdown]
# ## Every tile, un-augmented
#
# The image encoder looks at each tile once. With several VLMs (`vlm` is two names joined by +) the
# probabilities are averaged, and tiles on which the models disagree are never kept by the filters.

# %% tags=["share"]
started, share = time.perf_counter(), {"part": part, "parts": parts}
embed_in_parts(run, embed_tiles, model, text, **share, batch_size=batch_size)
seconds = time.perf_counter() - started
print(f"{len(table)} tiles in {seconds:.1f} s")

# %%
probs, agree = run.load("probs", "agree")
predicted, labels = probs.argmax(1), table.label.values
print(f"probs {probs.shape}; VLMs: {len(model.members)}, agreeing on {agree.mean():.1%} of tiles")
assert np.allclose(probs.sum(1), 1, atol=1e-4) and len(probs) == len(table)

# %% [markdown]
# ## The equation in numpy
#
# The probabilities of the first thousand tiles follow from their saved features. These are stored in half
# precision, so both agree to two digits.

# %% tags=["algorithm"]
encoded = run.load("image_embeds")[:1000].astype(np.float32), text.cpu().numpy()
of_member = (np.split(x, np.cumsum(model.sizes[:-1], dtype=int), axis=1) for x in encoded)
p = 0
for m, f, t in zip(model.members, *of_member, strict=True):  # one, or several VLMs
    f, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (f, t))
    p += softmax(m.scale * f @ t.T, axis=1) / len(model.members)
assert np.allclose(p, probs[:1000], atol=0.01)

# %% [markdown]
# ## What the model says about a tile
#
# Three tiles that the prompts label rightly and three that they do not, with the probability of each
# class. The title is the true class. The longest bar is the prompt label: green if it is right.

# %%
decoded = run.pixels()
shuffled = np.random.default_rng(seed).permutation(len(table))
right = (predicted == labels)[shuffled]
six = np.concatenate([shuffled[right][:3], shuffled[~right][:3]])
step_plots.probability_bars(decoded[six], probs[six], labels[six], card.class_names)

# %% [markdown]
# The bars of wrong labels tend to be shorter, but there is no length at which wrong ends and right
# begins: a right label can be as close a call as a wrong one.
#
# ## How wrong is it?
#
# From here on true labels are used, but only to judge: nothing is chosen by them.

# %%
step_plots.confusion(labels, {"zero-shot": predicted}, card.class_names)

# %% [markdown]
# The errors are not spread evenly: some classes lose many tiles to one neighbour, whose sentence fits
# them nearly as well, and others hardly any.

# %%
surest = np.argsort(-probs.max(1), kind="stable")[: int(0.3 * len(table))]
correct = (predicted == labels).mean(), (predicted == labels)[surest].mean()
print("correct: {:.1%} of all labels, {:.1%} of the 30 % most confident".format(*correct))
step_plots.judged_histogram(probs.max(1), predicted == labels, "confidence", log=True)

# %% [markdown]
# The number of tiles is on a logarithmic scale. Confident labels are more often correct, so a threshold on the
# confidence is a filter that costs nothing; the filters of the next notebooks have to do better than the number
# above. On the synthetic tiles of `demo` the vote of ten views as published does not (0.933 of the 30 % that it
# keeps, over all folds), and only both published filters together, or our rules, do. What a threshold
# cannot see is a class that the model names with confidence where another one is meant.
#
# The scores of each fold, for the record:

# %%
fields = {"device": str(model.device), "seconds": seconds}
evaluations = evaluation.evaluate_zero_shot(probs, table, card.class_names, **fields)
recorded = run.record(evaluations)
tested = recorded[recorded.facts.split == "test"]
scores = ["accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece"]
tested.facts.set_index("fold")[scores].T.astype(float).round(3)

# %% [markdown]
# No fold has been learnt from, so all of them measure the same; what differs is the tiles. Tiles of
# one group are alike, so an interval of 95 % resamples folds and whole groups.

# %%
groups = statistics.grouped(tested, ["method"])
pooled = statistics.estimates(groups, ("zero-shot",))
print("zero-shot accuracy:", with_interval(pooled["accuracy"]))

# %% [markdown]
# ## How much do the words matter?
#
# The same image features, compared with other prompts: each template alone, and all of them averaged.
# The run keeps the prompts above whatever comes out: a prompt chosen by its accuracy would be chosen
# with labels.

# %%
features = torch.from_numpy(run.load("image_embeds").astype(np.float32)).to(model.device)
wordings = {template: class_prompts(card, [template]) for template in TEMPLATES}
wordings = {"of this run": prompts, **wordings, "all templates": class_prompts(card, TEMPLATES)}
texts = {name: embed_prompts(model, wording) for name, wording in wordings.items()}
probs_of = {n: class_probabilities(model, features, t).cpu().numpy() for n, t in texts.items()}
evaluation.accuracy_table(probs_of, table)

# %% [markdown]
# How much the wording matters depends on the model. Without labels nobody knows which one is best.

# %% [markdown]
# **Recap.** Every tile has a prompt label, and many are wrong. Which ones can be trusted?
# Next: `11_multi_view_consensus`.
