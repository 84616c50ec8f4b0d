# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own slides
#
# Whole slides that nobody has labelled, words for each class $C$ and for other tissue $O$. A tile counts if its best
# prompt $T_j$ is that of a class; a slide gets the mean of the probabilities of its tiles that count:
#
# $$\arg\max_{j \in C \cup O} \cos\big(f(x), g(T_j)\big) \in C, \qquad p(c \mid S) = \tfrac{1}{|S|} \textstyle\sum_{x \in S} p(c \mid x)$$
#
# - In: a folder of slides that OpenSlide reads; the words.
# - Out, in a folder of its own: `page/index.html` for any browser, `slides.csv`, `cases.csv` where slides are of
#   cases, and for each slide its features (`.h5`), tissue and tiles (`.geojson`, for QuPath).
#
# `make slides SLIDES=folder CLASSES="…" OTHER_TISSUE="fat; muscle; …"` runs it without Jupyter.

# %%
from pathlib import Path


from apps.own_tiles import results
from apps.slide_viewer import own_slides, page, slide_labels
from data.prepare import stand_in
from data.prepare.datasets import prepare, prepare_source
from lib import paths
from lib.data import cards
from lib.figures import slide_plots
from lib.slides import open_set, study
from lib.slides.cohort import Cohort, embed_slides
from lib.slides.slide_table import with_tissue
from lib.vlm.cards import describe_vlm, split_name, vlm_citations
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo_slides"  # names the folder of the results
vlm = "stand-in-demo_other_lab"  # see load_vlm
seed = 0  # of the draws, the views, the clusters and the networks
folder = ""  # of your slides; empty: the synthetic slides of demo_slides
classes = ""  # words for each class, by semicolon; names and more wordings: apps/own_tiles/words.py
other_tissue = ""  # words for what is no class, by semicolon; empty: lib/slides/open_set.py
table = ""  # a CSV with path and mpp, case or both: µm per pixel that a slide does not say; its case
by_folder = False  # the first subfolder of a slide is its case
tissue = ""  # a folder with corrected <slide>.tissue.geojson; empty: tissue is detected
features = ""  # a folder of .h5 of TRIDENT or CLAM: their tiles and features; empty: our own
templates = ""  # by semicolon, with {} for the class; empty: the papers'
image_size = 96  # of a stand-in, in pixels; every other VLM has its own
tile_mpp = 1.146  # µm per pixel of the tiles; as those that the model has learnt from
min_stained = 0.1  # share of a tile that has to have colour: bare glass is no tile
tiles_per_slide = 40  # that views vote on, sampled
n_views = 10  # V
hue = 0.05  # colour jitter, ± share of the colour circle; the published code's is 0.2 or more
batch_size = 64  # tiles per forward pass
keep_ratio = 0.3  # ρ; published
threshold = 0.8  # γ, confidence above which the partner is believed
cross_weight = 0.5  # λ after the warm-up
n_steps = 1000  # of training
slide_steps = 300  # of training the attention

# %% [markdown]
# ## Words and slides
#
# Without words and without a folder: those of the synthetic slides.

# %%
synthetic = cards.read_card("demo_slides")
known = None if folder or classes else synthetic
prompts, others = own_slides.words(classes, other_tissue, templates, known)
print(f"classes: {', '.join(prompts)}\nother tissue: {', '.join(others)}")

# %% [markdown]
# Labels of slides, where somebody has filled in their table, are seen by the audit at the end and by nothing else.

# %%
where = Path(folder).expanduser() if folder else prepare(synthetic)
listed = Path(table).expanduser() if table else None
slides, left_out = own_slides.list_slides(where, listed, by_folder=by_folder)
slides = with_tissue(slides, tissue, left_out).assign(learnt_from=True)
given = own_slides.given_folder(features, tissue, vlm)
n_files = len(slides) + len(left_out)
labels_file = slide_labels.labels_file(where)
labels = slide_labels.read_labels(labels_file, list(prompts))
print(f"{len(slides)} slides in {n_files} files")

