# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Throughput: time and memory against the number of tiles
#
# How long do the parts of both methods take for a thousand tiles, and for a million? A part that takes the time
# $t(N)$ for $N$ tiles grows like $N^a$; between the two largest numbers, $N_1$ and $N_2$,
#
# $$a = \log \frac{t(N_2)}{t(N_1)} \Big/ \log \frac{N_2}{N_1}$$
#
# and $a = 1$ is linear. The tiles are made up: only their features, votes and probabilities are there, mapped from
# files, as notebooks 10 and 11 leave them. Two more numbers say how near the code comes to what it calls: views per
# second beside the bare encoder, and steps of training beside their matrix products alone.
#
# It is part of no chain: `make throughput` runs it, on Linux.
#
# - In: `tiles.parquet` and the prompts of `10_zero_shot_inference`, for the encoder alone.
# - Out: `throughput.parquet` (part, n_tiles, seconds, cpu_seconds, memory_mb), `rates.parquet`.

# %%
import shutil
import time
from functools import partial
from importlib import import_module

import numpy as np
import pandas as pd
import torch
from IPython.display import display

from lib import consensus, throughput
from lib.active import strategies
from lib.active.inputs import frozen_features
from lib.active.trainings import PROJECTION, training_by_name, voronoi_counts
from lib.artefacts import scratch_folder
from lib.blocks import blocks
from lib.data.tiles import read_batches
from lib.figures import plots
from lib.figures.style import show_table
from lib.labels import UNLABELLED
from lib.learning import networks, samplers, setups, trainer
from lib.learning.batches import Schedule, TrainingTiles
from lib.run_folder import open_run
from lib.vlm import inference, views
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards; its tiles are for the encoder alone
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of all that is made up or drawn
n_tiles = "1000,10000,100000,1000000"  # by comma; a million needs 9 GB in the temporary folder
n_features = 512  # of a tile, float16
n_classes = 9  # of the made-up tiles
n_views = 4  # of a tile, whose features are there
n_labels = 500  # at the start, and asked for; a quarter of the tiles if there are fewer
n_steps = 200  # of training
n_encoded = 320  # tiles whose views are encoded

# %%
run = open_run("50_throughput", globals())
sizes, names = [int(n) for n in n_tiles.split(",")], [f"class {c}" for c in range(n_classes)]
for module in ("scipy.optimize", "skactiveml.pool", "sklearn.cluster"):
    import_module(module)  # elsewhere on first use: here it counts for no part
print(f"{len(sizes)} numbers of tiles, up to {max(sizes)}")

# %% [markdown]
# ## The parts of VLM-CPL
#
# Each is a function of the folder that holds the tiles. Whatever it reads counts.


# %%
def all_tiles(folder):
    return np.arange(len(np.load(folder / "truth.npy", mmap_mode="r")))


def read_features(folder):
    features = np.load(folder / "backbone_features.npy", mmap_mode="r")
    return {"sum": sum(float(features[block].sum(dtype="f8")) for block in blocks(len(features)))}


def filter_inputs(folder, features=True):
    given = {"keep_ratio": 0.3, "seed": seed, "features": features}
    return consensus.FilterInputs.load(folder, all_tiles(folder), **given)


def rank_votes(folder):
    consensus.multi_view_consensus(filter_inputs(folder, False), consensus.VARIANTS["ours"])


def filter_by(variant, folder):
    consensus.filter_tiles(filter_inputs(folder), consensus.VARIANTS[variant])


# %% [markdown]
# ## The parts of UniSAL
#
# Two heads learn from few labels. Their predictions of all tiles are written, and mapped by the strategies.


# %%
def make_setup(folder):
    given = {"steps": n_steps, "seed": seed, "projection": PROJECTION}
    return setups.frozen(folder, all_tiles(folder), n_classes, **given)


def draw_labels(folder):
    truth, labels = np.load(folder / "truth.npy"), np.full(len(all_tiles(folder)), UNLABELLED)
    n_drawn = min(n_labels, len(truth) // 4)
    drawn = np.random.default_rng(seed).choice(len(truth), n_drawn, replace=False)
    labels[drawn] = truth[drawn]
    return labels


def standardise(folder):
    samplers.FeatureViews(folder / "view_features.npy", all_tiles(folder), seed=seed)


# %%
def count_labels(folder):
    features = frozen_features(make_setup(folder).reader, all_tiles(folder))
    voronoi_counts(features, draw_labels(folder), n_classes)


def train(folder):
    counts = [n_labels / n_classes] * n_classes
    data = TrainingTiles(all_tiles(folder), draw_labels(folder), names, class_counts=counts)
    objective, networks_folder = training_by_name("dual-view-aligned"), folder / "networks"
    setups.train_all([setups.Training(make_setup(folder), objective, data, seed, networks_folder)])


def predict(folder):
    pair = setups.load_networks(make_setup(folder), folder / "networks")
    reader = make_setup(folder).reader
    probs, features = networks.predict_members(pair, reader, all_tiles(folder))
    np.save(folder / "pool_probs.npy", probs)
    np.save(folder / "pool_features.npy", features)


def query(strategy, folder):
    named = ("pool_probs", "pool_features")
    pool = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in named)
    labels = draw_labels(folder)
    pool = strategies.Pool(*pool, labels, labels == UNLABELLED)
    strategies.select(strategy, pool, int((labels != UNLABELLED).sum()), seed)


