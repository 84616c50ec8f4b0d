# The chain of notebooks as a graph: runs what is missing or changed, and continues where it stopped.
#
#     snakemake --cores all --config dataset=lc25k_colon seeds=0,1,2 folds=0,1,2,3,4
#     snakemake --profile profiles/slurm --config dataset=lc25k_colon seeds=0,1,2 parts=8
#
# `parts` jobs share the slides of notebook 02, or the tiles of 10 and 11. A notebook is done when
# its executed copy is there, which is the last thing that it writes. Every rule calls one thing
# only, `python -m lib.runner`; a cluster is a matter of snakemake's executors.

import os
import re
import shlex
import sys

from lib import parameters, paths, runner
from lib.chain import CHAIN, variant
from lib.data import cards, datasets, splits
from lib.vlm.cards import check_vlm, split_name

# What make is told comes through the environment: nothing parses it there, as it does --config.
NAMES = ("dataset", "seeds", "folds", "vlm", "encoder", "method", "parts")
TOLD = config or {name: os.environ.get(name.upper()) for name in NAMES}


def words(name, default):
    return str(TOLD.get(name) or default).replace(",", " ").split()


def numbers(name, default="0"):
    if not re.fullmatch("[0-9]{1,9}( [0-9]{1,9})*", " ".join(words(name, default))):
        raise ValueError(f"{name}={TOLD[name]}: whole numbers, as in {name.upper()}=0 or {name.upper()}=0,1,2")
    return list(dict.fromkeys(map(int, words(name, default))))


def resolve(name, vlm):
    return parameters.resolve_parameters(paths.notebook_file(name), {"dataset": DATASET, "vlm": vlm})


try:  # what cannot run is refused, in one line, before anything starts
    for folder in map(str, (paths.ROOT, paths.output_root())):
        if re.search("[{}]", folder):
            raise ValueError(f"{folder}: Snakemake takes braces in a path for its own; rename it")
    DATASET = str(TOLD.get("dataset") or "demo")
    CARD = cards.read_card(DATASET)
    SEEDS, FOLDS = numbers("seeds"), numbers("folds")
    if DATASET != "demo" and not TOLD.get("vlm") and not paths.params_file(DATASET).is_file():
        raise ValueError(f"no VLM is set for {DATASET}: name one, as in VLM=plip")
    beside = f"@{TOLD['encoder']}" if TOLD.get("encoder") else ""
    VLM = parameters.default_vlm(DATASET, f"{TOLD.get('vlm') or ''}{beside}")
    check_vlm(VLM)
    known_folds = range(1 if CARD.splits else splits.FOLDS)
    if not set(FOLDS) <= set(known_folds):
        raise ValueError(f"folds={TOLD['folds']}: {DATASET} has {', '.join(map(str, known_folds))}")
    DATA = "tiles" if CARD.slides is None else "slides"
    PARTS = numbers("parts", "1" if DATA == "tiles" else "2")
    if len(PARTS) > 1 or PARTS == [0]:
        raise ValueError(f"parts={TOLD['parts']}: one number of jobs, as in PARTS=4")
    PARTS = range(PARTS[0])
    METHODS = ["vlm-cpl"] if DATA == "slides" else words("method", "vlm-cpl,unisal")
    if not METHODS or not set(METHODS) <= {"vlm-cpl", "unisal"}:
        raise ValueError(f"method={TOLD['method']}: there are vlm-cpl and unisal")
    JOINED, ENCODER = split_name(VLM)
    MEMBERS = dict.fromkeys(JOINED)
    STAND_INS = [member for member in MEMBERS if member.startswith(paths.STAND_IN)]
    DATASETS = [DATASET, *(paths.source_of(member) for member in STAND_INS)]
    NEEDED = map(cards.read_card, sum((cards.read_card(name).needs for name in DATASETS), []))
    FILES = [datasets.state_of(datasets.locate(card)) for card in NEEDED]
    # The notebooks of this dataset and these methods.
    STEPS = {
        name: step
        for name, step in CHAIN.items()
        if DATA in step.data and {*step.methods} <= {*METHODS} and step.per != "vlm"
    }
    # Notebook 05 holds its accuracies against those of others with one VLM, close on drawn tiles.
    if CARD.synthetic is None or len(MEMBERS) > 1 or ENCODER:
        STEPS.pop("05_both_methods_on_one_page", None)
    # A change of these runs a notebook again.
    SETTINGS = {(name, VLM): resolve(name, VLM) for name in STEPS}
    for member in STAND_INS:
        SETTINGS["01_stand_in_vlm", member] = resolve("01_stand_in_vlm", member)
    for name, vlm in SETTINGS:  # so does another file in a dataset, for those that read it
        first = not CHAIN[name].after and CHAIN[name].per != "dataset"
        SETTINGS[name, vlm]["files"] = FILES if first else []