# %%
for member in split_name(vlm)[0]:
    if member.startswith(paths.STAND_IN):
        prepare_source(member)
        stand_in.prepare(member, image_size=image_size, seed=seed)
model = load_vlm(vlm, seed=seed)
out = paths.own_folder(dataset, vlm, seed, where)
print(f"{describe_vlm(vlm)}, {model.image_size} px on {model.device}")
print(vlm_citations(vlm), model.caveat, sep="\n")

# %% [markdown]
# ## Tissue and features
#
# Tissue is detected, a grid of tiles is laid over it, and the model encodes each tile. The first slide as an example.
# Tissue that is incorrect can be corrected in QuPath: open the `.tissue.geojson` there, change it, and name its folder
# as `tissue`. Where `features` names those of another program, its tiles stand for tissue and grid, and what clusters
# and networks read is theirs; the model looks at the same tiles for the prompts and the votes.

# %%
cohort = Cohort(where, slides, out, *model.tile(tile_mpp), min_stained, given)
cohort, unread = own_slides.without_failed(cohort, embed_slides(model, cohort))
left_out |= unread
print(*own_slides.left_out_lines(left_out), sep="\n")
print(f"left out in all: {len(left_out)} of {n_files} files")

# %%
slide_plots.tissue_and_grid(cohort, cohort.table.iloc[0])

# %% [markdown]
# ## Which tiles count?
#
# The surest tiles of each prompt. Where a row shows something else than its words, try other words.

# %%
tiles = study.prompted_tiles(model, cohort, prompts, others)
print(f"{len(tiles.probs)} tiles, {tiles.relevant.mean():.0%} of them count")
slide_plots.taken_tiles(tiles)

# %% [markdown]
# ## Views vote, networks learn
#
# As in `11_multi_view_consensus` to `13_high_confidence_cross_supervision`, with other tissue as further classes, so
# that views, clusters and networks decide together which tiles count.

# %%
views = {"n_views": n_views, "hue": hue, "batch_size": batch_size, "seed": seed}
voted = study.vote_on(model, tiles, [open_set.LEARNT], max_tiles=tiles_per_slide, views=views)

# %%
settings = {"keep_ratio": keep_ratio, "threshold": threshold, "cross_weight": cross_weight}
settings |= {"n_steps": n_steps, "slide_steps": slide_steps}
found = study.label_slides(tiles, voted[open_set.LEARNT], settings, out / "networks", seed=seed)

# %% [markdown]
# ## Alarms
#
# What looks wrong, without a label to compare with. Read it before the classes of the slides.

# %%
print(*own_slides.alarm_lines(found.alarms), sep="\n")

# %% [markdown]
# ## Slides
#
# A probability is an opinion, not a measured accuracy: have some slides labelled before you rely on the rest. They
# stand in a table in an order of chance. Fill in its column `label` from the top and run this notebook again: the
# slides that have a label are an audit. Where the class is empty, no tile of the slide counts, or no class could be
# learnt.

# %%
slide_labels.write_table(labels_file, cohort.table.path.tolist(), labels)
classes_found, _ = found.classes(tiles.targets)
audited = slide_labels.audit_lines(cohort.table, classes_found, labels, labels_file)
print(*audited, sep="\n")

# %%
shown = {"title": f"Slides of {where.name}", "slides": cohort.table, "left_out": left_out}
shown["quality"] = audited
written = page.write_study_page(out, tiles, found, **shown)
predicted = page.write_slides_csv(out / "slides.csv", cohort.table, found, tiles.targets)
print(f"{(predicted['class'] != '').sum()} of {len(predicted)} slides have a class")
print("open", written)
predicted.head().round(3)

# %% [markdown]
# A case is read like one slide: the mean over its tiles that count, whichever of its slides they are on.

# %%
cases = page.case_table(tiles, found, cohort.table)
results.write_tables(out, {"cases": cases})
cases.head().round(3) if cases is not None else "no slide has a case"

# %% [markdown]
# **Recap.** The page shows each slide with its tiles and with the alarms above. A class that an alarm names is not to
# be relied on: use other words, another model, or label some tiles (`91_label_tiles`).
