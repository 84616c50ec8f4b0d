# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How good is it, and when to stop?
#
# Where nobody has labelled anything, nobody knows how many predictions are right. A few labels of tiles that were
# **drawn by chance** tell: if $X$ of $n$ are right, the accuracy $p$ of all predictions lies between the limits of
# Clopper and Pearson,
#
# $$\mathrm{P}(\mathrm{Bin}(n, p_{\text{low}}) \ge X) = \tfrac{\alpha}{2}, \qquad \mathrm{P}(\mathrm{Bin}(n, p_{\text{high}}) \le X) = \tfrac{\alpha}{2}, \qquad \mathrm{P}(p_{\text{low}} \le p \le p_{\text{high}}) \ge 1 - \alpha$$
#
# Without any label there are only opinions: of two networks, of views, of prompts, of clusters. Where they differ
# somebody is wrong; where they agree, all may be wrong together. Here both are held against the true labels, which
# serve for nothing else.
#
# - In: `tiles.parquet`, features and votes of all tiles, `pseudo_labels.parquet` and `hcs/` of the fold; `rounds/` of
#   `22_active_learning_rounds`, where that was run.
# - Out: rows `audit`, `label-free` and `stopping`.

# %%
import numpy as np
from IPython.display import display

from lib import paths
from lib.active.loop import TableOracle, read_rounds
from lib.consensus import VARIANTS, FilterInputs
from lib.data import cards
from lib.data.shifts import parse_list
from lib.figures import quality_plots
from lib.learning import setups, trials
from lib.learning.vlm_cpl import read_vlm_cpl
from lib.paths import file_name
from lib.quality import audit, estimates, prediction_sources, stopping, estimate_tables
from lib.record import read_rows
from lib.run_folder import open_run
from lib.vlm.cards import describe_vlm
from lib.vlm.inference import embed_prompts
from lib.vlm.loading import load_vlm

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of the audit and the clusters
fold = 0  # whose test set is predicted
audit_size = 50  # labels of the audit; of fewer than twice as many tiles, half
at_least = 3  # labels of each predicted class, if need be beyond the audit
other_vlm = ""  # a second VLM, with which notebook 13 has run, for its opinion
shifts = ""  # see lib.data.shifts; minutes, unless notebook 16 has embedded them
followed = "dual-view-aligned/unisal"  # training and strategy whose rounds are followed

