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

from lib import cards, label_tables, paths, plots, round_plots, round_tables, run, score_tables, tables
from lib.vlm_cards import vlms_table

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
of_runs = run.read_rows(*sorted(paths.runs_folder(dataset, vlm).glob("seed*/results.jsonl")))
if mode == "publish":
    assert of_runs, f"no results of {dataset} with {vlm} to publish"
    before = run.read_rows(record_file) if record_file.is_file() else []
    run.write_record(record_file, run.merge_record(before, of_runs))
    of_vlm = paths.runs_folder(dataset, vlm)
    for published, found in ((groups_file, score_tables.groups_of_runs(of_vlm)), (rounds_file, round_tables.groups_of_runs(of_vlm))):
        if len(found):
            others = score_tables.groups_of_record(published).query("vlm != @vlm")
            with run.atomic(published) as file:
                pd.concat([others, found], ignore_index=True).to_parquet(file)
recorded = run.read_rows(*sorted(paths.record_folder().glob("*.jsonl")))
rows = of_runs if mode == "reproduce" else score_tables.of_own_vlm(recorded)
assert rows, "there are no results: run `make reproduce` first"

# %%
print(*sorted({f"{r['dataset']} with {cards.about_vlm(r['vlm'])}" for r in rows}), sep="\n")
frame = label_tables.labels_frame(rows)
parts = {f"{name}, {model}": part for (name, model), part in frame.groupby(["dataset", "vlm"])}
frame.groupby(["dataset", "vlm", "method"], sort=False).seed.agg(rows="size", seeds="nunique")

# %% [markdown]
# ## How right are the labels that are kept?

# %%
summaries = {title: label_tables.consensus_table(part) for title, part in parts.items()}
for title, summary in summaries.items():
    display(title, summary)

# %% [markdown]
# The same as a picture: a point per seed, a bar at the mean.

# %%
figures = {}
for title, part in parts.items():
    figure = plots.consensus_overview(label_tables.overview_frame(part), title)
    figures[f"{part.dataset.iloc[0]}_consensus"] = figure
    display(figure)

# %% [markdown]
# ## Which share to keep?

# %%
for title, part in parts.items():
    figure = plots.precision_against_share(part[part.method == "mvc"], title)
    figures[f"{part.dataset.iloc[0]}_share_kept"] = figure
    display(figure)

# %% [markdown]
# ## Does every class survive?

# %%
for title, part in parts.items():
    figure = plots.kept_per_class(label_tables.per_class_frame(part), list(part.per_class.iloc[0]))
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
    groups = score_tables.groups_of_runs(paths.runs_folder(name, model)) if mode == "reproduce" else score_tables.groups_of_record(published)
    scored[title] = score_tables.scores_table(of, groups[groups.vlm == model])
    frozen = score_tables.score_frame(of).query("network != 'fine-tune'")
    figures[f"{name}_comparison"] = plots.comparison(frozen, score_tables.COMPARED, title)
    display(title, scored[title], figures[f"{name}_comparison"])

# %% [markdown]
# ## Ablations
#
# One rule changed at a time, where `14_vlm_cpl_tables` was run with `ablations`.

# %%
ablated = {}
for name, part in score_tables.ablation_frames(rows).items():
    ablated[name] = [score_tables.on_off_table(part)] + [score_tables.ablation_table(part, *names) for names in score_tables.ABLATION_TABLES]
    title = f"{name}, {part.vlm.iloc[0]}"
    figures[f"{name}_ablations"] = plots.ablation_curves(score_tables.ablation_lines(part), title)
    figures[f"{name}_robustness"] = plots.robustness(score_tables.robustness_lines(part), score_tables.COMPARED, title)
    display(name, *ablated[name], figures[f"{name}_ablations"], figures[f"{name}_robustness"])

# %% [markdown]
# ## How many labels are needed?
#
# Active learning, where `22_active_learning_rounds` was run; `23_unisal_tables` explains the columns.

