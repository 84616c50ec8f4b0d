# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own tiles
#
# A folder of images that nobody has labelled, and one line of text per class: the whole of VLM-CPL in
# one notebook, in our setting. Prompts label the tiles, $V$ views and the clusters decide which labels
# $\hat y$ to keep, two networks learn from those ($D_l$) and from each other on the rest ($D_u$):
#
# $$D_l = \{\,i : \text{the views agree on } \hat y_i \;\wedge\; \pi^*(k_i) = \hat y_i\,\}, \qquad p(c \mid x) = \tfrac12\big(p_A(c \mid x) + p_B(c \mid x)\big)$$
#
# - In: a folder of JPEG, PNG, TIFF or WebP files, flat or in subfolders; the classes.
# - Out, in a folder of its own: `pseudo_labels.csv`, `predictions.csv` for these tiles,
#   `predictions_other.csv` for a second folder, `classifier/`, `gallery/` and `index.html`, a page for
#   any browser.
#
# `make own TILES=folder CLASSES="benign colonic tissue; colon adenocarcinoma"` runs it without Jupyter.

# %%
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from lib.data import cards, tiles
from lib import consensus, classifier, paths
from lib.report import gallery, plots
from lib.learning import losses, networks, trainer, setups
from lib.vlm import stand_in
from lib.vlm.prompts import PAPERS, class_prompts, parse_classes, parse_templates
from lib.artefacts import atomic
from lib.vlm.inference import embed_prompts, embed_tiles, embed_views
from lib.vlm.cards import credits
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo"  # names the folder of the results
vlm = "stand-in-demo_other_lab"  # see load_vlm; several joined by +
seed = 0  # of the views, the clusters and the networks
folder = ""  # of your tiles; empty: the drawn tiles of the demo
classes = ""  # words for each class, by semicolon; names and more wordings: lib/prompts.py
other = ""  # a second folder to predict; empty: none
by_folder = False  # subfolders are slides or cases: a table of them is made
templates = ""  # by semicolon, with {} for the class; empty: the papers'
image_size = 96  # of a stand-in, in pixels; every other VLM has its own
n_views = 10  # V; published: 10 for LC25000, 30 for HPH
share = 0.3  # ρ; published
n_steps = 1000  # of training

# %%
demo = cards.read_card("demo")
where = Path(folder).expanduser() if folder else cards.prepare(demo)
if folder or classes:
    prompts = parse_classes(classes, parse_templates(templates) or [PAPERS])
else:
    prompts = dict(zip(demo.class_names, class_prompts(demo, parse_templates(templates)), strict=True))
names = list(prompts)
table = classifier.list_tiles(where, by_folder=by_folder)
unique = classifier.once(table)
elsewhere = classifier.list_tiles(Path(other).expanduser()) if other else None
out = paths.run_folder(dataset, vlm, seed) / paths.file_name(str(where.resolve()))
print(f"{len(table)} files, {len(table) - len(unique)} of them copies; results go to {out}")

# %% [markdown]
# ## The model and the tiles
#
# A stand-in is built if it is not there. Files that cannot be read are named before anything is written;
# what had to be converted to 8-bit colour is said.

# %%
for member in filter(lambda name: name.startswith(paths.STAND_IN), vlm.split("+")):
    learnt_on = stand_in.prepare(member, image_size=image_size, seed=seed)
    assert not set(learnt_on.digest) & set(unique.digest), f"{member} has seen some of these tiles"
model = load_vlm(vlm, seed=seed)
store = tiles.decode_tiles(unique, where, dataset, model.image_size)
if other:
    tiles.decode_tiles(classifier.once(elsewhere), Path(other).expanduser(), "own", model.image_size)
decoded = np.load(store, mmap_mode="r", allow_pickle=False)
print(f"{describe_vlm(vlm)}, {model.image_size} px on {model.device}")
print(credits(vlm))
pd.DataFrame({"class": names, "prompts": [" · ".join(of) for of in prompts.values()]})

# %% [markdown]
# ## Prompts label, views and clusters decide
#
# What each notebook from `10` to `12` shows step by step. Ours: ties by probability, the share ρ of every
# predicted class, clusters on the features before their projection to the text space.

