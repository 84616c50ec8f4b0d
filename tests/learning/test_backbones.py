"""Whole networks: packaged weights, normalisation, a projector, and names out of reach."""

import pytest
import timm
import torch

from lib.learning.backbones import fine_tune_network
from lib.packaged_weights import IMAGE_TOWER, packaged_image_weights


def test_the_fine_tune_network_starts_from_the_packaged_weights_and_normalises():
    network = fine_tune_network(4).eval()
    bare = timm.create_model(IMAGE_TOWER, num_classes=0).eval()
    bare.load_state_dict(packaged_image_weights(bare))
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = network.head(bare((pixels - 0.5) / 0.5))
        assert network(pixels).shape == (2, 4)
        torch.testing.assert_close(network(pixels), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet50", "no_such_backbone"])
def test_a_backbone_out_of_reach_is_named(name):
    with pytest.raises(RuntimeError, match=f"{name}.*out of reach"):
        fine_tune_network(2, name)


def test_a_whole_network_can_have_a_projection_as_well():
    network = fine_tune_network(4, projection=8).eval()
    with torch.no_grad():
        logits, projected = network(torch.rand(2, 3, 32, 32))
    assert (logits.shape, projected.shape) == ((2, 4), (2, 8)) and network.projector.bias is None
