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
# A folder of whole slides that nobody has labelled, words for each class and words for tissue that is none of them:
# `02_slide_features` and `17_open_set_prompting_slides` in one notebook. A tile counts if its best prompt $T_j$ is that
# of a class $C$ and not of other tissue $O$; a slide gets the mean of its tiles' probabilities:
#
# $$\arg\max_{j \in C \cup O} \cos\big(f(x), g(T_j)\big) \in C, \qquad p(c \mid S) = \tfrac{1}{|S|} \textstyle\sum_{x \in S} p(c \mid x)$$
#
# - In: a folder of slides that OpenSlide reads; the words.
# - Out, in a folder of its own: `slides.csv`, `page/index.html` for any browser, and for each slide its features
#   (`.h5`), tissue and tiles (`.geojson`, for QuPath).
#
# `make slides SLIDES=folder CLASSES="…" OTHER_TISSUE="fat; muscle; …"` runs it without Jupyter.

# %%
from pathlib import Path

import numpy as np

from lib import paths
from data.prepare.datasets import prepare, prepare_source
from lib.data import cards
from lib.figures import slide_plots
from apps.slide_viewer import page
from lib.slides import cohort, open_set, study
from lib.vlm import stand_in
from lib.vlm.cards import describe_vlm, vlm_citations
from lib.vlm.inference import embed_prompts
from lib.vlm.loading import load_vlm
from lib.vlm.prompts import PAPERS, by_semicolon, parse_classes, parse_templates

# %% tags=["parameters"]
dataset = "demo_slides"  # names the folder of the results
vlm = "stand-in-demo_other_lab"  # see load_vlm
seed = 0  # of the draws, the views, the clusters and the networks
folder = ""  # of your slides; empty: the drawn slides of demo_slides
classes = ""  # words for each class, by semicolon; names and more wordings: lib/vlm/prompts.py
other_tissue = ""  # words for what is no class, by semicolon; empty: lib/slides/open_set.py
table = ""  # a CSV with path and mpp, for slides that do not say their µm per pixel
tissue = ""  # a folder with corrected <slide>.tissue.geojson; empty: tissue is found
templates = ""  # by semicolon, with {} for the class; empty: the papers'
image_size = 96  # of a stand-in, in pixels; every other VLM has its own
tile_mpp = 1.146  # µm per pixel of the tiles; as those that the model has learnt from
tiles_per_slide = 40  # that views vote on, drawn by chance among those that count
n_views = 10  # V
hue = 0.05  # colour jitter, ± share of the colour circle; the published code's is 0.2 or more
batch_size = 64  # tiles per forward pass
keep_ratio = 0.3  # ρ; published
threshold = 0.95  # γ, confidence above which the partner is believed
cross_weight = 0.5  # λ after the warm-up
n_steps = 1000  # of training
slide_steps = 300  # of training the attention

# %% [markdown]
# ## Classes and other tissue
#
# Without words and without a folder: those of the drawn slides.

# %%
demo, wordings = cards.read_card("demo_slides"), parse_templates(templates)
if folder or classes:
    prompts = parse_classes(classes, wordings or [PAPERS])
    others = by_semicolon(other_tissue)
else:
    prompts, others = {c.name: list(c.prompts) for c in demo.classes}, list(demo.other_tissue)
names, others = list(prompts), others or list(open_set.OTHER_TISSUE)
print(f"classes: {', '.join(names)}\nother tissue: {', '.join(others)}")

# %% [markdown]
# ## Slides and model

# %%
where = Path(folder).expanduser() if folder else prepare(demo)
slides, left_out = cohort.list_slides(where, Path(table).expanduser() if table else None)
slides = cohort.with_tissue(slides, tissue, left_out)
out = paths.own_folder(dataset, vlm, seed, where)
n_files = len(slides) + len(left_out)
print(f"{len(slides)} slides; results go to {out}")

# %%
if vlm.startswith(paths.STAND_IN):
    prepare_source(vlm)
    stand_in.prepare(vlm, image_size=image_size, seed=seed)
model = load_vlm(vlm, seed=seed)
print(f"{describe_vlm(vlm)}, {model.image_size} px on {model.device}")
print(vlm_citations(vlm))

# %% [markdown]
# ## Tissue, grid and features
#
# The first slide as an example: what counts as tissue and the tiles in it. Wrong tissue can be corrected in QuPath:
# open the `.tissue.geojson` there, change it and name its folder as `tissue`.

# %%
report = cohort.embed_slides(model, where, slides, out, mpp=tile_mpp)
for line in report[report.anew != ""].itertuples():
    print(f"made anew: {line.name}: other {line.anew}")
failed = (report.error != "").values
left_out |= dict(zip(slides.path[failed], report.error[failed], strict=True))
slides = slides[~failed].assign(slide=np.arange((~failed).sum())).reset_index(drop=True)
assert len(slides), f"no slide could be read; {cohort.left_out_lines(left_out, 5)}"

# %%
slide_plots.tissue_and_grid(where, slides.iloc[0], model.image_size, tile_mpp)

# %% [markdown]
# ## Which tiles count?
#
# Tiles that each prompt took, the surest first. Where a row shows something else than its words, try other words.

# %%
tiles = study.gather(slides, out)
text = embed_prompts(model, list(prompts.values()) + open_set.other_prompts(others))
probs = study.tile_probabilities(model, out, text)
relevant = open_set.relevant_tiles(probs, len(names))
print(f"{len(tiles)} tiles, {relevant.mean():.0%} of them count")
sizes = {"pixels": model.image_size, "mpp": tile_mpp}
slide_plots.taken_tiles(where, slides, tiles, probs, names, others, **sizes)

# %% [markdown]
# ## Views vote, filters choose, networks learn
#
# As in `11_multi_view_consensus` to `13_high_confidence_cross_supervision`, with every other tissue as a class too,
# so that views, clusters and networks decide which tiles are relevant. Alarms say what looks wrong.

# %%
views = {"n_views": n_views, "hue": hue, "batch_size": batch_size, "seed": seed}
rows = {open_set.LEARNT: np.arange(len(tiles))}
given = rows, model, where, slides, tiles, names, others, text, out
voted = study.vote_on(*given, mpp=tile_mpp, most=tiles_per_slide, views=views)

# %%
settings = {"keep_ratio": keep_ratio, "threshold": threshold, "cross_weight": cross_weight}
settings |= {"n_steps": n_steps, "slide_steps": slide_steps}
zero_shot, every = open_set.target_probabilities(probs, len(names)), np.full(len(slides), True)
given = voted[open_set.LEARNT], out, tiles.slide.values, zero_shot, None, every, names, settings
found = study.label_slides(*given, out / "networks", seed=seed)
print("\n".join(f"alarm: {a.name}: {a.text}" for a in found.alarms) or "no alarm")

# %% [markdown]
# ## Slides

# %%
shown = {"title": f"Slides of {where.name}", "left_out": left_out}
written = page.write_study_page(out, where, slides, tiles, found, probs, names, others, **shown)
predicted = page.slides_csv(out / "slides.csv", slides, found, names)
print(cohort.left_out_lines(left_out))
print(f"left out in all: {len(left_out)} of {n_files} files" if left_out else "nothing left out")
print("open", written)
predicted.head().round(3)

# %% [markdown]
# A probability is an opinion, not a measured accuracy: have some slides labelled before you rely on the rest.

# %% [markdown]
# **Recap.** Every slide has a class, every tile says why, and nobody has labelled one.
