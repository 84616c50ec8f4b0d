# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Label tiles
#
# UniSAL on your own tiles, with a person as the oracle. It starts where `90_your_own_tiles` ended: the two networks
# $A$, $B$ of VLM-CPL, which have learned from no label, choose the first query: one tile of each compact cluster of all features
# $z$ (CS), so that it shows what they do not know, and how far to trust them. Later $A$, $B$ learn from your labels,
# and of the tiles $U$ without an answer those come first on which they disagree (DUS), of these the compact ones:
#
# $$U' = \{\,x \in U : \arg\max_c p_A(c \mid x) \neq \arg\max_c p_B(c \mid x)\,\}, \qquad Q = \text{CS}_{|Q|}\big(\{z(x) : x \in U'\}\big)$$
#
# - In: the results of `90_your_own_tiles` for the same folder; without a folder, for the synthetic tiles of the demo.
# - Out: the answers, a line each, in `data/labels/`, which nothing removes or overwrites; `rounds/`,
#   `predictions_labelled.csv`, `labels.csv` and files for Label Studio among the results.
#
# `make label TILES=folder CLASSES="benign colonic tissue; colon adenocarcinoma"` runs notebook 90 and opens this one;
# with `ASK=audit` it asks for tiles drawn by chance, which tell how good the predictions are.

# %%
from functools import partial

from IPython.display import HTML, display

from apps.labelling import answers, audit, exchange, people, session
from apps.labelling.widget import LabelGrid
from apps.own_tiles import gallery
from apps.own_tiles.tile_folder import tiles_folder
from lib import paths

# %% tags=["parameters"]
dataset = "demo"  # names the folder of the results
vlm = "stand-in-demo_other_lab"  # as in notebook 90
seed = 0  # likewise
folder = ""  # of your tiles; empty: the synthetic tiles of the demo
labeller = "me"  # the name that your answers carry
query_size = 20  # tiles of a query
strategy = "unisal-coverage"  # how they are chosen; see lib/active/strategies.py
n_steps = 400  # of training in each round
ask = "query"  # second: tiles that others have labelled; disputed: where people differ; audit: by chance
audit_size = 50  # tiles of the audit in all; a larger number draws more

# %% [markdown]
# ## Tiles and answers so far
#
# Tiles, classes, features and networks of notebook 90, and all answers on file: yours and those of others, given in
# this loop or in another. Lines that are no answers are named here, and left out.

# %%
tiles = tiles_folder(folder)
own = session.own_tiles(paths.own_folder(dataset, vlm, seed, tiles), tiles)
names, digests = own.class_names, own.unique.digest.tolist()
print(f"{len(digests)} tiles, {len(names)} classes: {', '.join(names)}")

# %%
file = paths.answers_file(tiles)
waiting = partial(audit.withheld, file, names, digests)
tiles_of = own.unique.tile.values
oracle = answers.AnswersOracle(file, names, tiles_of, digests, waiting, none=own.none)
lines, problems = oracle.read()
print(f"{len(lines)} answers in {file}", *problems, sep="\n")

# %% [markdown]
# ## The query
#
# Rounds whose queries are answered are trained now, on all answers so far and, with less and less weight, on the labels
# that VLM-CPL kept, as in `30_cold_start`. The tiles of the next query wait for you.
#
# An audit (`ask = "audit"`) trains nothing. Its tiles are drawn by chance, in proportion to the classes that the newest
# networks predict, from all tiles without a label; they stand in a file with these classes, so that it goes on where it
# was left, and teach nothing before it is finished.

# %%
loop = session.LabellingLoop(
    own, oracle, strategy=strategy, query_size=query_size, steps=n_steps, seed=seed
)
query = loop.pause() if ask == "audit" else loop.advance()
again = people.to_reread(lines, labeller, ask)
if ask == "audit":
    again = audit.to_label(file, loop.predictions(), own.taught, audit_size, seed=seed)
wanted = query if ask == "query" else [digests.index(digest) for digest in again]
print(f"{len(wanted)} tiles wait for {labeller}")

# %% [markdown]
# ## Label
#
# <kbd>1</kbd> … <kbd>9</kbd> are the classes, <kbd>0</kbd> says none of these, or cannot be judged. Where notebook 90 was
# given words for other tissue, <kbd>0</kbd> is learnt as other tissue: skip what cannot be judged. <kbd>u</kbd> takes
# the last answer back, <kbd>s</kbd> skips, <kbd>←</kbd> <kbd>→</kbd> go to tiles that are done. <kbd>m</kbd> shows
# what the model thinks, which is hidden so that it does not steer you; whether it was shown is noted with each answer;
# in an audit it is not to be had. <kbd>Enter</kbd> finishes the round: the networks learn, and the next query appears.
# Each answer is on the disk before the next tile is shown: close the tab whenever you like.

# %%
page = own.out / "index.html"
said = partial(audit.publish, file, loop.predictions(), page)
finish = {"query": loop.advance, "audit": said}.get(ask)
grid = LabelGrid(own, loop.predict(), wanted, file, who=labeller, ask=ask, on_finish=finish)
grid

# %% [markdown]
# ## What the labels say
#
# Run the cells from here on again when you have labelled. First, how the rounds went: tiles labelled when each was
# trained, the share of the others with a pseudo label, and how many the networks disagree on. Then what each person did.

# %%
loop.history.rounds.round(3)

# %%
lines, _ = oracle.read()
people.progress(lines, names)

# %% [markdown]
# ## How good is it?
#
# What the audit says, here and on the page of notebook 90: of these predictions, or of the earlier ones that it was
# drawn for. A tile that shows none of the classes counts as incorrect. Then sets of classes: with $s_{(k)}$ the $k$-th
# smallest of $n$ scores $1 - p(c \mid x)$ of the audited tiles and their classes (`lib/quality/conformal.py`),
#
# $$C(x) = \{\,c : 1 - p(c \mid x) \le s_{(k)}\,\}, \qquad k = \lceil 0.9\,(n + 1) \rceil$$
#
# holds the class of nine in ten tiles. One class in it: leave the tile alone. None or several: look at it.

# %%
audit.publish(file, loop.predictions(), page)
report = audit.report(file, loop.predictions())
HTML(gallery.quality_html(report) if report else "Nobody has audited these tiles: ask = \"audit\"")

# %% [markdown]
# ## Several people
#
# Answers stand side by side, each with its name. Of each two people: tiles that both have judged, the share they see
# alike, and Cohen's κ, which is 0 where they agree as often as by chance. A tile that people see differently takes no part
# in the training until they agree: `ask = "disputed"` shows those once more.

# %%
differently = people.seen_differently(lines)
display(people.agreement(lines).round(3))
own.unique[["digest", "path"]].merge(differently, left_on="digest", right_index=True)

# %% [markdown]
# ## Tables
#
# The class of each file by the newest networks, the label where there is one, and after an audit the set of classes. The
# answers also become `labels.csv`, and tasks with predictions for Label Studio; `apps.labelling.exchange` reads such
# files back, and makes an image folder of the labelled tiles.

# %%
sets = report.sets if report else None
predicted = exchange.write_results(own, loop.predict(), lines, version=vlm, sets=sets)
predicted.head().round(3)

# %% [markdown]
# **Recap.** Answers lie in one file that is only ever added to; they belong to the pictures, so another strategy, VLM or
# seed takes them over. `make own ... LABELS=file` trains VLM-CPL with them. What queries are worth beside chance is
# measured in `22_active_learning_rounds`.
