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
# Where nobody has labelled anything, nobody knows how many predictions are correct. Three questions, each with its
# part below:
#
# 1. **Can I trust it without labels?** There are several sources of predictions: two networks, views, prompts,
#    clusters. Where they differ one of them is wrong; where they agree, all may be wrong together. So estimates without
#    labels warn, and do not measure.
# 2. **How many labels does an audit take?** A few labels of tiles **drawn by chance** do measure: if $X$ of $n$ are
#    correct, the accuracy $p$ of all predictions lies between the limits of Clopper and Pearson,
#
#    $$\mathrm{P}(\mathrm{Bin}(n, p_{\text{low}}) \ge X) = \tfrac{\alpha}{2}, \qquad \mathrm{P}(\mathrm{Bin}(n, p_{\text{high}}) \le X) = \tfrac{\alpha}{2}, \qquad \mathrm{P}(p_{\text{low}} \le p \le p_{\text{high}}) \ge 1 - \alpha$$
#
# 3. **When to stop labelling?** When rounds change few predictions and the audit says that these are good.
#
# Here all are compared with the true labels, which serve for nothing else. In the papers: nothing, as both count on
# labelled test sets. Results of all datasets: [How good is it?](../figures/RESULTS.md#how-good-is-it).
#
# - In: `tiles.parquet`, features and votes of all tiles, `pseudo_labels.parquet` and `hcs/` of the fold; `rounds/` of
#   `22_active_learning_rounds`, where that was run.
# - Out: results `audit`, `label-free` and `stopping`.

# %%
import numpy as np
from IPython.display import Markdown, display

from lib import record
from lib.active.loop import TableOracle, read_rounds
from lib.consensus import VARIANTS, FilterInputs
from lib.data import cards
from lib.data.shifts import parse_list
from lib.figures import quality_plots
from lib.figures.style import show_table
from lib.learning import setups, trials
from lib.learning.vlm_cpl import read_vlm_cpl
from lib.quality import audit, estimate_tables, estimates, prediction_sources, stopping
from lib.paths import file_name
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
other_vlm = ""  # a second VLM, with which notebook 13 has run, whose predictions are compared
shifts = ""  # see lib.data.shifts; minutes, unless notebook 16 has embedded them
followed = "dual-view-aligned/unisal"  # training and strategy whose rounds are followed