# %% [markdown]
# ## Measured
#
# Every part runs in a process of its own. Memory is what it takes beyond the files that are mapped: those pages the
# system can take back.

# %%
parts = {
    "read features": read_features,
    "rank by votes": rank_votes,
    "both filters, as published": partial(filter_by, "published filters"),
    "both filters, ours": partial(filter_by, "ours"),
    "standardise": standardise,
    "count labels": count_labels,
    "standardise and train": train,
    "predict all": predict,
} | {f"query: {strategy}": partial(query, strategy)
     for strategy in ("unisal", "unisal-coverage", "margin", "badge", "coreset")}

# %%
lines = []
with scratch_folder() as scratch:
    for n in sizes:
        folder = throughput.make_up_tiles(
            scratch / str(n), n, n_classes, n_features, n_views=n_views, seed=seed)
        for part, function in parts.items():
            lines.append({"part": part, "n_tiles": n} | throughput.measure(function, folder))
        shutil.rmtree(folder)
measured = pd.DataFrame(lines)[["part", "n_tiles", "seconds", "cpu_seconds", "memory_mb"]]
run.save(throughput=measured)
assert set(measured.part) == set(parts) and (measured.groupby("part").size() == len(sizes)).all()

# %% [markdown]
# ## Against the number of tiles

# %%
plots.growth(measured, list(parts))

# %% [markdown]
# Both axes are logarithmic: a linear part rises by one decade per decade, as reading does. What lies flat looks at no
# more than a number of tiles that is fixed: a training of so many steps, or strategies that are offered a draw.

# %%
for column, title in (("cpu_seconds", "CPU seconds"), ("memory_mb", "MB beyond mapped files")):
    table = measured.pivot(index="part", columns="n_tiles", values=column).loc[list(parts)]
    table = table.round(2 if column == "cpu_seconds" else 0)
    if len(sizes) > 1:
        table["exponent"] = throughput.exponents(measured, column).round(2)
    display(show_table(table.rename(columns=str).reset_index(), title))

# %% [markdown]
# ## Views beside the bare encoder
#
# Multi-view consensus reads tiles, draws views, encodes them and lets them vote. The bare encoder has its batches in
# memory. Both in turns on the same tiles, so that other work on the machine slows both.


# %%
def encode(part, file, model, text, folder):
    batches = [views.plain_view(images, model.image_size)
               for _, images in read_batches(file, part, 64, model.device)]
    started = time.process_time()
    for batch in batches:
        inference.encode_images(model, batch)
    encoded = time.process_time()
    inference.embed_views(model, file, part, text, folder, n_views=1, seed=seed)
    return encoded - started, time.process_time() - encoded


# %%
def time_views(file, folder):
    model = load_vlm(vlm, seed=seed, precision=run.settings["precision"])
    text = inference.embed_prompts(model, run.settings["prompts"])
    fifths = np.array_split(np.arange(len(run.load("tiles")))[:n_encoded], 5)
    encode(fifths[0], file, model, text, folder)  # the first call prepares the encoder
    times = np.array([encode(fifth, file, model, text, folder) for fifth in fifths])
    rates = np.median([len(fifth) for fifth in fifths] / times.T, axis=1)
    return {"bare": rates[0], "ours": rates[1]}


# %% [markdown]
# ## Training beside its matrix products
#
# A step multiplies by the weights of the hidden layer, of the head and of the projector: once forward, once for
# their gradients, and for what flows back into the hidden layer.


# %%
def multiply(n_outputs, inputs, flows_back=True):
    weights = torch.randn(2, inputs.shape[2], n_outputs)
    outputs = inputs @ weights
    gradient = inputs.mT @ outputs
    return (outputs, gradient, outputs @ weights.mT) if flows_back else (outputs, gradient)


def time_heads(folder):
    n_components = min(samplers.N_COMPONENTS, n_features)
    inputs = torch.randn(2, Schedule().batch_size, n_components)
    train(folder)
    started = time.process_time()
    train(folder)
    trained = time.process_time()
    with trainer.fastest_float32():
        for _ in range(n_steps):
            hidden, _ = multiply(networks.HIDDEN, inputs, flows_back=False)
            multiply(n_classes, hidden), multiply(PROJECTION, hidden)
    bare, ours = time.process_time() - trained, trained - started
    return {"bare": n_steps / bare, "ours": n_steps / ours}


# %%
with scratch_folder() as scratch:
    encoded = throughput.measure(time_views, run.pixels_file(), scratch)
    made_up = {"n_views": n_views, "seed": seed}
    few = throughput.make_up_tiles(scratch / "few", 2000, n_classes, n_features, **made_up)
    trained = throughput.measure(time_heads, few)
rates = pd.DataFrame([encoded, trained])[["bare", "ours"]]
rates.insert(0, "per CPU second", ["views", "steps of training"])
rates["share"] = rates.ours / rates.bare
run.save(rates=rates)
show_table(rates.round(2))

# %% [markdown]
# What is missing to a share of one: for views reading, drawing and colouring them; for steps the loss, gathering the
# rows, standardising them and the step of SGD.

# %% [markdown]
# **Recap.** What grows faster than the tiles would stand out in both pictures. Above ten thousand tiles K-means,
# coverage and the strategies of scikit-activeml look at a draw; methods that compare all pairs of tiles are refused
# above fifty thousand.
