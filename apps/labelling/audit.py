"""An audit of a person's own tiles: drawn once, kept on the disk, gone on with, and its report.

**What is estimated.** A sample is drawn from all tiles to which there was no answer yet, as those
have taught, or will teach, the networks. So an audit tells of the tiles without a label, whose
classes the networks give: of tiles from elsewhere, or of the labelled ones, it tells nothing. What
it audits, the class of each drawn tile by the networks of that day, is written down when the sample
is drawn and before anybody sees a tile: whatever learns from the answers later, the audit stays one
of the earlier predictions. Until an audit is finished its answers teach nothing (`withheld`), so
that the newest predictions remain those that are audited.

**More.** A further sample of the same predictions is drawn from the same tiles, independently of
the first, so that the two add up (`lib.quality.audit`); a tile that both draw is asked for once and
counts twice. Who goes on until the interval pleases has looked more often than its 95 % allow for.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from apps.labelling import answers
from apps.own_tiles.classifier import NETWORKS
from apps.own_tiles.gallery import Quality, write_quality
from apps.own_tiles.model_card import write_audit
from lib.artefacts import atomic, digest_of, locked
from lib.json_files import read_json
from lib.labels import OTHER_TISSUE, REFUSED
from lib.quality.audit import audit_sentence, class_precisions, draw_audit, label_audit
from lib.quality.conformal import SET_LEVEL, prediction_sets
from lib.random_draws import mixed_seed
from lib.report.statistics import LEVEL
from lib.slides.open_set import others_as_one

SETS = "prediction_set"  # the column of `predictions_labelled.csv`


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class Predictions:
    """What is audited: probabilities of all tiles, [N, C], by the networks in a folder.

    name: what people call them; digests: [N], of the tiles; others: whether the last class is other
    tissue, which a tile is that shows none of the classes.
    """

    name: str
    networks: Path
    class_names: Sequence[str]
    digests: Sequence[str]
    probs: np.ndarray
    others: bool = False

    @cached_property
    def digest(self) -> str:
        files = sorted(self.networks.glob(NETWORKS))
        named = {"tiles": list(self.digests), "classes": list(self.class_names)}
        return digest_of(named, *files)


def of_classifier(
    out: Path,
    digests: Sequence[str],
    probs: np.ndarray,
    class_names: Sequence[str],
    others: Sequence[str],
) -> Predictions:
    """Take those of the classifier in `out` of notebook 90, other tissue as one class.

    probs: [N, C + K], of the C classes and then of K kinds of other tissue, or of all in one.
    """
    names, name = list(class_names), "predictions.csv"
    if others:
        names, name = [*names, OTHER_TISSUE], f"{name}, all {OTHER_TISSUE} as one class"
        probs = others_as_one(probs, len(class_names))
    return Predictions(name, out / "classifier", names, digests, probs, bool(others))


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Sample:
    """Tiles as they were drawn, in the order in which they are shown.

    predictions, name: digest and name of what is audited; when: ISO time; classes: how many tiles
    of each class the sample was drawn from; taught: the other tiles; tiles: predicted class by
    digest; others: as of `Predictions`.
    """

    predictions: str
    name: str
    when: str
    classes: dict[str, int]
    taught: list[str]
    tiles: dict[str, str] = field(repr=False)
    others: bool = False

    @property
    def named(self) -> list[str]:
        """The classes that people choose from."""
        return [*self.classes][: len(self.classes) - self.others]


SAMPLES = TypeAdapter(list[Sample])


def samples_file(answers_file: Path) -> Path:
    return answers_file.with_suffix(".audits.json")


def read_samples(answers_file: Path) -> list[Sample]:
    """Read the samples that were drawn of the tiles of a file of answers, the newest last.

    Raises ValueError naming a file that was not written here.
    """
    file = samples_file(answers_file)
    if not file.is_file():
        return []
    try:
        return SAMPLES.validate_json(json.dumps(read_json(file, "file of audits")))
    except ValidationError as error:
        raise ValueError(
            f"{file} is no file of audits: {error.errors()[0]['msg']}. Move it away to draw anew"
        ) from None


def _split(
    answers_file: Path, class_names: Sequence[str], digests: Collection[str]
) -> tuple[list[Sample], set[str]]:
    """Samples of these classes and tiles that have open tiles, and the tiles of the others."""
    mine, tiles = set(class_names), set(digests)
    samples = [s for s in read_samples(answers_file) if mine.issuperset(s.named)]
    samples = [s for s in samples if s.tiles.keys() <= tiles]
    seen = set(answers.standing(answers.read(answers_file).lines).tile) if samples else set()
    unfinished = [s for s in samples if not s.tiles.keys() <= seen]
    return unfinished, {t for s in samples if s not in unfinished for t in s.tiles}


def withheld(answers_file: Path, class_names: Sequence[str], digests: Collection[str]) -> set[str]:
    """List the tiles whose answers may not teach yet: those of audits with open tiles."""
    unfinished, finished = _split(answers_file, class_names, digests)
    return {tile for sample in unfinished for tile in sample.tiles} - finished


def to_label(
    answers_file: Path, predictions: Predictions, taught: Collection[str], size: int, *, seed: int
) -> list[str]:
    """List the digests of the tiles to label, of an audit of `size` tiles in all.

    An audit with open tiles is gone on with, whichever predictions it is of; else what lacks is
    drawn, in proportion to the predicted classes, and written down. taught: digests of tiles that
    may have taught the networks otherwise than by the file of answers. Raises ValueError where each
    tile has a label.
    """
    with locked(answers_file.with_name(f".{answers_file.name}.audits.lock")):
        samples = read_samples(answers_file)
        mine = [s for s in samples if s.predictions == predictions.digest]
        unfinished, _ = _split(answers_file, predictions.class_names, predictions.digests)
        if unfinished:
            return [tile for sample in unfinished for tile in sample.tiles]
        said = answers.read(answers_file).lines.query("action == 'label'").tile  # undone ones too
        outside = mine[0].taught if mine else sorted({*taught, *said} & {*predictions.digests})
        n = len(predictions.digests) - len(outside)
        if not n:
            raise ValueError("every tile has a label: none is left to audit the predictions with")
        whole = any(len(sample.tiles) == n for sample in mine)
        lacking = n if size >= n else size - sum(len(sample.tiles) for sample in mine)
        if lacking > 0 and not whole:
            mine.append(_draw(predictions, outside, lacking, mixed_seed(seed, len(mine))))
            with atomic(samples_file(answers_file)) as file:
                file.write_bytes(SAMPLES.dump_json([*samples, mine[-1]], indent=1))
    return list(dict.fromkeys(tile for sample in mine for tile in sample.tiles))


def _draw(predictions: Predictions, outside: list[str], n: int, seed: int) -> Sample:
    """Draw n tiles that are not outside, in an order of chance, as an audit may end early."""
    names, digests = list(predictions.class_names), np.array(predictions.digests, object)
    tiles = np.flatnonzero(~pd.Index(digests).isin(outside))
    predicted = predictions.probs[tiles].argmax(1)
    drawn = draw_audit(tiles, predicted, n, seed=seed)
    drawn = drawn.iloc[np.random.default_rng(seed).permutation(n)]
    classes = np.bincount(predicted, minlength=len(names)).tolist()
    return Sample(
        predictions=predictions.digest,
        name=predictions.name,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        classes=dict(zip(names, classes, strict=True)),
        taught=list(outside),
        tiles={digests[t]: names[c] for t, c in drawn[["tile", "predicted"]].values},
        others=predictions.others,
    )


def report(answers_file: Path, predictions: Predictions) -> Quality | None:
    """Say how good predictions are by the audit of them, or else by the newest of earlier ones.

    None where nothing was audited. With an audit of just these predictions there are the sets of
    `conformal.prediction_sets`, or the reason why not.
    """
    samples = read_samples(answers_file)
    if not samples:
        return None
    mine = [s for s in samples if s.predictions == predictions.digest]
    earlier = not mine
    mine = mine or [s for s in samples if s.predictions == samples[-1].predictions]
    labelled, n_tiles = _labelled(answers_file, mine), sum(mine[0].classes.values())
    what = f"The audit of {mine[0].when[:10]}, of {mine[0].name}"
    if earlier:
        what += ". These are not the predictions of now, which nobody has audited"
    if (labelled.label < REFUSED).all():
        return Quality([f"{what}: no tile of it has an answer yet."])
    refused = int((labelled.label == REFUSED).sum())
    sentences = [
        f"{what}: {audit_sentence(labelled, n_tiles)}",
        *[f"{refused} showed none of the classes, or could not be judged: incorrect."]
        * (refused > 0),
        f"It tells of the {n_tiles} tiles, copies counted once, that had no label when it was "
        "begun"
        + f"; {len(mine[0].taught)} labelled ones are not among them" * bool(mine[0].taught)
        + ". Of tiles from elsewhere it tells nothing.",
    ]
    classes = np.repeat(np.arange(len(mine[0].classes)), list(mine[0].classes.values()))
    table = class_precisions(labelled, classes, list(mine[0].classes))
    table = table.rename(columns={"low": f"at least ({LEVEL:.0%})", "high": "at most"})
    if earlier:
        return Quality(sentences, table)
    lines = answers.standing(answers.read(answers_file).lines).query("action == 'label'")
    more, sets = _sets(predictions, labelled, [*lines.tile, *mine[0].taught])
    return Quality([*sentences, more], table, sets)


def publish(answers_file: Path, predictions: Predictions, page: Path) -> None:
    """Put what `report` says into the page of notebook 90 and the classifier's card."""
    said, card = report(answers_file, predictions), predictions.networks / "README.md"
    if said and page.is_file():
        write_quality(page, said)
    if said and card.is_file():
        write_audit(card, said.sentences)


