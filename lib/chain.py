"""The chain of notebooks: what each reads, and for which datasets and methods it runs."""

from dataclasses import dataclass, replace

VLM_CPL, UNISAL = ("vlm-cpl",), ("unisal",)
TILES, SLIDES = ("tiles",), ("slides",)


@dataclass(frozen=True)
class Step:
    """How a notebook stands in the chain.

    after: notebooks whose results and settings it reads; if_run: those that it reads besides where
    they are asked for, and does without elsewhere: no setting of theirs is inherited. In `CHAIN`
    both are given by their numbers. per: what it runs once for, a "fold", a "seed" (its results
    serve all folds), a "dataset" (it looks at all seeds, and is no part of a single run) or a "vlm"
    (a stand-in). per_network: run once with heads on frozen features and, if asked for, once more
    with whole networks. methods: it runs where all of these are asked for. data: tiles, slides or
    both. extra: "first" for the first seed and fold alone, "ablation" and "benchmark" for what is
    run on demand. parts: several jobs share its work. gathers: where there are several, it runs
    once more, after them; their own copies end at the cell that is tagged "share".
    """

    after: tuple[str, ...] = ()
    if_run: tuple[str, ...] = ()
    per: str = "fold"
    per_network: bool = False
    methods: tuple[str, ...] = ()
    data: tuple[str, ...] = TILES
    extra: str = ""
    parts: bool = False
    gathers: bool = False


_STEPS = {
    "00_tiles_and_splits": Step(per="seed"),
    "01_stand_in_vlm": Step(per="vlm", data=TILES + SLIDES),
    "02_slide_features": Step(if_run=("01",), per="seed", data=SLIDES, parts=True),
    "05_both_methods_on_one_page": Step(("13", "22"), methods=VLM_CPL + UNISAL, extra="first"),
    "10_zero_shot_inference": Step(("00",), if_run=("01",), per="seed", parts=True, gathers=True),
    "11_multi_view_consensus": Step(("10",), per="seed", parts=True, gathers=True),
    "12_prompt_feature_consensus": Step(("11",), methods=VLM_CPL),
    "13_high_confidence_cross_supervision": Step(("12",), methods=VLM_CPL, per_network=True),
    "14_comparison": Step(("13",), methods=VLM_CPL, per_network=True),
    "15_ablations": Step(("14",), methods=VLM_CPL, extra="ablation"),
    "16_robustness": Step(("14",), methods=VLM_CPL, extra="ablation"),
    "17_open_set_prompting_slides": Step(("02",), methods=VLM_CPL, data=SLIDES),
    "20_dual_view_pseudo_training": Step(("11",), methods=UNISAL, extra="first"),
    "21_disagreement_and_compact_selection": Step(("20",), methods=UNISAL, extra="first"),
    "22_active_learning_rounds": Step(("11",), methods=UNISAL, per_network=True),
    "23_unisal_tables": Step(if_run=("22",), methods=UNISAL, per="dataset"),
    "24_unisal_ablations": Step(("22",), methods=UNISAL, extra="ablation"),
    "30_cold_start": Step(("13", "22"), methods=VLM_CPL + UNISAL),
    "31_how_good_is_it": Step(("13",), if_run=("22",), methods=VLM_CPL),
    "40_record": Step(if_run=("14", "17", "22", "30", "31"), per="dataset", data=TILES + SLIDES),
    "50_throughput": Step(("10",), per="seed", extra="benchmark"),
}
_BY_NUMBER = {name[:2]: name for name in _STEPS}


def _names(numbers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_BY_NUMBER[number] for number in numbers)


CHAIN = {
    name: replace(step, after=_names(step.after), if_run=_names(step.if_run))
    for name, step in _STEPS.items()
}
PER_NETWORK = tuple(name for name, step in CHAIN.items() if step.per_network)


def ancestors(notebook: str) -> list[str]:
    """All notebooks that one rests on, in their order; none for a notebook outside the chain."""
    found: set[str] = set()
    waiting = [notebook] if notebook in CHAIN else []
    while waiting:
        after = set(CHAIN[waiting.pop()].after) - found
        found |= after
        waiting += after
    return sorted(found)


def variant(network: str = "frozen", part: int | str = -1) -> str:
    """What the files of whole networks, and of one of several jobs, are called by besides."""
    return ("" if network == "frozen" else f"-{network}") + ("" if part == -1 else f"-part{part}")
