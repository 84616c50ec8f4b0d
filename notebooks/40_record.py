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
# | `publish` | the same | adds their rows to `data/record/<dataset>.jsonl`, then as `figures` |
# | `figures` | `data/record` | `figures/`, the tables of the README |

# %%
import pandas as pd
from IPython.display import display

from lib import paths, plots, run, tables

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards; all of the record in mode figures
vlm = "stand-in-demo_other_lab"  # names the run folders
mode = "reproduce"  # reproduce, publish or figures

# %% [markdown]
# ## Rows

# %%
assert mode in ("reproduce", "publish", "figures"), f"unknown mode {mode!r}"
record_file = paths.record_folder() / f"{dataset}.jsonl"
of_runs = run.read_rows(*sorted(paths.runs_folder(dataset, vlm).glob("seed*/results.jsonl")))
if mode == "publish":
    assert of_runs, f"no results of {dataset} with {vlm} to publish"
    others = [
        r for r in run.read_rows(*[f for f in [record_file] if f.is_file()]) if r["vlm"] != vlm
    ]
    run.write_record(record_file, others + of_runs)
published = run.read_rows(*sorted(paths.record_folder().glob("*.jsonl")))
rows = of_runs if mode == "reproduce" else published
assert rows, "there are no results: run `make reproduce` first"

# %%
frame = tables.labels_frame(rows)
frame.groupby(["dataset", "vlm", "method"], sort=False).agg(
    rows=("seed", "size"), seeds=("seed", "nunique")
)

# %% [markdown]
# ## How right are the labels that are kept?

# %%
consensus_tables = {
    key: tables.consensus_table(part) for key, part in frame.groupby(["dataset", "vlm"])
}
for (name, model), table in consensus_tables.items():
    display(f"{name}, {model}", table)

# %% [markdown]
# The same as a picture: a point per seed, a bar at the mean.

# %%
figures = {}
for (name, model), part in frame.groupby(["dataset", "vlm"]):
    figures[f"{name}_consensus"] = plots.consensus_overview(
        tables.at_main_share(part), f"{name}, {model}"
    )

# %% [markdown]
# ## Which share to keep?

# %%
for (name, model), part in frame[frame.method == "mvc"].groupby(["dataset", "vlm"]):
    curve = part.assign(share=part.share_setting)
    figures[f"{name}_share_kept"] = plots.precision_against_share(curve, f"{name}, {model}")

# %% [markdown]
# ## Does every class survive?

# %%
for (name, model), part in frame.groupby(["dataset", "vlm"]):
    class_names = list(part.per_class.iloc[0])
    figures[f"{name}_kept_per_class"] = plots.kept_per_class(
        tables.per_class_frame(part), class_names
    )

# %% [markdown]
# ## Here against the record
#
# Precision of the kept labels in these runs beside the published mean, where there is one.

# %%
if mode == "reproduce" and published:
    ours, theirs = (
        tables.at_main_share(tables.labels_frame(r))
        .query("dataset == @dataset and vlm == @vlm")
        .groupby("name", sort=False)
        .precision.mean()
        for r in (of_runs, published)
    )
    display(pd.DataFrame({"here": ours, "record": theirs}).dropna().round(3))

# %% [markdown]
# ## Written

# %%
folder = (
    paths.runs_folder(dataset, vlm) / "figures" if mode == "reproduce" else paths.figures_folder()
)
text = "\n".join(
    f"{name}, {model}\n\n{tables.markdown(table)}"
    for (name, model), table in consensus_tables.items()
)
with run.atomic(folder / "tables.md") as file:
    file.write_text(text)
for name, figure in figures.items():
    with run.atomic(folder / f"{name}.png") as file:
        figure.savefig(file)
if mode != "reproduce":
    for (name, model), table in consensus_tables.items():
        tables.replace_block(paths.ROOT / "README.md", f"consensus {name}", tables.markdown(table))
print(text + f"\nfigures and tables: {folder}")

# %% [markdown]
# **Recap.** The tables say what the consensus filters are worth. To see how, step through
# `10_zero_shot_inference`, `11_multi_view_consensus` and `12_prompt_feature_consensus`.