def _labelled(answers_file: Path, samples: Sequence[Sample]) -> pd.DataFrame:
    """Line up the tiles of samples with what people say of them, as `label_audit` does."""
    names, named = list(samples[0].classes), samples[0].named
    rows = [(t, names.index(c), True) for sample in samples for t, c in sample.tiles.items()]
    sample = pd.DataFrame(rows, columns=["tile", "predicted", "counted"])
    lines = answers.read(answers_file, named, sample.tile).lines
    none = len(named) if samples[0].others else REFUSED
    said = answers.resolve(lines, named).items()
    return label_audit(sample, {t: none if label == REFUSED else label for t, label in said})


def _sets(
    predictions: Predictions, labelled: pd.DataFrame, with_label: Collection[str]
) -> tuple[str, np.ndarray | None]:
    """Say how many tiles without a label want a look, and give the classes of each, bool [N, C]."""
    once, digests = labelled.drop_duplicates("tile"), pd.Index(predictions.digests)
    try:
        sets = prediction_sets(predictions.probs, digests.get_indexer(once.tile), once.label.values)
    except ValueError as error:
        return f"Which tiles want a look cannot be told: {error}.", None
    sizes = sets[~digests.isin(with_label)].sum(1)
    alone, none, several = (sizes == 1).sum(), (sizes == 0).sum(), (sizes > 1).sum()
    return (
        f"{alone} of {len(sizes)} tiles without a label can be left alone, with one class in "
        f"their set; {none + several} want a look, {several} with several classes and {none} with "
        f"none. The sets (column {SETS} of predictions_labelled.csv) hold the true class of "
        f"{SET_LEVEL:.0%} of all these tiles, on the average over audits; that is no promise for a "
        "single class, nor for those left alone."
    ), sets
