"""What is known of the quality of own tiles that nobody has audited."""

from collections.abc import Mapping, Sequence

import pandas as pd

from apps.own_tiles.gallery import Quality
from lib.alarm import Alarm
from lib.quality.estimate_tables import errors_beside_alarms, points
from lib.quality.estimates import ESTIMATES, low_estimates

AUDIT = (
    "An audit measures it: make label, with the same TILES and CLASSES and with ASK=audit, draws "
    "50 tiles by chance, and after their labels the accuracy stands here with an exact interval."
)


def without_audit(
    estimated: Mapping[str, float], alarms: Sequence[Alarm], facts: pd.DataFrame
) -> Quality:
    """Show the estimates without labels beside their errors in the record, where no alarm rings.

    estimated: of `estimates`, by name; facts: of the record. Where an alarm rings, an estimate is
    so low that it is one, or the record has no such runs, as none with other tissue, no number is
    shown.
    """
    names = [ESTIMATES[name] for name in low_estimates(estimated)]
    off = errors_beside_alarms(facts)
    if alarms:
        why = "An alarm rings, and where one does estimates without labels are far off"
        if True in off.index.get_level_values("rang"):
            largest = off.xs(True, level="rang").largest.max()
            why += f": by up to {points(largest)} points in the record"
        return Quality([f"{why}. So none is shown.", AUDIT])
    if names:
        why = f"Too low to trust the predictions, without any label: {', '.join(names)}."
        return Quality([why, AUDIT])
    if not estimated or False not in off.index.get_level_values("rang"):
        why = "No estimate without labels is shown: there is no record of how far off it would be."
        return Quality([why, AUDIT])
    off = off.xs(False, level="rang").reindex([name for name in ESTIMATES if name in estimated])
    table = pd.DataFrame(
        {
            "estimate without labels": [ESTIMATES[name] for name in off.index],
            "accuracy by it": [f"{estimated[name]:.1%}" for name in off.index],
            "mean error, points": [points(error) for error in off["mean"]],
            "largest error, points": [points(error) for error in off.largest],
        }
    )
    first = off.iloc[0]
    worth = (
        "Nobody has audited these predictions. Estimates without labels compare sources that "
        "learnt from one another and err alike, so they are guesses. Their errors are those of the "
        f"{first.runs} runs of the record in which no alarm rang: {first.datasets}, with stand-ins "
        f"for the models, and all of a true accuracy of {first.lowest:.1%} or more."
    )
    return Quality([worth, AUDIT], table)
