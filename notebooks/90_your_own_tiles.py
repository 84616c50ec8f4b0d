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
#   `predictions_other.csv` for a second folder, `left_out.csv` where files were no tiles, `classifier/`
#   with a model card, `gallery/` and `index.html`, a page for any browser.
#
# `make own TILES=folder CLASSES="benign colonic tissue; colon adenocarcinoma"` runs it without Jupyter, with
# `LABELS=file` and the labels of some tiles, with `OTHER_TISSUE="fat; muscle"` where tiles may be none of the classes.

# %%
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from apps.labelling import audit, exchange
from apps.own_tiles import classifier, fit, gallery, model_card, quality, results, steps
from apps.own_tiles.tile_folder import list_tiles, tiles_folder
from lib import paths
from lib.record import published
from lib.slides import open_set

# %% tags=["parameters"]
dataset = "demo"  # names the folder of the results
vlm = "stand-in-demo_other_lab"  # see load_vlm; several joined by +
seed = 0  # of the views, the clusters and the networks
folder = ""  # of your tiles; empty: the synthetic tiles of the demo
classes = ""  # words for each class, by semicolon; names and more wordings: apps/own_tiles/words.py
other_tissue = ""  # words for what is no class, by semicolon; empty: every tile is of a class
other = ""  # a second folder to predict; empty: none
by_folder = False  # subfolders are slides or cases: tables of both are made
labels = ""  # of some tiles: a .jsonl of notebook 91 or a CSV with path and label
templates = ""  # by semicolon, with {} for the class; empty: the papers'
image_size = 96  # of a stand-in, in pixels; every other VLM has its own
n_views = 10  # V; published: 10 for LC25000, 30 for HPH
keep_ratio = 0.3  # ρ; published
n_steps = 1000  # of training

# %% [markdown]
# ## Classes, tiles and labels
#
# Words, folders and tables are checked before any model is loaded. The words of each class stand in the papers'
# template; without words and without a folder they are those of the demo. Other tissue comes after the classes and is
# learnt as further classes, as in `17_open_set_prompting_slides`: views, clusters and networks, not a prompt alone, say
# what is no class.

# %%
prompts, others = steps.prompts_of_classes(classes, other_tissue, templates, demo=not folder)
names = list(prompts)
targets = [name for name in names if name not in others]
lines = {"class": names, "prompts": [" · ".join(texts) for texts in prompts.values()]}
pd.DataFrame(lines).style.format(escape="html").hide()

# %% [markdown]
# Copies of a file count once. What is left out, such as other kinds of files, links to folders and images that cannot
# be read, is named here, in `left_out.csv` and on the page.

# %%
listed = list_tiles(tiles_folder(folder), by_folder=by_folder)
other_tiles = list_tiles(Path(other).expanduser()) if other else None
fit.refuse_too_few(len(listed.unique), targets)
out = paths.own_folder(dataset, vlm, seed, listed.folder)
n_copies = len(listed.table) - len(listed.unique)
print(f"{len(listed.table)} files, {n_copies} of them copies; results go to {out}")

# %% [markdown]
# No label is needed. Labels in a file (`labels`, from `91_label_tiles` or a table of yours) replace pseudo labels, and
# a tile that you call none of the classes loses its pseudo label.

# %%
said, problems = exchange.read_labels(Path(labels), listed.table, names) if labels else ({}, [])
settings = {"image_size": image_size, "n_views": n_views}
settings |= {"keep_ratio": keep_ratio, "n_steps": n_steps}
settings |= {"other_tissue": others} if others else {}
origin = results.made_from(listed.unique, labels, **settings)
print(f"{len(said)} tiles have a label of a person", *problems, sep="\n")

# %% [markdown]
# ## The model reads the tiles
#
# A stand-in is built if it is not there; it may not have learned on any of these tiles. Each tile is decoded once.

# %%
model = steps.load_model(vlm, listed.unique, image_size=image_size, seed=seed)

# %%
tiles, pixels_file = listed.decode(dataset, model.image_size)
pixels = np.load(pixels_file, mmap_mode="r", allow_pickle=False)
if other_tiles:
    other_tiles, _ = other_tiles.decode("own", model.image_size)
    print(*other_tiles.left_out_lines(), sep="\n")
print(f"{pixels.shape} {pixels.dtype}", *tiles.left_out_lines(), *tiles.converted_lines(), sep="\n")

# %% [markdown]
# ## Prompts label, views vote
#
# As in `10_zero_shot_inference` and `11_multi_view_consensus`: zero-shot probabilities $p(c \mid x)$ of each tile, and the
# votes of $V$ random views of it. A second run with the same tiles, words, model, views and seed finds them.

# %%
words = list(prompts.values())
views = {"n_views": n_views, "seed": seed}
seconds = steps.embed(model, pixels_file, tiles.unique, words, out, **views)

# %% [markdown]
# ## Filters choose, two networks learn
#
# As in `12_prompt_feature_consensus` and `13_high_confidence_cross_supervision`, in our setting: labels by lift, ties by
# probability, the fraction ρ of each predicted class, three clusters per class. The networks of the last step are taken
# as they are: no label chooses among them.

