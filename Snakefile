# The chain of notebooks as a graph: runs what is missing or changed, and continues where it stopped.
#
#     snakemake --cores all --config dataset=lc25k_colon seeds=0,1,2,3,4
#
# Every rule calls one thing only, `python -m lib.run`; a cluster is a matter of snakemake's executors.

import sys

from lib import cards, paths, run

DATASET = str(config.get("dataset", "demo"))
cards.read_card(DATASET)  # an unknown dataset is refused with the names of those that are known
SEEDS = [int(seed) for seed in str(config.get("seeds", 0)).split(",")]
FIRST = paths.notebook_file("00_tiles_and_splits")
if DATASET != "demo" and not config.get("vlm") and not paths.params_file(DATASET).is_file():
    raise ValueError(f"no VLM is set for {DATASET}: name one, as in VLM=ViT-B-32/laion2b_s34b_b79k")
VLM = str(config.get("vlm") or run.resolve_parameters(FIRST, {"dataset": DATASET})["vlm"])
METHODS = str(config.get("method", "vlm-cpl,unisal")).split(",")
if not set(METHODS) <= {"vlm-cpl", "unisal"}:
    raise ValueError(f"method={config['method']}: there are vlm-cpl and unisal")
RUN = str(paths.run_folder(DATASET, VLM, "{seed}"))
ALL = str(paths.runs_folder(DATASET, VLM))
MEMBERS = VLM.split("+")  # several VLMs as one

# What each notebook reads of earlier ones, and what it writes.
STEPS = {
    "00_tiles_and_splits": ([], ["tiles.parquet"]),
    "10_zero_shot_inference": (
        ["tiles.parquet"],
        ["features.npy", "unprojected.npy", "probs.npy", "agree.npy", "rows/10_zero_shot_inference.jsonl"],
    ),
    "11_multi_view_consensus": (
        ["tiles.parquet", "probs.npy", "agree.npy", "rows/10_zero_shot_inference.jsonl"],
        ["view_features.npy", "votes.npy", "view_probs.npy", "consensus.parquet",
         "rows/11_multi_view_consensus.jsonl"],
    ),
    "12_prompt_feature_consensus": (
        ["features.npy", "unprojected.npy", "agree.npy", "votes.npy", "view_probs.npy", "consensus.parquet",
         "rows/11_multi_view_consensus.jsonl"],
        ["pseudo_labels.parquet", "rows/12_prompt_feature_consensus.jsonl"],
    ),
    "13_high_confidence_cross_supervision": (
        ["tiles.parquet", "probs.npy", "unprojected.npy", "view_features.npy",
         "pseudo_labels.parquet", "rows/11_multi_view_consensus.jsonl"],
        ["predictions.parquet", "rows/13_high_confidence_cross_supervision.jsonl",
         *(f"hcs/{setting}/network_{letter}.safetensors"
           for setting in ("published", "ours") for letter in "ab")],
    ),
    "14_vlm_cpl_tables": (
        ["tiles.parquet", "features.npy", "unprojected.npy", "probs.npy", "agree.npy", "view_features.npy", "votes.npy",
         "view_probs.npy", "pseudo_labels.parquet", "predictions.parquet",
         "rows/10_zero_shot_inference.jsonl", "rows/13_high_confidence_cross_supervision.jsonl"],
        ["comparison.parquet", "rows/14_vlm_cpl_tables.jsonl"],
    ),
    "20_dual_view_pseudo_training": (
        ["tiles.parquet", "unprojected.npy", "view_features.npy",
         "rows/11_multi_view_consensus.jsonl"],
        ["dual-view/labelled.parquet", *(f"dual-view/network_{a}.safetensors" for a in "ab")],
    ),
    "21_disagreement_and_compact_selection": (
        ["tiles.parquet", "unprojected.npy", "view_features.npy", "dual-view/labelled.parquet",
         "rows/11_multi_view_consensus.jsonl"],
        [],
    ),
    "22_active_learning_rounds": (
        ["tiles.parquet", "unprojected.npy", "view_features.npy",
         "rows/11_multi_view_consensus.jsonl"],
        ["learning.parquet", "rows/22_active_learning_rounds.jsonl"],
    ),
}
# What the notebooks on all seeds of a dataset need of each.
OF_ALL_SEEDS = {
    "23_unisal_tables": ["rows/22_active_learning_rounds.jsonl"],
    "40_record": ["rows/14_vlm_cpl_tables.jsonl"] * ("vlm-cpl" in METHODS)
    + ["rows/22_active_learning_rounds.jsonl"] * ("unisal" in METHODS),
}
# Last in each chain; 40_record closes all.
LAST = ["executed/21_disagreement_and_compact_selection.ipynb"] * ("unisal" in METHODS)
STAND_INS = {
    member: f"{paths.model_folder(member, '{seed}')}/open_clip_config.json"
    for member in MEMBERS
    if member.startswith(paths.STAND_IN)
}
DATASETS = [DATASET, *(member.removeprefix(paths.STAND_IN) for member in STAND_INS)]
for card in map(cards.read_card, DATASETS):
    if card.synthetic is None:
        cards.find(card)  # a dataset that is not here is named before anything starts
