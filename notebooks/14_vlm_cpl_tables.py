# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What is each part worth?
#
# VLM-CPL beside the methods that learn from noisy labels without a filter, and beside itself with
# parts left out. Every method gets the same tiles, the same split, the same kind of network and the
# same number of steps; every trained one predicts by the mean of two networks, so that the only
# difference is what they learn from:
#
# $$\min_\theta \; \frac{1}{|S|} \sum_{i \in S} \ell\big(p_\theta(x_i), \tilde y_i\big) \; + \; \text{what else the method does}$$
#
# with $S$ the tiles that a method trusts, $\tilde y$ their labels and $\ell$ its loss. Nothing is chosen
# on the test set and no epoch is picked: the last step counts, for full supervision too.
#
# - In: `pseudo_labels.parquet`, features, votes and rows of the notebooks before.
# - Out: `comparison.parquet` (right or wrong per test tile and method), rows of the comparison; with
#   `ablations` those of the ablations, which take minutes.

# %%
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from lib.learning import baselines, setups
from lib.data import cards, tiles
from lib import consensus, paths
from lib.report import metrics, plots, comparison
from lib.report.ablations import STAIN_SHIFTS, ablation_grid
from lib.learning.trainer import labelled_and_not
from lib.labels import UNLABELLED
from lib.learning.losses import CoTeaching, EarlyLearningRegularisation, HighConfidenceCrossSupervision, Supervised, generalised_cross_entropy
from lib.artefacts import atomic
from lib.record import read_rows, row, write_rows
from lib.learning.trainer import TrainingTiles
from lib.vlm.inference import embed_prompts, embed_tiles, embed_views, vote
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # see load_vlm
seed = 0  # of the networks, the batches and the views
network = "frozen"  # heads on the VLM's features, or fine-tune: whole networks on pixels
n_steps = 1000  # of training
only = ""  # methods of the comparison, by comma; empty: all
ablations = False  # whether to run the ablations instead of the comparison

# %%
run = paths.run_folder(dataset, vlm, seed)
card = cards.read_card(dataset)
table = pd.read_parquet(run / "tiles.parquet")
end = "" if network == "frozen" else f"-{network}"
ours = read_rows(run / "rows" / f"13_high_confidence_cross_supervision{end}.jsonl")[-1]["params"]
pseudo = pd.read_parquet(run / "pseudo_labels.parquet")
train = table.set_index("tile").loc[pseudo[pseudo.setting == "ours"].tile].reset_index()
test = table[table.split == "test"].reset_index(drop=True)
number, truth, groups = train.tile.values, train.label.values, train.group.values

# %%
votes, view_probs, zero_shot = (np.load(run / f"{name}.npy", allow_pickle=False) for name in ("votes", "view_probs", "probs"))
features = {name: np.load(run / f"{file}.npy", allow_pickle=False) for name, file in (("projected", "features"), ("unprojected", "unprojected"))}
of_train = {name: of[number] for name, of in features.items()}
agree = np.load(run / "agree.npy", allow_pickle=False)[number]
prompt_labels = zero_shot[number].argmax(1)
store = tiles.decode_tiles(table, cards.prepare(card), dataset, ours["image_size"])
model = load_vlm(vlm, seed=seed)
text = embed_prompts(model, ours["prompts"])
views = {"n_views": ours["n_views"], "seed": seed, "hue": ours["hue"], "progress": False}
how = {"n_classes": len(card.classes), "steps": n_steps, "seed": seed}
print(f"{dataset} with {describe_vlm(vlm)}")
way = setups.frozen(run, number, **how) if network == "frozen" else setups.fine_tune(store, ours["image_size"], **how)

# %% [markdown]
# ## Who learns from what
#
# The methods that take noisy labels as they are get all zero-shot labels. Confident learning drops
# those that it takes for wrong; Co-teaching wants to know the share of wrong labels, which nobody does,
# and gets the default of its authors' code, 0.2. The filters keep labels in both settings.

# %%
suspected = baselines.suspected_labels(of_train["unprojected"], prompt_labels, groups)
keep = partial(consensus.keep_by_consensus, votes=votes, view_probs=view_probs, features=of_train, prompt_labels=prompt_labels, seed=seed, tiles=number, among=agree)
every = np.ones(len(train), bool)
methods = {
    ("ce-all", ""): (Supervised(), prompt_labels, every),
    ("gce", ""): (Supervised(generalised_cross_entropy), prompt_labels, every),
    ("elr", ""): (EarlyLearningRegularisation(len(train), len(card.classes)), prompt_labels, every),
    ("co-teaching", ""): (CoTeaching(forget_rate=0.2), prompt_labels, every),
    ("confident-learning", ""): (Supervised(), prompt_labels, ~suspected),
    ("full-supervision", ""): (Supervised(), truth, every),
}
for setting, rules in consensus.SETTINGS.items():
    for order in ("mvc", "pfc", "mvc+pfc"):
        method = "ce-kept" if order == "mvc+pfc" else f"ce-{order}"
        methods[method, setting] = (Supervised(), prompt_labels, keep(order, **rules))
