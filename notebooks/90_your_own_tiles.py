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
# A folder of images that nobody has labelled, and one line of text per class: all of VLM-CPL in one
# notebook, in our setting. Prompts label the tiles; $V$ views and the clusters $k_i$, matched to
# classes by $\pi^*$, decide which labels $\hat y$ to keep; two networks $A$, $B$ learn from those
# ($D_l$) and from each other on the rest:
#
# $$D_l = \{\,i : \text{the views agree on } \hat y_i \;\wedge\; \pi^*(k_i) = \hat y_i\,\}, \qquad p(c \mid x) = \tfrac12\big(p_A(c \mid x) + p_B(c \mid x)\big)$$
#
# - In: a folder of JPEG, PNG, TIFF or WebP files, flat or in subfolders; the classes.
# - Out, in a folder of its own: `pseudo_labels.csv`, `predictions.csv` for these tiles,
#   `predictions_other.csv` for a second folder, `left_out.csv` where files were no tiles, `classifier/`,
#   `gallery/` and `index.html`, a page for any browser.
#
# `make own TILES=folder CLASSES="benign colonic tissue; colon adenocarcinoma"` runs it without Jupyter, with
# `LABELS=file` and the labels of some tiles.

# %%
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from apps.own_tiles import classifier
from lib import consensus, paths
from lib.alarm import label_free_alarms
from lib.clusters import lift_clusters
from data.prepare.datasets import prepare, prepare_source
from lib.data import cards, tiles
from apps.labelling import exchange
from lib.labels import UNLABELLED
from lib.learning import losses, networks, setups, trainer
from apps.own_tiles import gallery
from lib.figures import step_plots
from lib.vlm import stand_in
from lib.vlm.cards import describe_vlm, vlm_citations
from lib.vlm.inference import embed_prompts, embed_tiles, embed_views
from lib.vlm.loading import load_vlm
from lib.vlm.prompts import PAPERS, class_prompts, parse_classes, parse_templates

# %% tags=["parameters"]
dataset = "demo"  # names the folder of the results
vlm = "stand-in-demo_other_lab"  # see load_vlm; several joined by +
seed = 0  # of the views, the clusters and the networks
folder = ""  # of your tiles; empty: the drawn tiles of the demo
classes = ""  # words for each class, by semicolon; names and more wordings: lib/vlm/prompts.py
other = ""  # a second folder to predict; empty: none
by_folder = False  # subfolders are slides or cases: a table of them is made
labels = ""  # of some tiles: a .jsonl of notebook 91 or a CSV with path and label
templates = ""  # by semicolon, with {} for the class; empty: the papers'
image_size = 96  # of a stand-in, in pixels; every other VLM has its own
n_views = 10  # V; published: 10 for LC25000, 30 for HPH
keep_ratio = 0.3  # ρ; published
n_steps = 1000  # of training

# %% [markdown]
# ## The classes
#
# Words for each class, put into the template of the papers. Without words and without a folder: the
# classes of the demo.

# %%
demo, wordings = cards.read_card("demo"), parse_templates(templates)
if folder or classes:
    prompts = parse_classes(classes, wordings or [PAPERS])
else:
    prompts = dict(zip(demo.class_names, class_prompts(demo, wordings), strict=True))
names = list(prompts)
lines = {"class": names, "prompts": [" · ".join(texts) for texts in prompts.values()]}
pd.DataFrame(lines).style.format(escape="html").hide()

# %% [markdown]
# ## The tiles
#
# Every image below the folder. Copies of a file count once. What is left out, such as files of other kinds, links to
# folders and images that cannot be read, is named here, in `left_out.csv` and on the page.

# %%
tiles_folder = Path(folder).expanduser() if folder else prepare(demo)
table = classifier.list_tiles(tiles_folder, by_folder=by_folder)
unique = classifier.unique_tiles(table)
left = classifier.left_out(tiles_folder, table)
out = paths.own_folder(dataset, vlm, seed, tiles_folder)
print(f"{len(table)} files, {len(table) - len(unique)} of them copies; results go to {out}")
print(*classifier.left_out_lines(tiles_folder, left, len(table)), sep="\n")

# %%
left_other = None
if other:
    other_folder = Path(other).expanduser()
    other_table = classifier.list_tiles(other_folder)
    left_other = classifier.left_out(other_folder, other_table)
    print(*classifier.left_out_lines(other_folder, left_other, len(other_table)), sep="\n")

# %% [markdown]
# ## Labels of yours
#
# None is needed. Those that there are (`labels`, from `91_label_tiles` or a table of your own) stand in place of the
# pseudo labels, and a tile that you call none of the classes loses its own.

# %%
said, problems = exchange.read_labels(Path(labels), table, names) if labels else ({}, [])
sizes = {"image_size": image_size, "n_views": n_views, "keep_ratio": keep_ratio, "n_steps": n_steps}
origin = classifier.made_from(unique, labels, **sizes)
print(f"{len(said)} tiles are labelled in {labels or 'no file'}", *problems, sep="\n")

# %% [markdown]
# ## The model
#
# A stand-in is built if it is not there; it may not have learnt on any of these tiles.

# %%
for member in filter(lambda name: name.startswith(paths.STAND_IN), vlm.split("+")):
    prepare_source(member)
    source_table = stand_in.prepare(member, image_size=image_size, seed=seed)
    shared = set(source_table.digest) & set(unique.digest)
    assert not shared, f"{member} has seen some of these tiles"
model = load_vlm(vlm, seed=seed)
print(f"{describe_vlm(vlm)}, {model.image_size} px on {model.device}")
print(vlm_citations(vlm))

# %% [markdown]
# All tiles are decoded now, those of the second folder too. What had to be converted to 8-bit colour is named.

