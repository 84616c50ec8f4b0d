"""One-off: rows of JSON and three kinds of counts become counts, facts and settings.

python data/record/migrate.py FOLDER reads the old files of FOLDER and writes the new beside them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from lib import record

OWN = (
    "label_rule tie_break quota cluster_on cluster_rule clusters_per_class filters objective "
    "pooling strategy training shift followed query_size n_rounds varied"
).split()
# As the parameters are called today; rows of `30_cold_start` rest on 13 and on 22.
RENAMED = {
    **{"hcs_weight": "13.cross_weight", "tau": "22.threshold", "cps_weight": "22.cross_weight"},
    **{"threshold": "13.threshold", "n_steps": "13.n_steps", "round_steps": "22.n_steps"},
    **{"unisal_rules": "rules", "cold_start_shifts": "shifts", "quality_shifts": "shifts"},
}
RUN = ["vlm", "seed", "fold", "method"]


def curve_weights(budgets):
    labels = np.asarray(budgets, dtype=float)
    if len(labels) == 1 or labels[0] == labels[-1]:
        return np.full(len(labels), 1 / len(labels))
    widths = np.diff(labels) / (labels[-1] - labels[0])
    return (np.append(widths, 0) + np.append(0, widths)) / 2


def per_class(scores):
    n = pd.Series(list(scores["support"].values()), dtype=float)
    recall = pd.Series([r or 0.0 for r in scores["recall"].values()])
    correct = (n * recall).round()
    assert np.isclose(correct.sum() / n.sum(), scores["accuracy"], atol=1e-12)
    frame = pd.DataFrame({"label": range(len(n)), "group": "", "n": n, "correct": correct})
    return frame[frame.n > 0]


def grouped(file, keys):
    if not file.is_file():
        return {}
    frame = pd.read_parquet(file).rename(columns={"right": "correct"})
    frame["group"] = frame.group.astype(str)
    return dict(list(frame.groupby(keys)))


def renamed(row):
    params = row["params"]
    both = {"hcs_weight", "tau"} <= params.keys()
    names = {old: new if both else new.rpartition(".")[2] for old, new in RENAMED.items()}
    if params.keys() & {"hcs_weight", "tau"}:
        params = {names.get(name, name): value for name, value in params.items()}
        if "varied" in params:
            params["varied"] = [names.get(name, name) for name in params["varied"]]
    return row | {"params": params}


def migrate(dataset, folder):
    lines = (folder / f"{dataset}.jsonl").read_text().splitlines()
    rows = [renamed(json.loads(line)) for line in lines]
    compared = grouped(folder / f"{dataset}.groups.parquet", [*RUN, "setting", "network"])
    curves = grouped(folder / f"{dataset}.rounds.parquet", [*RUN, "training", "network"])
    slides = grouped(folder / f"{dataset}.slides.parquet", [*RUN, "pooling", "setting"])
    base: dict = {}
    for row in rows:
        for name, value in row["params"].items():
            if not row["params"].get("varied") and name not in OWN:
                base.setdefault((row["vlm"], name), set()).add(json.dumps(value))
    shared: dict = {}
    evaluations, loops, used = [], {}, {"compared": 0, "curves": 0, "slides": 0}
    for row in rows:
        params, labels = dict(row["params"]), dict(row["labels"] or {})
        varied = params.get("varied", [])
        settings = {n: v for n, v in params.items() if n not in OWN}
        for name in set(varied) & settings.keys():
            values = base.get((row["vlm"], name), {json.dumps(settings[name])})
            settings[name] = json.loads(min(values)) if len(values) == 1 else settings[name]
        settings = shared.setdefault(json.dumps(settings), settings)
        own = {n: params[n] for n in params if n in OWN or n in varied}
        if row["method"] == "stopping":
            labels = {"rounds": labels}
        labels.pop("labelled", None)
        if row["training"] is None:
            for counted in (labels.get("per_class") or {}).values():
                counted["correct"] = counted.pop("right")
        scores = dict(row["scores"] or {})
        counts = None
        if scores:
            counts = per_class(scores)
            key = tuple(row[name] for name in RUN)
            found = None
            if row["split"] == "slides":
                found = slides.get((*key, own["pooling"], row["setting"]))
                used["slides"] += found is not None
            elif row["split"] == "test" and row["training"] is None and not varied:
                found = compared.get((*key, row["setting"] or "", row["network"] or ""))
                used["compared"] += found is not None
            if found is not None:
                sums = found.groupby("label")[["n", "correct"]].sum()
                expected = counts.set_index("label")[["n", "correct"]]
                if (sums.loc[expected.index] != expected).any(axis=None):
                    off = (sums.loc[expected.index] - expected).correct.tolist()
                    print(f"  {key}: groups minus row, correct per class: {off}; groups are kept")
                    assert key[3] == "zero-shot" and max(map(abs, off)) <= 3
                counts = found
        fields = {
            n: v for n, v in row.items() if n not in ("setting", "scores", "labels", "params")
        }
        fields |= {"variant": row["setting"], "settings": settings, "params": own, "labels": labels}
        fields |= {"unit": "slide", "split": "test"} if row["split"] == "slides" else {}
        fields["scores"] = {n: scores[n] for n in record.SCORES if n in scores}
        evaluations.append(fields | {"counts": counts})
        r = labels.get("round")
        if row["training"] is not None and r is not None and r >= 0:
            values = json.dumps([own.get(name) for name in varied])
            key = (*(row[name] for name in RUN), row["training"], row["network"], *varied, values)
            loops.setdefault(key, []).append(evaluations[-1])
    for key, rounds in loops.items():
        rounds.sort(key=lambda e: e["labels"]["round"])
        weights = curve_weights([e["budget"] for e in rounds])
        frames = [e["counts"].set_index(["label", "group", "n"]).correct for e in rounds]
        area = sum(w * frame for w, frame in zip(weights, frames, strict=True)).reset_index()
        last = rounds[-1]
        found = None if last["params"].get("varied") else curves.get(key[:6])
        if found is not None:
            used["curves"] += 1
            sums = found.groupby("label")[["n", "correct"]].sum()
            expected = area.set_index("label")[["n", "correct"]]
            assert np.allclose(sums.loc[expected.index], expected), key
            area = found
        names = ("scores", "labels", "counts", "seconds", "budget")
        curve = {name: value for name, value in last.items() if name not in names}
        evaluations.append(curve | {"unit": "curve", "counts": area})
    wanted = {"compared": len(compared), "curves": len(curves), "slides": len(slides)}
    print(dataset, len(rows), "rows", used, "of", wanted, flush=True)
    made = record.make(evaluations)
    return record.merge(record.make([]), made)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for file in sorted(folder.glob("*.jsonl")):
        migrate(file.stem, folder).write(folder / file.stem)