assert set(filter(None, only.split(","))) <= {method for method, _ in methods}, f"unknown method in {only!r}"
print(f"confident learning suspects {suspected.mean():.1%} of the labels; {(prompt_labels != truth).mean():.1%} are wrong")

# %%
new_row = partial(row, dataset=dataset, vlm=vlm, seed=seed, split="test", n=len(test), device=str(model.device))
scores = partial(metrics.scores, labels=test.label.values, class_names=card.class_names)
quality = partial(metrics.label_quality, labels=truth, class_names=card.class_names)
learn = partial(setups.fit_predict, tiles=test.tile.values, seed=seed)
used = {name: ours[name] for name in ("steps", "learning_rate", "prompts", "image_size", "n_views", "hue", "stain_shift")}
probs, rows = {}, []
for (method, setting), (objective, labels, kept) in methods.items():
    if ablations or (only and method not in only.split(",")):
        continue
    started = time.perf_counter()
    data = TrainingTiles(number, np.where(kept, labels, UNLABELLED), card.class_names, truth)
    probs[method, setting] = learn(objective, data, way=way)
    about = used | {"objective": repr(objective), "rules": consensus.SETTINGS.get(setting)}
    measured = {"scores": scores(probs[method, setting]), "labels": quality(labels, kept), "seconds": time.perf_counter() - started}
    rows.append(new_row(method=method, setting=setting or None, network=network, params=about, **measured))

# %% [markdown]
# ## Without any training
#
# The mean over random views of the test tiles, and transduction: all tiles of all parts are
# classified together, from their features and zero-shot probabilities.

# %%
if not ablations and network == "frozen":
    probs["mean-of-views", ""] = vote(model, store, test.tile.values, text, **views)[1]
    probs["transductive", ""] = baselines.transductive_probabilities(features["projected"], zero_shot)[test.tile]
    rows += [new_row(method=method, params=used, scores=scores(probs[method, ""])) for method in ("mean-of-views", "transductive")]

# %%
if not ablations:
    write_rows(run, f"14_vlm_cpl_tables{end}", rows)
    predicted = pd.read_parquet(run / f"predictions{end}.parquet").set_index("tile").loc[test.tile]
    said = {key: p.argmax(1) for key, p in probs.items()}
    if network == "frozen":
        said["zero-shot", ""] = predicted["zero-shot_label"].values
    said |= {("vlm-cpl", setting): predicted[f"{setting}_label"].values for setting in consensus.SETTINGS}
    about = [test[["tile", "group"]].assign(vlm=vlm, seed=seed, method=m, setting=s, network="" if m in comparison.UNTRAINED else network, right=p == test.label.values) for (m, s), p in said.items()]
    with atomic(run / f"comparison{end}.parquet") as file:
        pd.concat(about, ignore_index=True).to_parquet(file)

# %% [markdown]
# ## The comparison
#
# Of this seed; "ours is better by" is tested over the groups of the test set. `40_record` makes the
# same table over seeds.

# %%
of_run = read_rows(*sorted((run / "rows").glob("1[0-4]*.jsonl")))
if not ablations:
    by_group = comparison.groups_frame(pd.read_parquet(run / f"comparison{end}.parquet"))
    display(comparison.scores_table(of_run, by_group))
    same_network = comparison.score_frame(of_run).query("network in ('', @network)")
    display(plots.comparison(same_network, comparison.COMPARED, f"{dataset}, {vlm}, seed {seed}"))

# %% [markdown]
# ## Ablations: one rule changed at a time
#
# Our setting with another rule. Views, share, quota and clusters change which labels are kept, γ and λ
# what is made of the rest. HCS without a filter is told that every tile is labelled and that every
# tile is to be cross-supervised. The number of views changes the vote alone: the networks always see
# the views of the run.