# %%
run = open_run("31_how_good_is_it", globals())
card, (train, test) = cards.read_card(dataset), run.split()
split, n_labels = (train.tile.values, test.tile.values), min(audit_size, len(test) // 2)
print(f"{dataset} with {describe_vlm(vlm)}\n{len(test)} predictions to judge, {n_labels} to label")

# %% [markdown]
# ## What is to be judged
#
# The networks of `13_high_confidence_cross_supervision`, in both settings, on the test set; beside them what everybody
# else says of the same tiles.

# %%
kwargs = {"steps": run.settings["n_steps"], "seed": seed}
setup = setups.frozen(run.shared, train.tile.values, len(card.classes), **kwargs)
pseudo = run.load("pseudo_labels")
inputs = FilterInputs.load(run.shared, split[0], keep_ratio=run.settings["keep_ratio"], seed=seed)
trained = {
    variant: read_vlm_cpl(
        inputs, setup, card.class_names, tiles=split[1], pseudo=pseudo[pseudo.setting == variant],
        folder=run.file("hcs") / file_name(variant))
    for variant in VARIANTS
}
said = {"": prediction_sources.collect(run.shared, setup, trained, split[1], seed=seed)}
ours = said[""]["ours"]
before = run.load("predictions").set_index("tile").ours_label.loc[split[1]]
assert np.mean(before == ours.predicted) > 0.99

# %% [markdown]
# ## First, an audit
#
# Tiles are drawn by chance, in proportion to the predicted classes; of a class that is predicted seldom a few more,
# which tell about that class alone. The table answers here, and a person could. A tile that shows none of the classes,
# or cannot be judged, counts as wrong: the prediction names a class that nobody has confirmed, and without that tile
# the others would no longer be a sample of all.

# %%
oracle = TableOracle(test.tile.values, test.label.values)
sample = audit.draw_audit(*(split[1], ours.predicted), n_labels, seed=seed, at_least=at_least)
sample = audit.label_audit(sample, oracle.label(sample.tile.values))
print(audit.audit_sentence(sample, len(test)))
audit.class_precisions(sample, ours.predicted, card.class_names).round(3)

# %% [markdown]
# *Precision* is the share of right ones among the tiles that a class is predicted for. Its interval is wide where few
# tiles were labelled: a look at single classes takes more labels than one at all of them.
#
# ## Does the interval hold?
#
# Here all labels are known, so the audit can be drawn again and again.

# %%
truth = (ours.predicted == test.label.values).mean()
audits = audit.repeat_audits(split[1], ours.predicted, test.label.values, n_labels, seed=seed)
quality_plots.repeated_audits(audits, truth)

# %% [markdown]
# In the long run at least 95 of 100 intervals cross the dotted line, whatever the accuracy and however it differs
# between classes: `lib/quality/audit.py` has the proof. A line that does not would be orange.
#
# ## Without a label
#
# Each estimate has an assumption of its own, which its docstring in `lib/quality/estimates.py` names. Beside them
# stands the truth. An estimate below two thirds is an alarm: then opinions differ so often that one of them is
# wrong on more than every sixth tile.

# %%
place = (dataset, other_vlm, seed, fold, split[1])
other = prediction_sources.read_predictions(*place) if other_vlm else None
found = {setting: estimates.label_free_estimates(o, other if other is None else other[setting])
         for setting, o in said[""].items()}
for setting, values in found.items():
    low = [estimates.ESTIMATES[name] for name in estimates.low_estimates(values)]
    print(f"{setting}:", f"do not trust it, too low: {', '.join(low)}" if low else "no alarm")

# %%
recorded = estimate_tables.quality_frame(read_rows(*sorted(paths.record_folder().glob("*.jsonl"))))
truths = {setting: np.mean(o.predicted == test.label.values) for setting, o in said[""].items()}
estimate_tables.estimates_table(found, truths, recorded).round(3)

# %% [markdown]
# The last two columns, where the record has such rows, say how far off each estimate was in all published runs: no
# estimate should be read without them.
#
# ## On shifted tiles
#
# Where `shifts` names some: filters and training once more on each, as in `16_robustness`.

# %%
names, folders = parse_list(shifts) if shifts else [], []
if names:
    files = [run.pixels_file(shift=shift) for shift in names]
    model = load_vlm(vlm, seed=seed)
    text = embed_prompts(model, run.settings["prompts"])
    folders = trials.embed_shifted(model, files, run.shared, text, run.settings, seed=seed)

# %%
for shift, folder in zip(names, folders, strict=True):
    given = folder, *split, card.class_names, run.settings
    setup, trained = prediction_sources.train_at_shift(*given, seed=seed)
    said[shift] = prediction_sources.collect(folder, setup, trained, split[1], seed=seed)

# %% [markdown]
# ## When to stop
#
# The rounds of `22_active_learning_rounds` predict the same test set, of which they have seen no label, so one audit
# serves them all. Beside it stands what costs no label: how many predictions a round still changed.

# %%
folder, followed_rounds = run.file("rounds") / followed, []
if (folder / "round0.json").is_file():
    rounds = stopping.follow_rounds(read_rounds(folder), split[1], sample, test.label.values)
    followed_rounds = [estimate_tables.evaluate_stopping(rounds, len(test))]
    display(quality_plots.stopping_curves(rounds, f"{dataset}, {followed}"))
    print(stopping.stopping_sentence(rounds))
else:
    print(f"22_active_learning_rounds has not run {followed} on this fold: nothing to follow")

# %% [markdown]
# Where the right curve stays near zero, more labels of this kind change little; whether that is because all is right or
# because the networks are stuck, only the audit on the left tells.
#
# ## Rows for the record
#
# Of every setting and shift an audit, with the coverage and the width of its interval over many draws, and the
# estimates without labels; and the rounds.

# %%
evaluations = []
for shift, of_shift in said.items():
    params = {"shift": shift, "varied": ["shift"]} if shift else {}
    fields = {"audit_size": n_labels, "seed": seed, "other_vlm": None if shift else other}
    evaluations += estimate_tables.evaluate_quality(of_shift, test, **fields, params=params)
frame = estimate_tables.quality_frame(run.record(evaluations + followed_rounds))
estimate_tables.errors_table(frame)

# %% [markdown]
# ## Against the truth
#
# This run, and the runs of the record, where there are any.

# %%
for title, some in {f"{dataset}, {vlm}, seed {seed}": frame, "the record": recorded}.items():
    if len(some):
        display(quality_plots.estimate_against_truth(some, title))
        print(estimate_tables.verdict(some))

# %% [markdown]
# In the grey band an estimate is within three points. The audit is off by chance alone, and says by how much at most;
# points of the other panels lie above the band where opinions share their errors.

# %% [markdown]
# **Recap.** A few labels of tiles drawn by chance give the accuracy with an interval that holds; opinions without labels
# rank and warn. Next: `40_record` makes tables and figures from all rows.
