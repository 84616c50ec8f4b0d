"""The packaged ImageNet weights are what they claim to be."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from lib.packaged_weights import IMAGE_TOWER, SECOND_TOWER, packaged_image_weights


def tower_of(name):
    tower = timm.create_model(name, pretrained=False)
    tower.load_state_dict(packaged_image_weights(tower))
    return tower.eval()


@pytest.fixture(scope="module")
def image_tower():
    return tower_of(IMAGE_TOWER)


def seen_by(tower, photo):
    classes = tower(photo)[0].topk(5).indices.tolist()
    return [timm.data.ImageNetInfo().index_to_description(c).split(",")[0] for c in classes]


def photograph(name):
    """A photograph of scikit-learn's, centre-cropped to 224 px, as the tower wants it."""
    image = Image.fromarray(load_sample_image(name))
    width, height = image.size
    left = (width - height) // 2
    image = image.crop((left, 0, left + height, height)).resize((224, 224), Image.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    return (pixels - 0.5) / 0.5


@pytest.mark.parametrize(
    ("name", "best", "others"),
    [
        ("china.jpg", "palace", {"bell cote", "monastery", "castle"}),
        ("flower.jpg", "daisy", {"mushroom", "bee", "pot"}),
    ],
)
@torch.inference_mode()
def test_packaged_weights_see_what_is_on_a_photograph(image_tower, name, best, others):
    named = seen_by(image_tower, photograph(name))
    assert named[0] == best and others <= set(named)


@torch.inference_mode()
def test_the_second_tower_sees_it_too():
    named = seen_by(tower_of(SECOND_TOWER), photograph("china.jpg"))
    assert named[0] == "palace" and {"bell cote", "monastery", "castle"} <= set(named)


@torch.inference_mode()
def test_packaged_weights_give_the_known_activations(image_tower):
    features = image_tower.forward_head(
        image_tower.forward_features(photograph("china.jpg")), pre_logits=True
    )
    assert features.shape == (1, 1280)
    assert features.mean().item() == pytest.approx(0.19237, abs=2e-4)
    assert features.std().item() == pytest.approx(0.39991, abs=2e-4)


def test_every_tensor_of_the_tower_is_packaged_with_or_without_the_classifier(image_tower):
    headless = timm.create_model(IMAGE_TOWER, pretrained=False, num_classes=0)
    headless.load_state_dict(packaged_image_weights(headless))
    whole = image_tower.state_dict()
    for name, tensor in headless.state_dict().items():
        assert torch.equal(tensor, whole[name]), name


@pytest.mark.parametrize("other", ["tf_efficientnet_lite1", "mobilenetv2_100"])
def test_another_tower_is_refused(other):
    tower = timm.create_model(other, pretrained=False)
    with pytest.raises(ValueError, match="packaged weights"):
        packaged_image_weights(tower)