# %%
rows = []
for rules in ablation_grid(ours) if ablations else ():
    voted = votes, view_probs
    if "n_views" in rules["varied"]:
        voted = vote(model, store, number, text, **views | {"n_views": rules["n_views"]})
    chosen = {name: rules[name] for name in ("share", "tie_break", "quota", "cluster_on", "clusters_per_class")}
    kept = keep(rules["filters"], votes=voted[0], view_probs=voted[1], **chosen) if rules["filters"] else every
    data = TrainingTiles if rules["filters"] else labelled_and_not
    data = data(number, np.where(kept, prompt_labels, UNLABELLED), card.class_names, truth)
    objective = HighConfidenceCrossSupervision(threshold=rules["threshold"], weight=rules["weight"])
    p = learn(objective, data, way=way)
    rows.append(new_row(method="vlm-cpl", network=network, params=rules, scores=scores(p), labels=quality(prompt_labels, kept)))

# %% [markdown]
# ## How wrong may the model be?
#
# The same target re-stained, from not at all to strongly, until the haematoxylin is pale: prompts,
# votes, filters and training anew at each shift. This curve is not in the paper.

# %%
for shift in STAIN_SHIFTS if ablations else ():
    stained = tiles.decode_tiles(table, cards.prepare(card), dataset, ours["image_size"], restain=-shift)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        embed_tiles(model, stained, text, folder)
        embed_views(model, stained, number, text, folder, **views)
        here = {file.stem: np.load(file, allow_pickle=False) for file in folder.glob("*.npy")}
        noisy = here["probs"][number].argmax(1)
        said = {"votes": here["votes"], "view_probs": here["view_probs"], "prompt_labels": noisy}
        said["among"] = here["agree"][number]
        said["features"] = {"projected": here["features"][number], "unprojected": here["unprojected"][number]}
        todo = {("ce-all", ""): (Supervised(), noisy, every), ("full-supervision", ""): (Supervised(), truth, every)}
        for setting, rules in consensus.SETTINGS.items():
            objective = HighConfidenceCrossSupervision(ours["threshold"], ours["weight"])
            todo["vlm-cpl", setting] = (objective, noisy, keep("mvc+pfc", **rules, **said))
        found = {("zero-shot", ""): here["probs"][test.tile]}
        for key, (objective, labels, kept) in todo.items():
            data = TrainingTiles(number, np.where(kept, labels, UNLABELLED), card.class_names, truth)
            found[key] = learn(objective, data, way=setups.frozen(folder, number, **how))
    about = used | {"stain_shift": shift, "varied": ["stain_shift"]}
    for (method, setting), p in found.items():
        kind = None if method in comparison.UNTRAINED else network
        rows.append(new_row(method=method, setting=setting or None, network=kind, params=about, scores=scores(p)))
if ablations:
    write_rows(run, "14_vlm_cpl_tables-ablations", rows)
    of_run += rows

# %% [markdown]
# ## What the ablations show
#
# From this run where it has them, else from the record. Dotted: our setting.

# %%
recorded = read_rows(*sorted(paths.record_folder().glob("*.jsonl")))
for name, part in comparison.ablation_frames(of_run if ablations else recorded).items():
    title = f"{name}, {part.vlm.iloc[0]}"
    display(title, comparison.on_off_table(part), *(comparison.ablation_table(part, *names) for names in comparison.ABLATION_TABLES))
    display(plots.ablation_curves(comparison.ablation_lines(part), title), plots.robustness(comparison.robustness_lines(part), comparison.COMPARED, title))

# %% [markdown]
# ## Where it falls short
#
# Five seeds, heads on frozen features (`data/record`):
#
# - `lc25k_colon`: our setting is above every other method (p < 0.001) and 0.007 below full supervision, but
#   with 0.987 not above 0.99. What it still gets wrong comes with the labels that are kept: a seed whose kept
#   tiles show little of one class ends lower.
# - `lc25k`: 0.936, 0.005 below full supervision, but hardly above Co-teaching (0.931, p = 0.23), whose noise
#   rate of 0.2 happens to be near the true one, and no better than the published setting (0.937). PFC
#   alone on unprojected features lost a class on one seed (0.616): clusters are matched one to one.
# - `ebhi_binary`: the highest accuracy without labels (0.983), but in balanced accuracy (0.929) below the mean
#   of views (0.946), transduction (0.939) and early-learning regularisation (0.931). One tile in ten is
#   normal, and the unlabelled half of a batch is drawn as it comes: nine in ten pseudo labels say
#   adenocarcinoma, and in doubt so do the networks (recall 0.997 and 0.861; mean of views 0.967 and 0.925).
#   A test set has some fifteen normal tiles.

# %% [markdown]
# **Recap.** The comparison says what filters and cross supervision are worth beside other ways to learn
# from noisy labels, the ablations where the gain comes from. Next: `40_record` gathers all seeds.