# %%
sizes = {"keep_ratio": keep_ratio, "n_steps": n_steps}
learned = steps.learn(out, tiles.unique, names, others, said, sizes, seed=seed)
classifier.save_classifier(
    out, tiles.unique, model=model, n_views=n_views, seed=seed, classes=prompts, origin=origin
)

judged = audit.of_classifier(
    out, tiles.unique.digest.tolist(), learned.probs, targets, others
)
audited = audit.report(paths.answers_file(tiles.folder), judged)
model_card.write_model_card(
    out / "classifier", learned.tiles, name=tiles.folder.resolve().name, alarms=learned.alarms,
    n_labelled=len(said), audit=audited.sentences if audited else ()
)

# %% [markdown]
# What looks wrong without a label:

# %%
lines = [f"alarm: {alarm.name}: {alarm.text}" for alarm in learned.alarms]
print(*lines or ["nothing"], sep="\n")

# %%
unique = learned.tiles
columns = {"tiles": ("kept", "size"), "kept": ("kept", "sum")}
columns["vote_entropy"] = ("vote_entropy", "mean")
unique.groupby("prompt_class").agg(**columns).round(3)

# %% [markdown]
# A class with a high vote entropy is one that the prompts describe badly: try other words. A class without kept tiles
# cannot be learned.

# %%
learned.training_curve()

# %% [markdown]
# The losses should settle, and more and more tiles without a label should be predicted with confidence. Whether they
# are correct cannot be seen here: nobody knows the true labels.
#
# ## Tables
#
# One row per file; a copy of another file gets the same labels and names it in `copy_of`. With `by_folder`, `groups.csv`
# has a row per folder, and `cases.csv` one per first folder, with the mean of the probabilities of its tiles. With other
# tissue a column `other_tissue` says which tiles are none of the classes; these count in no case.

# %%
predicted = results.predictions(tiles.table, learned.probs, names, others)
groups = results.per_group(predicted, names) if by_folder else None
cases = results.cases_of_folders(predicted, targets) if by_folder else None
tables = {"pseudo_labels": results.per_file(tiles.table, unique), "predictions": predicted}
tables |= {"groups": groups, "cases": cases, "left_out": tiles.left_out}
results.write_tables(out, tables)
predicted.head().round(3)

# %% [markdown]
# Tiles of the second folder may come from elsewhere. A permutation test compares their features with those of the
# training tiles, class by class, and a sentence says what it finds.

# %%
second, left_other, said_of_second = None, None, []
if other_tiles:
    second, other_tiles, text = classifier.predict_tiles(out / "classifier", other_tiles, model)
    left_other = other_tiles.left_out
    said_of_second = [f"The second folder, {other_tiles.folder.resolve().name}: {text}"]
print(*(f"note: {text}" for text in said_of_second), sep="\n")
results.write_tables(out, {"predictions_other": second, "left_out_other": left_other})
second.head().round(3) if other_tiles else None

# %% [markdown]
# ## The gallery
#
# Of each class the tiles that the classifier is surest of, those it is least sure of, and those whose
# prompt label the consensus rejected; of each other tissue the surest.

# %%
shown = unique.drop(columns=["group", "other_tissue"], errors="ignore").merge(predicted, on="path")
chosen = gallery.choose(shown, targets, others=others)
for name, sheet in gallery.write_sheets(out / "gallery", chosen, pixels).items():
    print(name)
    display(sheet)

# %% [markdown]
# Look at the second and the third row of each class first: errors are most likely there. If the first
# row shows tiles of another class, the words of the class mean something else to the model.
#
# ## The page
#
# The same pictures with their file names, for any browser, in one file that can be passed on, with the alarms at its
# head, and with whether the tiles are enough, as wide as the model expects, and how long more of them would take. How
# good is it? If somebody has audited these predictions (`91_label_tiles`), the page says it; else estimates without
# labels stand there beside their errors in the record, and none where an alarm rings.

# %%
overview = gallery.overview(shown, prompts)
dropped = open_set.dropped_tiles(learned.probs, others) if others else None
is_other = shown.other_tissue.values if others else None
facts = gallery.facts(tiles, unique.kept, vlm, n_views, is_other) + said_of_second
facts += [fit.enough(unique, targets, keep_ratio), fit.width(tiles, vlm)]
facts += [fit.pace(model, len(unique), n_views, seconds)]
page = {
    "title": tiles.folder.resolve().name, "alarms": learned.alarms,
    "chosen": chosen, "pixels": pixels, "facts": facts,
    "tables": {
        "Classes": overview, "Tiles that are no class": dropped, "Cases": cases,
        "Groups": groups, "Left out": tiles.left_out,
    },
}
gallery.write_page(out / "index.html", **page)
estimated = {} if others else learned.estimates  # of other tissue the record has none
known = audited or quality.without_audit(estimated, learned.alarms, published().facts)
gallery.write_quality(out / "index.html", known)
print(*known.sentences, f"open {out / 'index.html'}", sep="\n")
overview

# %% [markdown]
# **Recap.** `predictions.csv` holds the class of each tile, `index.html` shows what to check, and
# `apps.own_tiles.classifier.predict(classifier, folder)` classifies other tiles. What the confidence is worth, and
# where the method falls short, is measured in `14_comparison`. To correct it with a few labels of your
# own, go on with `91_label_tiles`.