except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")


print("runs in", paths.runs_folder(DATASET, VLM))  # read by lib/reproduce.py


# The encoder, whose results serve all folds, takes all cores. Heads are so small that a second thread
# gains little and two trainings on one core each, side by side, nearly twice as much.
def cores(step):
    of_slides = CHAIN[step].parts and not CHAIN[step].gathers
    return 4 if CHAIN[step].per in ("seed", "vlm") and not of_slides else 1


# Their output is kept until its recipe changes, so a change of the code makes nothing else run again.
RECIPES = ("synthetic", "laboratory", "patches", "download", "archives", "datasets")


def executed(name, vlm=VLM, share=False):
    step = CHAIN[name]
    if step.per == "dataset":
        return f"{paths.runs_folder(DATASET, vlm)}/executed/{name}.ipynb"
    fold = "{fold}" if step.per == "fold" else None
    name += variant(part="{part}") if share or (step.parts and not step.gathers) else ""
    return f"{paths.run_folder(DATASET, vlm, '{seed}', fold)}/executed/{name}.ipynb"


# Several jobs encode the tiles before the notebook runs.
SHARED = [name for name, step in STEPS.items() if step.gathers and len(PARTS) > 1]
JOBS = [(*job, False) for job in SETTINGS] + [(name, VLM, True) for name in SHARED]

# Tables and figures of the runs, beside them.
PUBLISH = ("-m", "figures.publish", "runs", "--")
PAGE = f"{paths.runs_folder(DATASET, VLM)}/figures/RESULTS.md"


def targets(extra, seeds=SEEDS, folds=FOLDS):
    """The notebooks that are asked for, of the same `extra`, for some seeds and folds."""
    names = [name for name, step in STEPS.items() if step.extra == extra]
    return [f for n in names for f in expand(executed(n), seed=seeds, fold=folds, part=PARTS)]


def read_by(name, share=False):
    """The executed notebooks that one reads from, or a job with a share of its work."""
    step = CHAIN[name]
    if step.per == "vlm":  # its tiles are only compared with the source's; slides have none
        return [ancient(executed("00_tiles_and_splits"))] if DATA == "tiles" else []
    files = [executed(n) for n in (*step.after, *step.if_run) if n in STEPS]
    if "01_stand_in_vlm" in step.if_run:
        files += [executed("01_stand_in_vlm", member) for member in STAND_INS]
    if name in SHARED and not share:
        files.append(executed(name, share=True))
    values = {"seed": SEEDS, "fold": FOLDS} if step.per == "dataset" else {}
    return expand(files, part=PARTS, allow_missing=True, **values)


def sources(name):
    """What decides the result of a notebook: itself, the modules it uses, the cards."""
    notebook = paths.notebook_file(name)
    files = [notebook, *runner.modules_used(notebook), *sum(map(cards.card_files, DATASETS), [])]
    return [str(file) for file in files if file.stem not in RECIPES]


def command(name, vlm=VLM):
    """The call as a function of the wildcards: in what it returns braces are no wildcards."""

    def of_job(wildcards):
        values = {"dataset": DATASET, "vlm": vlm, **dict(wildcards.items())}
        values |= {"parts": len(PARTS)} if CHAIN[name].parts else {}
        call = [sys.executable, "-m", "lib.runner", str(paths.notebook_file(name))]
        return shlex.join(call + [str(w) for pair in values.items() for w in ("-p", *pair)])

    return of_job


def settings(name, vlm=VLM):
    return lambda wildcards: SETTINGS[name, vlm]


rule all:
    input:
        targets(""),
        targets("first", SEEDS[:1], FOLDS[:1]),
        PAGE,
    default_target: True


rule ablations:
    input:
        targets("ablation"),


rule throughput:
    input:
        targets("benchmark", SEEDS[:1]),


for step, vlm, share in JOBS:

    rule:
        name: step + (f"_{STAND_INS.index(vlm)}" if CHAIN[step].per == "vlm" else "_share" * share)
        input:
            sources(step),
            read_by(step, share),
        output:
            executed(step, vlm, share),
        params:
            call=command(step, vlm),
            settings=settings(step, vlm),
        threads: cores(step)
        shell:
            "{params.call}"


rule page:
    input:
        executed("40_record"),
    output:
        PAGE,
    params:
        call=lambda _: shlex.join([sys.executable, *PUBLISH, DATASET, VLM]),
    shell:
        "{params.call}"
