# The chain of notebooks as a graph: runs what is missing or changed, and continues where it stopped.
#
#     snakemake --cores all --config dataset=lc25k_colon seeds=0,1,2 folds=0,1,2,3,4
#
# A notebook is done when its executed copy is there, which is the last thing that it writes. Every
# rule calls one thing only, `python -m lib.runner`; a cluster is a matter of snakemake's executors.

import os
import re
import shlex
import sys

from lib import paths, runner
from lib.chain import AFTER, IF_RUN, OF_ALL_FOLDS, OF_ALL_SEEDS, variant
from lib.data import cards, datasets, splits

# What make is told comes through the environment: nothing parses it there, as it does --config.
NAMES = ("dataset", "seeds", "folds", "vlm", "method")
TOLD = config or {name: os.environ.get(name.upper()) for name in NAMES}
# Jobs that share the slides; each takes up those that are not done.
PARTED = ("02_slide_features",)


def words(name, default):
    return str(TOLD.get(name) or default).replace(",", " ").split()


def numbers(name, default="0"):
    if not re.fullmatch("[0-9]{1,9}( [0-9]{1,9})*", " ".join(words(name, default))):
        raise ValueError(f"{name}={TOLD[name]}: numbers are wanted, as in 0 or 0,1,2")
    return list(dict.fromkeys(map(int, words(name, default))))


def resolve(name, vlm):
    return runner.resolve_parameters(paths.notebook_file(name), {"dataset": DATASET, "vlm": vlm})


try:  # what cannot run is refused, in one line, before anything starts
    for folder in map(str, (paths.ROOT, paths.output_root())):
        if re.search("[{}]", folder):
            raise ValueError(f"{folder}: Snakemake takes braces in a path for its own; rename it")
    DATASET = str(TOLD.get("dataset") or "demo")
    CARD = cards.read_card(DATASET)
    SEEDS, FOLDS, PARTS = numbers("seeds"), numbers("folds"), range(numbers("parts", "2")[0])
    if DATASET != "demo" and not TOLD.get("vlm") and not paths.params_file(DATASET).is_file():
        raise ValueError(f"no VLM is set for {DATASET}: name one, as in VLM=plip")
    VLM = str(TOLD.get("vlm") or runner.default_vlm(DATASET))
    known_folds = range(1 if CARD.splits else splits.FOLDS)
    if not set(FOLDS) <= set(known_folds):
        raise ValueError(f"folds={TOLD['folds']}: {DATASET} has {', '.join(map(str, known_folds))}")
    SLIDES = CARD.slides is not None
    METHODS = ["vlm-cpl"] if SLIDES else words("method", "vlm-cpl,unisal")
    if not METHODS or not set(METHODS) <= {"vlm-cpl", "unisal"}:
        raise ValueError(f"method={TOLD['method']}: there are vlm-cpl and unisal")
    MEMBERS = dict.fromkeys(VLM.split("+"))
    STAND_INS = [member for member in MEMBERS if member.startswith(paths.STAND_IN)]
    DATASETS = [DATASET, *(member.removeprefix(paths.STAND_IN) for member in STAND_INS)]
    NEEDED = map(cards.read_card, sum((cards.read_card(name).needs for name in DATASETS), []))
    FILES = [datasets.state_of(datasets.locate(card)) for card in NEEDED]
    TABLES = [name for name in OF_ALL_SEEDS if name != "23_unisal_tables" or "unisal" in METHODS]
    # A change of these runs the notebook again.
    SETTINGS = {(name, VLM): resolve(name, VLM) for name in (*AFTER, *TABLES)}
    for member in STAND_INS:
        SETTINGS["01_stand_in_vlm", member] = resolve("01_stand_in_vlm", member)
    for name, vlm in SETTINGS:  # so does another file in a dataset
        SETTINGS[name, vlm]["files"] = FILES if name[:2] in ("00", "01", "02") else []
except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")


# The encoder takes all cores. Heads are so small that a second thread gains little and two trainings
# on one core each, side by side, nearly twice as much.
def cores(step):
    return 1 if step >= "12" or step in (*PARTED, "05_both_methods_on_one_page") else 4


# Their output is kept until its recipe changes, so a change of the code makes nothing else run again.
RECIPES = ("synthetic", "patches", "download", "archives", "datasets")