# %%
text = embed_prompts(model, list(prompts.values()))
embed_tiles(model, store, text, out)
embed_views(model, store, unique.tile.values, text, out, n_views=n_views, seed=seed)
files = ("probs", "agree", "features", "unprojected", "votes", "view_probs")
said = {file: np.load(out / f"{file}.npy", allow_pickle=False) for file in files}
prompt_labels = said["probs"].argmax(1)
features = {"projected": said["features"], "unprojected": said["unprojected"]}

# %%
rules = consensus.SETTINGS["ours"] | {"share": share, "seed": seed, "among": said["agree"]}
kept = consensus.keep_by_consensus("mvc+pfc", said["votes"], said["view_probs"], features, prompt_labels, **rules)
entropies = consensus.vote_entropy(said["votes"], len(names)), consensus.entropy(said["view_probs"])
unique = unique.assign(prompt_class=np.array(names)[prompt_labels], kept=kept, vote_entropy=entropies[0], view_entropy=entropies[1])
unique.groupby("prompt_class").agg(labelled=("kept", "size"), kept=("kept", "sum"), vote_entropy=("vote_entropy", "mean")).round(3)

# %% [markdown]
# ## Two networks learn
#
# Heads on the features of the views that voted; see `13_high_confidence_cross_supervision`. No label of
# yours is needed, and none could be used: the last step is taken as it is.

# %%
way = setups.frozen(out, unique.tile.values, len(names), steps=n_steps, seed=seed)
data = trainer.TrainingTiles(unique.tile.values, np.where(kept, prompt_labels, consensus.UNLABELLED), names)
objective = losses.HighConfidenceCrossSupervision()
both, curve = trainer.train(objective, setup.make_network, setup.sampler, data, plan=setup.plan, seed=seed, folder=out / "hcs")
probs = networks.predict(both, setup.reader, unique.tile.values)
classifier.save_classifier(out / "classifier", out / "hcs", model, seed, prompts)
plots.training_curve(curve, objective.threshold)

# %% [markdown]
# ## Tables
#
# One row per file; a copy of another file gets the same labels and names it in `copy_of`.

# %%
labels = table[["path", "group", "tile"]].merge(unique.drop(columns=["path", "group", "digest"])).drop(columns="tile")
predicted = classifier.predictions(table, probs, names)
groups = classifier.per_group(predicted, names) if by_folder else None
of_other = classifier.predict(out / "classifier", Path(other).expanduser()) if other else None
classifier.write_tables(out, {"pseudo_labels": labels, "predictions": predicted, "predictions_other": of_other, "groups": groups})
predicted.head()

# %% [markdown]
# ## The gallery
#
# Of each class the tiles that the classifier is surest of, those it is least sure of, and those whose
# prompt label the consensus rejected. The least sure and the rejected are the ones to look at.

# %%
seen = unique.merge(predicted.drop(columns="group"), on="path")
chosen = gallery.choose(seen, names)
with atomic(out / "gallery") as pictures:
    pictures.mkdir()
    for number, (name, part) in enumerate(chosen.items(), 1):
        sheet = plots.tile_sheet({row: decoded[part.tile[part.row == row]] for row in gallery.ROWS}, columns=gallery.PER_ROW)
        sheet.savefig(pictures / f"{number:02d}-{paths.file_name(name)[:60]}.png")
        display(name, sheet)

# %%
overview = gallery.overview(seen, prompts)
facts = [
    f"{len(table)} image files, {len(table) - len(unique)} of them copies of others. Nobody labelled them: {vlm} did, from the prompts below.",
    f"Of its labels {kept.sum()} ({kept.mean():.0%}) were kept: those that {n_views} views of a tile agree on most and that clusters of alike tiles confirm. Two networks learnt from these and predicted every tile.",
    "A confidence is the networks' own opinion. How often they are right is only known once somebody has labelled some of these tiles. Not for diagnosis.",
]
gallery.write_page(out / "index.html", title=where.resolve().name, facts=facts, classes=overview, groups=groups, chosen=chosen, decoded=decoded)
print(f"open {out / 'index.html'}")
overview

# %% [markdown]
# **Recap.** `predictions.csv` says what every tile is, `index.html` what to check, and
# `lib.classifier.predict(classifier, folder)` classifies other tiles. What the confidence is worth and where the
# method falls short is measured in `14_vlm_cpl_tables`. To correct it with a few labels of your own, see
# `22_active_learning_rounds`.