# %%
run = open_run("31_how_good_is_it", globals())
card = cards.read_card(dataset)
train, test = run.split()
n_labels = min(audit_size, len(test) // 2)
print(f"{dataset} with {describe_vlm(vlm)}\n{len(test)} predictions to judge, {n_labels} to label")

# %% [markdown]
# ## What is to be judged
#
# The predictions of the networks of `13_high_confidence_cross_supervision` for the test set, with the published
# filters and with ours; and what the other sources predict for the same tiles.

# %%
setup = setups.frozen(run.shared, train.tile.values, len(card.classes),
                      steps=run.settings["n_steps"], seed=seed)
keep_ratio, pseudo_labels = run.settings["keep_ratio"], run.load("pseudo_labels")
inputs = FilterInputs.load(run.shared, train.tile.values, keep_ratio=keep_ratio, seed=seed)

# %%
trained = {
    variant: read_vlm_cpl(
        inputs, setup, card.class_names, tiles=test.tile.values,
        pseudo=pseudo_labels[pseudo_labels.setting == variant],
        folder=run.file("hcs") / file_name(variant),
    )
    for variant in VARIANTS
}
sources = {"": prediction_sources.collect(
    run.shared, setup, trained, test.tile.values, seed=seed
)}

# %%
ours = sources[""]["ours"]
before = run.load("predictions").set_index("tile").ours_label.loc[test.tile.values]
assert np.mean(before == ours.predicted) > 0.99

# %% [markdown]
# ## 1. Can I trust it without labels?
#
# Each estimate of the accuracy rests on an assumption, which its docstring in `lib/quality/estimates.py` names. An
# estimate below two thirds is an alarm: then two sources differ so often that one of them is wrong on more than every
# sixth tile.

# %%
other = None
if other_vlm:
    other = prediction_sources.read_predictions(
        dataset, other_vlm, test.tile.values, seed=seed, fold=fold
    )
estimated = {}
for variant, predictions in sources[""].items():
    other_labels = None if other is None else other[variant]
    estimated[variant] = estimates.label_free_estimates(predictions, other_labels)
    low = [estimates.ESTIMATES[name] for name in estimates.low_estimates(estimated[variant])]
    print(f"{variant}:", f"do not trust it, too low: {', '.join(low)}" if low else "no alarm")

# %% [markdown]
# Beside the estimates stands the truth. The last two columns, where the record has such rows, say how far off each
# estimate was in all published runs: no estimate should be read without them.

# %%
recorded = estimate_tables.quality_frame(record.published().facts)
truths = {variant: np.mean(predictions.predicted == test.label.values)
          for variant, predictions in sources[""].items()}
show_table(estimate_tables.estimates_table(estimated, truths, recorded))

# %% [markdown]
# ### On shifted tiles
#
# Where `shifts` names some: filters and training once more on each, as in `16_robustness`.

# %%
names = parse_list(shifts) if shifts else []
folders = []
if names:
    files = [run.pixels_file(shift=shift) for shift in names]
    model = load_vlm(vlm, seed=seed, precision=run.settings["precision"])
    text = embed_prompts(model, run.settings["prompts"])
    folders = trials.embed_shifted(model, files, run.shared, text, run.settings, seed=seed)

# %%
for shift, folder in zip(names, folders, strict=True):
    sources[shift] = prediction_sources.collect_at_shift(
        folder, card.class_names, run.settings, train_tiles=train.tile.values,
        test_tiles=test.tile.values, seed=seed,
    )

# %% [markdown]
# ## 2. How many labels does an audit take?
#
# Tiles are drawn by chance, in proportion to the predicted classes; of a class that is predicted seldom a few more,
# which tell about that class alone. The table answers here, and a person could. A tile that shows none of the classes,
# or cannot be judged, counts as incorrect: the prediction names a class that nobody has confirmed, and without that
# tile the others would no longer be a sample of all.

# %%
oracle = TableOracle(test.tile.values, test.label.values)
sample = audit.draw_audit(test.tile.values, ours.predicted, n_labels, seed=seed, at_least=at_least)
sample = audit.label_audit(sample, oracle.label(sample.tile.values))
display(Markdown(audit.audit_sentence(sample, len(test))))
show_table(audit.class_precisions(sample, ours.predicted, card.class_names))

# %% [markdown]
# *Precision* is the share of correct ones of the tiles for which a class is predicted. Its interval is wide where few
# tiles were labelled: a statement about single classes takes more labels than one about all of them.
#
# ### Does the interval hold?
#
# Here all labels are known, so the audit can be drawn again and again.

# %%
truth = (ours.predicted == test.label.values).mean()
audits = audit.repeat_audits(
    test.tile.values, ours.predicted, test.label.values, n_labels, seed=seed
)
quality_plots.repeated_audits(audits, truth)

# %% [markdown]
# In the long run at least 95 of 100 intervals cross the dotted line, whatever the accuracy and however it differs
# between classes: `lib/quality/audit.py` has the proof. A line that does not would be orange.

# %% [markdown]
# ## 3. When to stop?
#
# The rounds of `22_active_learning_rounds` predict the same test set, of which they have seen no label, so one audit
# serves them all. Beside it stands what costs no label: how many predictions a round still changed.

# %%
folder, followed_rounds = run.file("rounds") / followed, []
if (folder / "round0.json").is_file():
    history = read_rounds(folder)
    rounds = stopping.follow_rounds(history, test.tile.values, sample, test.label.values)
    followed_rounds = [estimate_tables.evaluate_stopping(rounds, len(test))]
    display(quality_plots.stopping_curves(rounds, f"{dataset}, {followed}"))
    display(Markdown(stopping.stopping_sentence(rounds)))
else:
    print(f"22_active_learning_rounds has not run {followed} on this fold: nothing to follow")

# %% [markdown]
# Where the right curve stays near zero, more labels of this kind change little; whether that is because all is correct
# or because the networks are stuck, only the audit on the left tells.
#
# ## All estimates against the truth
#
# Rows for the record: of every variant and shift an audit, with the coverage and the width of its interval over many
# draws, and the estimates without labels; and the rounds.

# %%
evaluations = []
for shift, of_shift in sources.items():
    params = {"shift": shift, "varied": ["shift"]} if shift else {}
    evaluations += estimate_tables.evaluate_quality(
        of_shift, test, audit_size=n_labels, seed=seed, other_vlm=None if shift else other,
        params=params,
    )
frame = estimate_tables.quality_frame(run.record(evaluations + followed_rounds).facts)
show_table(estimate_tables.errors_table(frame))

# %% [markdown]
# This run, and the runs of the record, where there are any:

# %%
for title, shown in {f"{dataset}, {vlm}, seed {seed}": frame, "the record": recorded}.items():
    if len(shown):
        display(quality_plots.estimate_against_truth(shown, title))
        display(Markdown(estimate_tables.verdict(shown)))

# %% [markdown]
# In the grey band an estimate is within three points. The audit is off by chance alone, and says by how much at most;
# points of the other panels lie above the band where the sources share their errors.

# %% [markdown]
# **Recap.** Agreement without labels ranks and warns; a few labels of tiles drawn by chance give the accuracy with an
# interval that holds; and the same audit says whether further rounds are worth their labels. Next: `40_record` makes
# tables and figures from all rows.
