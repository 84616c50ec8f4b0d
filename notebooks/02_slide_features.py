# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From slides to features
#
# A slide has too many pixels for any network, and most of it is glass. Here each slide becomes a list of tiles and
# their features: tissue is detected at 8 µm per pixel, a grid of tiles is laid over it, and the vision-language model
# encodes every tile. A tile of $P$ pixels at $m$ µm per pixel covers, in a slide of $m_0$ µm per pixel, a square of
#
# $$ s_0 = P \cdot \frac{m}{m_0} \ \text{pixels of the finest level,} $$
#
# with $m_0$ as exact as the file says it: no magnification is guessed and none is rounded. Nothing is learnt here.
#
# - In: slides and their table.
# - Out: `<slide>.h5` (features, coordinates), `<slide>.tissue.geojson` (to look at and to correct in QuPath).

# %%
import h5py
import numpy as np

from data.prepare.datasets import prepare
from lib.data import cards
from lib.figures import slide_plots
from lib.run_folder import open_run
from lib.slides.cohort import Cohort, embed_slides
from lib.slides.slide_table import read_slide_table, with_tissue
from lib.vlm.cards import describe_vlm
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo_slides"  # a card in data/cards that names a table of slides
vlm = "stand-in-demo_other_lab"  # see load_vlm
seed = 0  # of a stand-in
precision = "float32"  # of the image encoder; bfloat16 is faster where the processor computes in it
tile_mpp = 1.146  # µm per pixel of the tiles; as those that the model has learnt from
tissue = ""  # a folder with corrected <slide>.tissue.geojson; empty: tissue is detected
parts = 2  # jobs that share the slides
part = 0  # this job

# %%
run = open_run("02_slide_features", globals())
card = cards.read_card(dataset)
folder = prepare(card)
table = with_tissue(read_slide_table(card, folder), tissue)
mine = table[table.slide % parts == part]
print(f"{dataset}: {len(mine)} of {len(table)} slides, {table.group.nunique()} cases")

# %% [markdown]
# ## Tissue and grid
#
# The first slide of this job: what counts as tissue, and the tiles that lie in it by half or more. Glass, specks and
# pen marks are left out. A slide that does not say its µm per pixel is refused: give it in the table.

# %%
model = load_vlm(vlm, seed=seed, precision=precision)
cohort = Cohort(folder, mine, run.file("slides"), *model.tile(tile_mpp))
print(f"{describe_vlm(vlm)}, {model.image_size} px on {model.device}")

# %%
slide_plots.tissue_and_grid(cohort, mine.iloc[0])

# %% [markdown]
# ## Features
#
# Workers read tiles while the model encodes; `waiting` is how long it waited for them. A slide that is done is passed
# over, so this can be stopped and called again; `anew` says what has changed of one that was done before: the slide,
# its tissue, its µm per pixel, the tiles or the model.

# %%
report = embed_slides(model, cohort)
report.round(2)

# %%
failed = report[report.error != ""]
why = "; ".join(failed.name + ": " + failed.error)
assert failed.empty, f"{len(failed)} of {len(mine)} slides failed: {why}"

# %% [markdown]
# ## The side of a tile
#
# The tiles of the first slide lie side by side: each begins at a multiple of $s_0$, rounded to whole pixels.

# %%
with cohort.open(mine.iloc[0]) as slide:
    (m_0, _), (left, *_) = slide.mpp, slide.bounds
P, m = cohort.pixels, cohort.mpp
with h5py.File(cohort.out / f"{mine.iloc[0]['name']}.h5") as file:
    x = file["coords"][:, 0] - left

# %% tags=["algorithm"]
s_0 = P * m / m_0
k = np.round(x / s_0)  # the number of the column
assert np.array_equal(x, np.round(k * s_0))
print(f"{P} px at {m} µm/px are {s_0:.2f} px at {m_0:.4f} µm/px")

# %% [markdown]
# **Recap.** All slides have their features beside their coordinates, in the layout that TRIDENT and its followers read.
# Next: `17_open_set_prompting_slides` leaves out what is no target and labels the slides.
