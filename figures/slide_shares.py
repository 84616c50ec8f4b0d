"""Accuracy of slides beside the share of their tiles that shows other tissue."""

import numpy as np
import pandas as pd

from lib.record import Record
from lib.report import statistics
from lib.report.format import differences, with_interval
from lib.slides.open_set import ALL_TISSUE
from lib.slides.scores import slides

SHARES = ("irrelevant", "irrelevant_dropped", "relevant_dropped")  # of tiles


def share_frame(some: Record) -> pd.DataFrame:
    """Where the truth of tiles is known: a line per dataset and variant, by rising share.

    Of VLM-CPL by the mean of the tile probabilities. Columns: dataset, variant, those of `SHARES`
    (mean over runs), accuracy (`Estimate`), better (`Estimate` of the difference to all tissue, or
    None), folds and seeds.
    """
    facts = slides(some).facts.query("method == 'vlm-cpl' and pooling == 'mean'")
    facts = facts.dropna(subset=SHARES[0])
    lines = []
    for dataset, of_dataset in facts.groupby("dataset"):
        groups = statistics.grouped(Record(of_dataset, some.counts), ["variant"])
        for variant, each in of_dataset.groupby("variant"):
            kind, other = (str(variant),), (ALL_TISSUE,)
            line = {"dataset": dataset, "variant": variant}
            line |= {"accuracy": statistics.estimates(groups, kind)["accuracy"]}
            compared = {} if kind == other else statistics.differences(groups, kind, other)
            line |= {"better": compared.get("accuracy")}
            line |= {name: each[name].astype(float).mean() for name in SHARES}
            lines.append(line | statistics.runs(each))
    frame = pd.DataFrame(lines)
    return frame.sort_values(["irrelevant", "variant"], ignore_index=True) if lines else frame


def share_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`share_frame` as it is shown."""
    shares = frame[list(SHARES)].map(lambda share: "" if np.isnan(share) else f"{share:.2f}")
    shares.columns = [name.replace("_", " ") for name in SHARES]
    shown = frame[["dataset", "variant"]].rename(columns={"variant": "setting"}).join(shares)
    shown["accuracy"] = [with_interval(e) for e in frame.accuracy]
    shown["better by"] = differences(list(frame.better))
    return shown.join(frame[["folds", "seeds"]])