NEEDS_MODEL = ("10_zero_shot_inference", "11_multi_view_consensus", "14_vlm_cpl_tables")


def sources(name):
    """Files that decide what a notebook does: itself, the modules it uses, the cards, parameters."""
    notebook = paths.notebook_file(name)
    found = [notebook, *run.modules_used(notebook), *sum(map(cards.card_files, DATASETS), [])]
    return [str(file) for file in found]


def command(name, vlm=VLM):
    given = f"-p dataset {DATASET} -p vlm '{vlm}'" + ("" if name in OF_ALL_SEEDS else " -p seed {seed}")
    return f"'{sys.executable}' -m lib.run '{paths.notebook_file(name)}' {given}"


def parameters(name):
    """A change of these runs the notebook again."""
    return run.resolve_parameters(paths.notebook_file(name), {"dataset": DATASET, "vlm": VLM})


rule all:
    input:
        f"{ALL}/executed/40_record.ipynb",
        [f"{ALL}/executed/23_unisal_tables.ipynb"] * ("unisal" in METHODS),
        [expand(f"{RUN}/{file}", seed=SEEDS) for file in LAST],
    default_target: True


for step, (reads, writes) in STEPS.items():

    rule:
        name: step
        input:
            sources(step),
            [f"{RUN}/{file}" for file in reads],
            list(STAND_INS.values()) if step in NEEDS_MODEL else [],
        output:
            [f"{RUN}/{file}" for file in writes],
            f"{RUN}/executed/{step}.ipynb",
        params:
            call=command(step),
            **parameters(step),
        threads: 4
        shell:
            "{params.call}"


for member, model in STAND_INS.items():

    rule:
        name: f"01_stand_in_vlm_{paths.file_name(member)}".replace("-", "_")
        input:
            sources("01_stand_in_vlm"),
            ancient(f"{RUN}/tiles.parquet"),  # by then the target is drawn or cut, which it is compared with
        output:
            model,
            f"{paths.run_folder(DATASET, member, '{seed}')}/executed/01_stand_in_vlm.ipynb",
        params:
            call=command("01_stand_in_vlm", member),
            **parameters("01_stand_in_vlm"),
        threads: 4
        shell:
            "{params.call}"


for step, reads in OF_ALL_SEEDS.items():

    rule:
        name: step
        input:
            sources(step),
            [expand(f"{RUN}/{file}", seed=SEEDS) for file in reads],
        output:
            f"{ALL}/executed/{step}.ipynb",
            [f"{ALL}/figures/tables.md"] if step == "40_record" else [],
        params:
            call=command(step),
            **parameters(step),
        shell:
            "{params.call}"


onsuccess:
    seconds = run.notebook_seconds(paths.runs_folder(DATASET, VLM))
    print(f"\n{DATASET}, {VLM}: seconds per notebook (of its last run)")
    for name, value in seconds.items():
        print(f"{value:8.1f}  {name}")
    print(f"{sum(seconds.values()):8.1f}  in all\n")
    print((paths.runs_folder(DATASET, VLM) / "figures" / "tables.md").read_text())
