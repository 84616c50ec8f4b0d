# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The record: tables and figures
#
# Every evaluation is one row of JSON. This notebook turns rows into tables and figures, and needs
# neither tiles nor a model.
#
# $$\text{precision} = \frac{|\{i \text{ kept}: \hat y_i = y_i\}|}{|\{i \text{ kept}\}|}, \qquad \text{mean} \pm \text{standard deviation over seeds}$$
#
# | mode | reads | writes |
# |---|---|---|
# | `reproduce` | run folders of one dataset and VLM | `tables.md` and figures beside them; compares with the record |
# | `publish` | the same | puts their rows into `data/record/<dataset>.jsonl`, what was right in each group into `<dataset>.groups.parquet` and `<dataset>.rounds.parquet`, then as `figures` |
# | `figures` | `data/record` | `figures/`, the tables of the README |

# %%
import pandas as pd
from IPython.display import display

from lib.data import cards
from lib.report import pseudo_labels as pseudo_labels, plots, active_plots, active_learning, comparison, format
from lib import paths, runner
from lib.vlm.cards import vlms_table

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards; all of the record in mode figures
vlm = "stand-in-demo_other_lab"  # names the run folders
mode = "reproduce"  # reproduce, publish or figures

# %% [markdown]
# ## Rows

# %%
assert mode in ("reproduce", "publish", "figures"), f"unknown mode {mode!r}"
record_file = paths.record_folder() / f"{dataset}.jsonl"
groups_file, rounds_file = (record_file.with_suffix(f".{name}.parquet") for name in ("groups", "rounds"))
of_runs = record.read_rows(*sorted(paths.runs_folder(dataset, vlm).glob("seed*/results.jsonl")))
if mode == "publish":
    assert of_runs, f"no results of {dataset} with {vlm} to publish"
    before = record.read_rows(record_file) if record_file.is_file() else []
    record.write_record(record_file, record.merge_record(before, of_runs))
    of_vlm = paths.runs_folder(dataset, vlm)
    for published, found in ((groups_file, comparison.groups_of_runs(of_vlm)), (rounds_file, active_learning.groups_of_runs(of_vlm))):
        if len(found):
            others = comparison.groups_of_record(published).query("vlm != @vlm")
            with artefacts.atomic(published) as file:
                pd.concat([others, found], ignore_index=True).to_parquet(file)
recorded = record.read_rows(*sorted(paths.record_folder().glob("*.jsonl")))
rows = of_runs if mode == "reproduce" else comparison.of_own_vlm(recorded)
assert rows, "there are no results: run `make reproduce` first"

# %%
print(*sorted({f"{r['dataset']} with {describe_vlm(r['vlm'])}" for r in rows}), sep="\n")
frame = pseudo_labels.pseudo_label_frame(rows)
parts = {f"{name}, {model}": part for (name, model), part in frame.groupby(["dataset", "vlm"])}
frame.groupby(["dataset", "vlm", "method"], sort=False).seed.agg(rows="size", seeds="nunique")

# %% [markdown]
# ## How right are the labels that are kept?

# %%
summaries = {title: pseudo_labels.consensus_table(part) for title, part in parts.items()}
for title, summary in summaries.items():
    display(title, summary)

# %% [markdown]
# The same as a picture: a point per seed, a bar at the mean.

# %%
figures = {}
for title, part in parts.items():
    figure = plots.consensus_overview(pseudo_labels.overview_frame(part), title)
    figures[f"{part.dataset.iloc[0]}_consensus"] = figure
    display(figure)

# %% [markdown]
# ## Which share to keep?

# %%
for title, part in parts.items():
    figure = plots.precision_against_keep_ratio(part[part.method == "mvc"], title)
    figures[f"{part.dataset.iloc[0]}_share_kept"] = figure
    display(figure)

# %% [markdown]
# ## Does every class survive?

# %%
for title, part in parts.items():
    figure = plots.kept_per_class(pseudo_labels.per_class_frame(part), list(part.per_class.iloc[0]))
    figures[f"{part.dataset.iloc[0]}_kept_per_class"] = figure
    display(figure)

# %% [markdown]
# ## How good are the classifiers?
#
# Test part. "Ours is better by" is the accuracy of VLM-CPL in our setting minus that of the line, with
# the p of a paired permutation test over seeds × groups. The paper's number is with its own model and
# split.

# %%
scored = {}
for title, part in parts.items():
    name, model = part[["dataset", "vlm"]].iloc[0]
    of = [r for r in rows if (r["dataset"], r["vlm"]) == (name, model)]
    published = groups_file.with_name(f"{name}.groups.parquet")
    groups = comparison.groups_of_runs(paths.runs_folder(name, model)) if mode == "reproduce" else comparison.groups_of_record(published)
    scored[title] = comparison.scores_table(of, groups[groups.vlm == model])
    frozen = comparison.score_frame(of).query("network != 'fine-tune'")
    figures[f"{name}_comparison"] = plots.comparison(frozen, comparison.COMPARED, title)
    display(title, scored[title], figures[f"{name}_comparison"])

# %% [markdown]
# ## Ablations
#
# One rule changed at a time, where `14_vlm_cpl_tables` was run with `ablations`.