# %%
pixels_file = tiles.decode_tiles(unique, tiles_folder, dataset, model.image_size)
decoded = np.load(pixels_file, mmap_mode="r", allow_pickle=False)
if other:
    other_unique = classifier.unique_tiles(other_table)
    tiles.decode_tiles(other_unique, other_folder, "own", model.image_size)
print(f"{decoded.shape} {decoded.dtype}")

# %% [markdown]
# ## Prompts label, views vote
#
# As in `10_zero_shot_inference` and `11_multi_view_consensus`.

# %%
text = embed_prompts(model, list(prompts.values()))
embed_tiles(model, pixels_file, text, out)
embed_views(model, pixels_file, unique.tile.values, text, out, n_views=n_views, seed=seed)
files = ("probs", "agree", "image_embeds", "backbone_features", "votes", "view_probs")
arrays = [np.load(out / f"{name}.npy", allow_pickle=False) for name in files]
probs, agree, image_embeds, backbone_features, votes, view_probs = arrays

# %% [markdown]
# ## Views and clusters decide
#
# As in `12_prompt_feature_consensus`, in our setting: labels by lift, ties by probability, the fraction ρ
# of every predicted class, three clusters per class on the features before their projection to the space
# of the text.

# %%
features = {"projected": image_embeds, "unprojected": backbone_features}
choice = consensus.VARIANTS["ours"] | {"keep_ratio": keep_ratio, "seed": seed, "candidates": agree}
given = (votes, view_probs, features, probs.argmax(1))
every = consensus.label_by_consensus("", *given, **choice)  # before a filter
pseudo_labels = consensus.label_by_consensus("mvc+pfc", *given, **choice)
kept = pseudo_labels != UNLABELLED
learnt = exchange.overrule(pseudo_labels, unique.digest, said)

# %%
unique = gallery.consensus_columns(unique, names, every, kept, votes, view_probs)
columns = {"kept": ["size", "sum"], "vote_entropy": "mean"}
unique.groupby("prompt_class").agg(columns).round(3)

# %% [markdown]
# `size` tiles got the label, `sum` of them keep it. A class with a high vote entropy is one that the
# prompts describe badly: try other words. A class without kept tiles cannot be learnt.
#
# What else can be seen to be wrong without a label, and what to do:

# %%
cluster, lift = lift_clusters(backbone_features, view_probs, seed=seed, candidates=agree)
evidence = (view_probs, every, kept, cluster, lift, names)
for found in label_free_alarms(*evidence):
    print(f"{found.name}: {found.text}")

# %% [markdown]
# ## Two networks learn
#
# Heads on the features of the views that voted; see `13_high_confidence_cross_supervision`. The networks of the last
# step are taken as they are: no label chooses among them. Labels of yours stand in place of the pseudo labels.

# %%
setup = setups.frozen(out, unique.tile.values, len(names), steps=n_steps, seed=seed)
data = trainer.TrainingTiles(unique.tile.values, learnt, names)
objective = losses.HighConfidenceCrossSupervision()
given = (objective, setup.make_network, setup.sampler, data)
pair, curve = trainer.train(*given, schedule=setup.schedule, seed=seed, folder=out / "hcs")
classifier.save_classifier(out / "classifier", out / "hcs", model, seed, prompts, origin)
step_plots.training_curves({"ours": curve}, objective.threshold)

# %% [markdown]
# The losses should settle, and more and more tiles without a label should be predicted with
# confidence. Whether they are right cannot be seen here: nobody knows the true labels.
#
# ## Tables
#
# One row per file; a copy of another file gets the same labels and names it in `copy_of`.

# %%
probs = networks.predict(pair, setup.reader, unique.tile.values)
predicted = classifier.predictions(table, probs, names)
groups = classifier.per_group(predicted, names) if by_folder else None
others = classifier.predict(out / "classifier", other_folder) if other else None
csv = {"pseudo_labels": gallery.per_file(table, unique), "predictions": predicted, "groups": groups}
rest = {"predictions_other": others, "left_out": left, "left_out_other": left_other}
classifier.write_tables(out, csv | rest)
predicted.head().round(3)

# %% [markdown]
# ## The gallery
#
# Of each class the tiles that the classifier is surest of, those it is least sure of, and those whose
# prompt label the consensus rejected.

# %%
shown = unique.merge(predicted.drop(columns="group"), on="path")
chosen = gallery.choose(shown, names)
for name, sheet in gallery.write_sheets(out / "gallery", chosen, decoded).items():
    display(name, sheet)

# %% [markdown]
# Look at the second and the third row of each class first: errors are most likely there. If the first
# row shows wrong tiles, the words of the class mean something else to the model.
#
# ## The page
#
# The same pictures with their file names, for any browser, in one file that can be passed on. What is suspicious
# stands at its head, with classes that the networks never predict.

# %%
overview = gallery.overview(shown, prompts)
alarms = label_free_alarms(*evidence, predicted=probs)
tables = {"Classes": overview, "Groups": groups, "Left out": left}
facts = gallery.facts(table, unique, kept, vlm, n_views, left)
page = {"facts": facts, "alarms": alarms, "tables": tables, "chosen": chosen}
gallery.write_page(out / "index.html", title=tiles_folder.resolve().name, decoded=decoded, **page)
print(*(f"alarm: {a.name}: {a.text}" for a in alarms), f"open {out / 'index.html'}", sep="\n")
overview

# %% [markdown]
# **Recap.** `predictions.csv` holds the class of every tile, `index.html` shows what to check, and
# `apps.own_tiles.classifier.predict(classifier, folder)` classifies other tiles. What the confidence is worth, and
# where the method falls short, is measured in `14_comparison`. To correct it with a few labels of your
# own, go on with `91_label_tiles`.