# The last notebooks of each method, and those that repeat it with one thing changed.
ENDS = {"vlm-cpl": ["14_comparison", "31_how_good_is_it"], "unisal": ["22_active_learning_rounds"]}
ENDS |= {"vlm-cpl": ["17_open_set_prompting_slides"]} if SLIDES else {}
# It begins with one method and goes on with the other.
ENDS["unisal"] += ["30_cold_start"] if len(METHODS) == 2 else []
# Looks into one round: of the first seed and fold alone.
INSIDE = ["21_disagreement_and_compact_selection"] if "unisal" in METHODS else []
# Holds its accuracies against other notebooks of one VLM, as close as they are on drawn tiles.
ON_ONE_PAGE = len(METHODS) == 2 and CARD.synthetic is not None and len(MEMBERS) == 1
INSIDE += ["05_both_methods_on_one_page"] if ON_ONE_PAGE else []
ABLATIONS = {"vlm-cpl": ["15_ablations", "16_robustness"], "unisal": ["24_unisal_ablations"]}


def executed(name, vlm=VLM):
    if name in OF_ALL_SEEDS:
        return f"{paths.runs_folder(DATASET, vlm)}/executed/{name}.ipynb"
    fold = None if name in OF_ALL_FOLDS else "{fold}"
    name += variant(part="{part}") if name in PARTED else ""
    return f"{paths.run_folder(DATASET, vlm, '{seed}', fold)}/executed/{name}.ipynb"


def of_runs(names):
    return [file for name in names for file in expand(executed(name), seed=SEEDS, fold=FOLDS)]


def of_methods(names):
    return [name for method in METHODS for name in names[method]]


def before(name):
    """The notebooks that one reads from; those that it can do without where they are asked for."""
    return [*AFTER[name], *(other for other in IF_RUN.get(name, ()) if other in of_methods(ENDS))]


def sources(name):
    """What decides the result of a notebook: itself, the modules it uses, the cards."""
    notebook = paths.notebook_file(name)
    files = [notebook, *runner.modules_used(notebook), *sum(map(cards.card_files, DATASETS), [])]
    return [str(file) for file in files if file.stem not in RECIPES]


def command(name, vlm=VLM):
    """The call as a function of the wildcards: in what it returns braces are no wildcards."""

    def of_job(wildcards):
        values = {"dataset": DATASET, "vlm": vlm, **dict(wildcards.items())}
        values |= {"parts": len(PARTS)} if name in PARTED else {}
        call = [sys.executable, "-m", "lib.runner", str(paths.notebook_file(name))]
        return shlex.join(call + [str(w) for pair in values.items() for w in ("-p", *pair)])

    return of_job


def settings(name, vlm=VLM):
    return lambda wildcards: SETTINGS[name, vlm]


rule all:
    input:
        [executed(name) for name in TABLES],
        of_runs(of_methods(ENDS)),
        [expand(executed(name), seed=SEEDS[0], fold=FOLDS[0]) for name in INSIDE],
    default_target: True


rule ablations:
    input:
        of_runs(of_methods(ABLATIONS)),


for step in AFTER:

    rule:
        name: step
        input:
            sources(step),
            [expand(executed(name), part=PARTS, allow_missing=True) for name in before(step)],
            [executed("01_stand_in_vlm", member) for member in STAND_INS] if step[:2] in ("02", "10") else [],
        output:
            executed(step),
        params:
            call=command(step),
            settings=settings(step),
        threads: cores(step)
        shell:
            "{params.call}"


for n, member in enumerate(STAND_INS):

    rule:
        name: f"01_stand_in_vlm_{n}"
        input:
            sources("01_stand_in_vlm"),
            # Its tiles are only compared with the source's; slides have none.
            [] if SLIDES else ancient(executed("00_tiles_and_splits")),
        output:
            executed("01_stand_in_vlm", member),
        params:
            call=command("01_stand_in_vlm", member),
            settings=settings("01_stand_in_vlm", member),
        threads: 4
        shell:
            "{params.call}"


for step in TABLES:

    rule:
        name: step
        input:
            sources(step),
            of_runs([name for name in OF_ALL_SEEDS[step] if name in of_methods(ENDS)]),
        output:
            executed(step),
        params:
            call=command(step),
            settings=settings(step),
        shell:
            "{params.call}"


onsuccess:
    print(runner.summary(paths.runs_folder(DATASET, VLM)))