# %%
ablated = {}
for name, part in comparison.ablation_frames(rows).items():
    ablated[name] = [comparison.on_off_table(part)] + [comparison.ablation_table(part, *names) for names in comparison.ABLATION_TABLES]
    title = f"{name}, {part.vlm.iloc[0]}"
    figures[f"{name}_ablations"] = plots.ablation_curves(comparison.ablation_lines(part), title)
    figures[f"{name}_robustness"] = plots.robustness(comparison.robustness_lines(part), comparison.COMPARED, title)
    display(name, *ablated[name], figures[f"{name}_ablations"], figures[f"{name}_robustness"])

# %% [markdown]
# ## How many labels are needed?
#
# Active learning, where `22_active_learning_rounds` was run; `23_unisal_tables` explains the columns.

# %%
learned, parts_of_rounds = {}, {}
for (name, model, network), of in active_learning.rounds_frame(rows).groupby(["dataset", "vlm", "network"]):
    title = f"{name}, {model}, {network}"
    published = record_file.with_name(f"{name}.rounds.parquet")
    groups = active_learning.groups_of_runs(paths.runs_folder(name, model)) if mode == "reproduce" else pd.read_parquet(published)
    curves, end = of[of.varied == ()], "" if network == "frozen" else f"_{network}"
    if len(curves):
        learned[title] = active_learning.rounds_table(curves, groups[(groups.vlm == model) & (groups.network == network)])
        figures[f"{name}_learning_curves{end}"] = active_plots.learning_curves(curves, title)
        display(title, learned[title], figures[f"{name}_learning_curves{end}"])
    if (of.varied != ()).any():
        rules = active_learning.ABLATED
        parts_of_rounds[name] = [active_learning.on_off_table(of)] + [active_learning.ablation_table(of, rule) for rule in rules]
        figures[f"{name}_rounds_ablations"] = active_plots.ablation_curves(active_learning.ablation_lines(of), title)
        display(*parts_of_rounds[name], figures[f"{name}_rounds_ablations"])

# %% [markdown]
# ## Here against the record
#
# Precision of the kept labels in these runs beside the published mean, where there is one.

# %%
same = [r for r in recorded if (r["dataset"], r["vlm"]) == (dataset, vlm)]
if mode == "reproduce" and same:
    here, record = (pseudo_labels.at_main_keep_ratio(pseudo_labels.pseudo_label_frame(of)) for of in (of_runs, same))
    pairs = {"here": here, "record": record}
    means = {title: of.groupby("name", sort=False).precision.mean() for title, of in pairs.items()}
    display(pd.DataFrame(means).dropna().round(3))

# %% [markdown]
# ## Written

# %%
folder = paths.runs_folder(dataset, vlm) / "figures" if mode == "reproduce" else paths.figures_folder()
text = "\n".join(
    f"{part.dataset.iloc[0]} with {describe_vlm(part.vlm.iloc[0])}\n\n{format.markdown(summaries[title])}\n{format.markdown(scored[title])}"
    for title, part in parts.items()
)
text += "".join(f"\n{title}, active learning\n\n{format.markdown(of)}" for title, of in learned.items())
text += "".join(f"\n{name}, ablations of UniSAL\n\n" + "\n".join(map(format.markdown, of)) for name, of in parts_of_rounds.items())
text += "".join(f"\n{name}, ablations\n\n" + "\n".join(map(format.markdown, of)) for name, of in ablated.items())
with artefacts.atomic(folder / "tables.md") as file:
    file.write_text(text)
for name, figure in figures.items():
    with artefacts.atomic(folder / f"{name}.png") as file:
        figure.savefig(file)

# %%
if mode != "reproduce":
    of_several = comparison.vlm_comparison(recorded)
    for name, table in {"datasets": cards.datasets_table(), "vlms": vlms_table(), "several": of_several}.items():
        format.replace_block(paths.ROOT / "README.md", name, format.markdown(table))
    format.replace_block(paths.ROOT / "README.md", "summary", format.markdown(comparison.summary_table(rows)))
    for title, part in parts.items():
        name = part.dataset.iloc[0]
        format.replace_block(paths.ROOT / "README.md", f"consensus {name}", format.markdown(summaries[title]))
        format.replace_block(paths.ROOT / "README.md", f"scores {name}", format.markdown(scored[title]))
        if name in ablated:
            format.replace_block(paths.ROOT / "README.md", f"parts {name}", format.markdown(ablated[name][0]))
    format.replace_block(paths.ROOT / "README.md", "unisal", format.markdown(active_learning.summary_table(active_learning.rounds_frame(rows))))
    for title, of in learned.items():
        name, _, network = title.split(", ")
        format.replace_block(paths.ROOT / "README.md", f"rounds {name} {network}", format.markdown(of))
    for name, of in parts_of_rounds.items():
        format.replace_block(paths.ROOT / "README.md", f"round-parts {name}", format.markdown(of[0]))
print(f"figures and tables: {folder}")

# %% [markdown]
# **Recap.** The tables say what the consensus filters are worth. To see how, step through
# `10_zero_shot_inference` to `14_vlm_cpl_tables`.