# %%
learned, parts_of_rounds = {}, {}
for (name, model, network), of in round_tables.rounds_frame(rows).groupby(["dataset", "vlm", "network"]):
    title = f"{name}, {model}, {network}"
    published = record_file.with_name(f"{name}.rounds.parquet")
    groups = round_tables.groups_of_runs(paths.runs_folder(name, model)) if mode == "reproduce" else pd.read_parquet(published)
    curves, end = of[of.varied == ()], "" if network == "frozen" else f"_{network}"
    if len(curves):
        learned[title] = round_tables.rounds_table(curves, groups[(groups.vlm == model) & (groups.network == network)])
        figures[f"{name}_learning_curves{end}"] = round_plots.learning_curves(curves, title)
        display(title, learned[title], figures[f"{name}_learning_curves{end}"])
    if (of.varied != ()).any():
        rules = round_tables.ABLATED
        parts_of_rounds[name] = [round_tables.on_off_table(of)] + [round_tables.ablation_table(of, rule) for rule in rules]
        figures[f"{name}_rounds_ablations"] = round_plots.ablation_curves(round_tables.ablation_lines(of), title)
        display(*parts_of_rounds[name], figures[f"{name}_rounds_ablations"])

# %% [markdown]
# ## Here against the record
#
# Precision of the kept labels in these runs beside the published mean, where there is one.

# %%
same = [r for r in recorded if (r["dataset"], r["vlm"]) == (dataset, vlm)]
if mode == "reproduce" and same:
    here, record = (label_tables.at_main_share(label_tables.labels_frame(of)) for of in (of_runs, same))
    pairs = {"here": here, "record": record}
    means = {title: of.groupby("name", sort=False).precision.mean() for title, of in pairs.items()}
    display(pd.DataFrame(means).dropna().round(3))

# %% [markdown]
# ## Written

# %%
folder = paths.runs_folder(dataset, vlm) / "figures" if mode == "reproduce" else paths.figures_folder()
text = "\n".join(
    f"{part.dataset.iloc[0]} with {cards.about_vlm(part.vlm.iloc[0])}\n\n{tables.markdown(summaries[title])}\n{tables.markdown(scored[title])}"
    for title, part in parts.items()
)
text += "".join(f"\n{title}, active learning\n\n{tables.markdown(of)}" for title, of in learned.items())
text += "".join(f"\n{name}, ablations of UniSAL\n\n" + "\n".join(map(tables.markdown, of)) for name, of in parts_of_rounds.items())
text += "".join(f"\n{name}, ablations\n\n" + "\n".join(map(tables.markdown, of)) for name, of in ablated.items())
with run.atomic(folder / "tables.md") as file:
    file.write_text(text)
for name, figure in figures.items():
    with run.atomic(folder / f"{name}.png") as file:
        figure.savefig(file)

# %%
if mode != "reproduce":
    of_several = score_tables.vlm_comparison(recorded)
    for name, table in {"datasets": cards.datasets_table(), "vlms": vlms_table(), "several": of_several}.items():
        tables.replace_block(paths.ROOT / "README.md", name, tables.markdown(table))
    tables.replace_block(paths.ROOT / "README.md", "summary", tables.markdown(score_tables.summary_table(rows)))
    for title, part in parts.items():
        name = part.dataset.iloc[0]
        tables.replace_block(paths.ROOT / "README.md", f"consensus {name}", tables.markdown(summaries[title]))
        tables.replace_block(paths.ROOT / "README.md", f"scores {name}", tables.markdown(scored[title]))
        if name in ablated:
            tables.replace_block(paths.ROOT / "README.md", f"parts {name}", tables.markdown(ablated[name][0]))
    tables.replace_block(paths.ROOT / "README.md", "unisal", tables.markdown(round_tables.summary_table(round_tables.rounds_frame(rows))))
    for title, of in learned.items():
        name, _, network = title.split(", ")
        tables.replace_block(paths.ROOT / "README.md", f"rounds {name} {network}", tables.markdown(of))
    for name, of in parts_of_rounds.items():
        tables.replace_block(paths.ROOT / "README.md", f"round-parts {name}", tables.markdown(of[0]))
print(f"figures and tables: {folder}")

# %% [markdown]
# **Recap.** The tables say what the consensus filters are worth. To see how, step through
# `10_zero_shot_inference` to `14_vlm_cpl_tables`.
