"""The order of the notebooks: which one reads what an earlier one wrote."""

AFTER: dict[str, tuple[str, ...]] = {
    "00_tiles_and_splits": (),
    "02_slide_features": (),
    "05_both_methods_on_one_page": (
        "13_high_confidence_cross_supervision",
        "22_active_learning_rounds",
    ),
    "10_zero_shot_inference": ("00_tiles_and_splits",),
    "11_multi_view_consensus": ("10_zero_shot_inference",),
    "12_prompt_feature_consensus": ("11_multi_view_consensus",),
    "13_high_confidence_cross_supervision": ("12_prompt_feature_consensus",),
    "14_comparison": ("13_high_confidence_cross_supervision",),
    "15_ablations": ("14_comparison",),
    "16_robustness": ("14_comparison",),
    "17_open_set_prompting_slides": ("02_slide_features",),
    "20_dual_view_pseudo_training": ("11_multi_view_consensus",),
    "21_disagreement_and_compact_selection": ("20_dual_view_pseudo_training",),
    "22_active_learning_rounds": ("11_multi_view_consensus",),
    "24_unisal_ablations": ("22_active_learning_rounds",),
    "30_cold_start": ("13_high_confidence_cross_supervision", "22_active_learning_rounds"),
    "31_how_good_is_it": ("13_high_confidence_cross_supervision",),
}
# What a notebook reads besides where it was run, and does without where it was not: no setting of
# theirs is inherited, but they come first where both are asked for.
IF_RUN: dict[str, tuple[str, ...]] = {
    "31_how_good_is_it": ("22_active_learning_rounds",),
}
# What these write serves all folds of a run; all others see the training tiles of one fold alone.
OF_ALL_FOLDS = (
    "00_tiles_and_splits",
    "01_stand_in_vlm",
    "02_slide_features",
    "10_zero_shot_inference",
    "11_multi_view_consensus",
)
# These look at all seeds of a dataset, and are no part of a single run.
OF_ALL_SEEDS: dict[str, tuple[str, ...]] = {
    "23_unisal_tables": ("22_active_learning_rounds",),
    "40_record": (
        "14_comparison",
        "17_open_set_prompting_slides",
        "22_active_learning_rounds",
        "30_cold_start",
        "31_how_good_is_it",
    ),
}
# Run once with heads on frozen features and, if asked for, once more with whole networks.
PER_NETWORK = (
    "13_high_confidence_cross_supervision",
    "14_comparison",
    "22_active_learning_rounds",
)


def ancestors(notebook: str) -> list[str]:
    """All notebooks that one rests on, in their order; none for a notebook outside the chain."""
    found: set[str] = set()
    waiting = list(AFTER.get(notebook, ()))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += AFTER[name]
    return sorted(found)


OF_SLIDES = ("02_slide_features", "17_open_set_prompting_slides")
# Which share of the work a job does; no setting of a run.
OF_A_JOB = ("part", "parts")


def variant(network: str = "frozen", part: int | None = None) -> str:
    """What the files of whole networks, and of one of several jobs, are called by besides."""
    return ("" if network == "frozen" else f"-{network}") + ("" if part is None else f"-part{part}")
