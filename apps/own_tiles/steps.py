"""VLM-CPL on own tiles, step by step. What is heavy is imported when the inputs are checked."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from apps.own_tiles.words import parse_words
from lib import paths
from lib.alarm import Alarm
from lib.artefacts import atomic, digest_of
from lib.data import cards
from lib.labels import REFUSED
from lib.slides.open_set import relevant_tiles, target_probabilities
from lib.vlm.prompts import PAPERS, class_prompts, parse_templates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lib.vlm.inference import VLM

ENCODED = "encoded_from.json"


def prompts_of_classes(
    classes: str, other_tissue: str, templates: str, *, demo: bool
) -> tuple[dict[str, list[str]], list[str]]:
    """Read the words of each class, or with `demo` and without words those of the demo.

    Those of other tissue follow; second, its names. Raises ValueError as `parse_words` and
    `parse_templates` do.
    """
    wordings = parse_templates(templates)
    if classes or other_tissue or not demo:
        return parse_words(classes, other_tissue, wordings or [PAPERS])
    card = cards.read_card("demo")
    return dict(zip(card.class_names, class_prompts(card, wordings), strict=True)), []


def load_model(vlm: str, unique: pd.DataFrame, *, image_size: int, seed: int) -> "VLM":
    """Load a VLM and say what it is; a stand-in is built first, of that image size.

    Raises ValueError for a stand-in that has learned on one of these tiles.
    """
    from data.prepare import stand_in
    from data.prepare.datasets import prepare_source
    from lib.vlm.cards import describe_vlm, split_name, vlm_citations
    from lib.vlm.loading import load_vlm

    for member in split_name(vlm)[0]:
        if member.startswith(paths.STAND_IN):
            prepare_source(member)
            source = stand_in.prepare(member, image_size=image_size, seed=seed)
            if shared := set(source.digest) & set(unique.digest):
                raise ValueError(
                    f"{member} has learned on {len(shared)} of these tiles: its labels would be no "
                    "guess. Name another model (vlm, VLM=) or other tiles"
                )
    model = load_vlm(vlm, seed=seed)
    print(
        f"{describe_vlm(vlm)}, {model.image_size} px on {model.device}",
        vlm_citations(vlm),
        model.caveat,
        sep="\n",
    )
    return model


def embed(
    model: "VLM",
    pixels: Path,
    unique: pd.DataFrame,
    prompts: Sequence[Sequence[str]],
    out: Path,
    *,
    n_views: int,
    seed: int,
) -> float:
    """Write features, probabilities and the votes of the views to `out`; see `embed_views`.

    What is there of the same is kept. Returns the seconds that reading the tiles took.
    """
    from lib.vlm.inference import embed_prompts, embed_tiles, embed_views, is_embedded

    text = embed_prompts(model, prompts)

    def encode() -> None:
        embed_tiles(model, pixels, text, out)
        embed_views(model, pixels, unique.tile.values, text, out, n_views=n_views, seed=seed)

    if not is_embedded(out):
        (out / ENCODED).unlink(missing_ok=True)
    settings = {"text": text.tolist(), "views": n_views, "seed": seed}
    return encode_once(model, unique, out, encode, settings)


def encode_once(
    model: "VLM",
    unique: pd.DataFrame,
    folder: Path,
    encode: Callable[[], None],
    settings: Mapping[str, Any],
) -> float:
    """Let `encode` write features to a folder, unless it has with the same model and tiles.

    unique: a row per tile, with its digest; settings: whatever else decides what is written.
    Returns the seconds that it took, now or then.
    """
    from lib.vlm import inference, views

    made = {"weights": inference.weights_digest(model), "size": model.image_size, **settings}
    made |= {"dtype": str(model.dtype), "tiles": unique.digest.tolist()}
    made_from = digest_of(made, *(Path(str(module.__file__)) for module in (inference, views)))
    file = folder / ENCODED
    known = json.loads(file.read_text()) if file.is_file() else {}
    if known.get("made_from") == made_from:
        return known["seconds"]
    file.unlink(missing_ok=True)
    started = time.perf_counter()
    encode()
    seconds = time.perf_counter() - started
    with atomic(file) as temporary:
        temporary.write_text(json.dumps({"made_from": made_from, "seconds": seconds}))
    return seconds


@dataclass(frozen=True)
class Learned:
    """What VLM-CPL made of the tiles.

    tiles: a row per tile with prompt_class, kept, vote_entropy, view_entropy and labelled (by a
    person), and with other tissue other_tissue, whether the prompts say so; kept: bool [N], of the
    filters; probs: [N, C], by the networks; curve: of their training; estimates: of
    `lib.quality.estimates`, those that these tiles alone allow.
    """

    tiles: pd.DataFrame
    probs: np.ndarray
    alarms: Sequence[Alarm]
    curve: pd.DataFrame
    threshold: float
    estimates: Mapping[str, float]

    def training_curve(self) -> "Figure":
        """Draw the losses and the share of confident predictions."""
        from lib.figures.step_plots import training_curves

        return training_curves({"ours": self.curve}, self.threshold)


def open_set_labels(view_probs: np.ndarray, n_targets: int) -> np.ndarray:
    """Label tiles among classes and other tissue, int [N]: by lift among the classes alone.

    Lift takes every class to be there; of other tissue that is nowhere it makes a class of the
    tiles that are least unlike it. So the views say which tiles are other tissue, and which. Of 200
    colon tiles without any, with four words for it, lift among all names lost 16, this none.
    view_probs: [N, C + K], mean over the views.
    """
    from lib.consensus import tile_lift

    relevant = relevant_tiles(view_probs, n_targets)
    lift = tile_lift(target_probabilities(view_probs, n_targets), relevant)
    return np.where(relevant, lift.argmax(1), view_probs.argmax(1))


def learn(
    out: Path,
    unique: pd.DataFrame,
    class_names: Sequence[str],
    others: Sequence[str],
    said: Mapping[str, int],
    sizes: Mapping[str, Any],
    *,
    seed: int,
) -> Learned:
    """Filter the labels in our setting, train two networks (in `out/hcs`) and look for alarms.

    Other tissue is learnt as further classes, as on slides (`open_set.LEARNT`), but that it need
    not be there: see `open_set_labels`. That one of them is nowhere in the folder is no alarm.

    Parameters
    ----------
    out : folder with what `embed` wrote
    unique : a row per tile
    class_names : C names, other tissue last
    others : names of other tissue
    said : labels of people by digest, which replace pseudo labels; see `exchange.overrule`. A tile
        that shows no class is the other tissue that its views find most probable
    sizes : keep_ratio, ρ, and n_steps of training
    seed : of clusters and networks

    """
    from apps.labelling.exchange import overrule
    from lib.active.inputs import predict_views
    from lib.consensus import VARIANTS, FilterInputs, entropy, filter_tiles
    from lib.learning import setups
    from lib.learning.losses import HighConfidenceCrossSupervision
    from lib.learning.networks import predict_members
    from lib.learning.vlm_cpl import train_vlm_cpl
    from lib.quality import estimates

    tiles, objective = unique.tile.values, HighConfidenceCrossSupervision()
    inputs = FilterInputs.load(out, tiles, keep_ratio=sizes["keep_ratio"], seed=seed)
    rules, first = VARIANTS["ours"], len(class_names) - len(others)
    if others:
        inputs = replace(inputs, prompt_labels=open_set_labels(inputs.view_probs, first))
        rules = replace(rules, label_rule="prompt")
    pseudo = filter_tiles(inputs, rules)
    if others:
        likeliest = first + inputs.view_probs[:, first:].argmax(1)
        by_views = dict(zip(unique.digest, likeliest.tolist(), strict=True))
        said = {d: by_views[d] if label == REFUSED else label for d, label in said.items()}
    pseudo["training_label"] = overrule(pseudo.training_label.values, unique.digest, said)
    setup = setups.frozen(out, tiles, len(class_names), steps=sizes["n_steps"], seed=seed)
    trained = train_vlm_cpl(
        inputs,
        setup,
        class_names,
        objective=objective,
        tiles=tiles,
        pseudo=pseudo,
        folder=out / "hcs",
    )
    table = unique.assign(
        prompt_class=np.array(class_names, dtype=object)[pseudo.label],
        kept=pseudo.kept.values,
        vote_entropy=pseudo.vote_entropy.values,
        view_entropy=entropy(inputs.view_probs),
        labelled=unique.digest.isin(list(said)),
    )
    if others:
        table["other_tissue"] = pseudo.label.values >= first
    of_others = tuple(f"{name}: " for name in others)
    alarms = [alarm for alarm in trained.alarms if not alarm.text.startswith(of_others)]
    members = predict_members(trained.networks, setup.reader, tiles)[0]
    predicted = members.mean(0).argmax(1)
    zero_shot = np.load(out / "probs.npy", mmap_mode="r", allow_pickle=False)[tiles].argmax(1)
    estimated = {
        "confidence": estimates.mean_confidence(members),
        "networks": estimates.network_agreement(members),
        "views": estimates.view_agreement(predicted, predict_views(trained.networks, setup, tiles)),
        "prompts": estimates.agreement(predicted, zero_shot),
    }
    return Learned(table, trained.probs, alarms, trained.curve, objective.threshold, estimated)
