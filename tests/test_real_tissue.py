"""The labelling half of VLM-CPL on real H&E tiles, in small; skipped where there are no tiles."""

import numpy as np
import pytest

from data.prepare import stand_in
from data.prepare.datasets import prepare
from lib import consensus
from lib.data import cards, tiles
from lib.labels import UNLABELLED
from lib.learning import losses, setups
from lib.learning.batches import TrainingTiles
from lib.vlm import inference
from lib.vlm.loading import load_vlm

SIZE = 128  # pixels, as in the record
pytestmark = pytest.mark.slow


def read(dataset, every=1):
    """Table and decoded tiles of every n-th group of a dataset."""
    card = cards.read_card(dataset)
    try:
        folder = prepare(card)
    except FileNotFoundError:
        pytest.skip(f"{dataset} is not here")
    table = tiles.read_tile_table(card, folder)
    groups = sorted(table.group.unique())[::every]
    table = table[table.group.isin(groups)].reset_index(drop=True)
    return card, table, tiles.decode_tiles(table, folder, dataset, SIZE)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Labels, prompt labels, votes and features of LC25000 colon by a stand-in from EBHI-Seg."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPUT_ROOT", str(folder))
        source, source_table, source_store = read("ebhi", every=2)
        captions = [c.captions for c in source.classes]
        stand_in.build(
            folder / "vlm",
            source_store,
            source_table.label.values,
            captions,
            image_size=SIZE,
            seed=0,
            steps=400,
        )
        card, table, store = read("lc25k_colon", every=4)
    model = load_vlm(f"local-dir:{folder / 'vlm'}")
    text = inference.embed_prompts(model, [c.prompts for c in card.classes])
    inference.embed_tiles(model, store, text, folder)
    inference.embed_views(model, store, table.tile.index.values, text, folder, n_views=6, seed=0)
    probs = np.load(folder / "probs.npy", allow_pickle=False)
    return table.label.values, {"probs": probs, "folder": folder}


def kept_by(labelled, order, setting):
    """Labels that are kept, and whether the prompts alone are right."""
    labels, arrays = labelled
    tiles = np.arange(len(labels))
    inputs = consensus.FilterInputs.load(arrays["folder"], tiles, keep_ratio=0.3, seed=0)
    found = consensus.filter_tiles(inputs, consensus.VARIANTS[setting], order)
    return found.training_label.values, inputs.prompt_labels == labels


def test_the_stand_in_is_wrong_in_places(labelled):
    labels, arrays = labelled
    assert 0.6 < (arrays["probs"].argmax(1) == labels).mean() < 0.9


@pytest.mark.parametrize("setting", ["published filters", "ours"])
def test_consensus_keeps_labels_that_are_right_more_often(labelled, setting):
    found, right = kept_by(labelled, "mvc+pfc", setting)
    kept = found != UNLABELLED
    assert (found == labelled[0])[kept].mean() > right.mean() + 0.1


def test_our_setting_keeps_both_classes_and_hardly_an_error(labelled):
    found, _ = kept_by(labelled, "mvc+pfc", "ours")
    kept, right = found != UNLABELLED, found == labelled[0]
    assert right[kept].mean() > 0.93
    assert min(np.bincount(found[right], minlength=2)) > 0.1 * kept.sum()


def test_cross_supervision_goes_far_beyond_the_prompts_and_beyond_plain_training(labelled):
    labels, arrays = labelled
    pseudo, right = kept_by(labelled, "mvc+pfc", "ours")
    idx = np.arange(len(labels))
    setup = setups.frozen(arrays["folder"], idx, 2, steps=300, seed=0)
    data = TrainingTiles(idx, pseudo, ["benign", "adenocarcinoma"])
    accuracy = {}
    for objective in (losses.Supervised(), losses.HighConfidenceCrossSupervision()):
        predicted = setups.fit_predict(objective, data, idx, setup=setup, seed=0).argmax(1)
        accuracy[type(objective).__name__] = (predicted == labels).mean()
    assert accuracy["HighConfidenceCrossSupervision"] > right.mean() + 0.15
    assert accuracy["HighConfidenceCrossSupervision"] > accuracy["Supervised"]
