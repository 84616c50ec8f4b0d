"""ImageNet networks of timm as classifiers of pixels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lib.learning.networks import Classifier
from lib.packaged_weights import IMAGE_TOWER, packaged_image_weights


def fine_tune_network(
    n_classes: int, name: str = IMAGE_TOWER, *, projection: int = 0
) -> Classifier:
    """A timm backbone with ImageNet weights on pixels [B, 3, H, W] in 0 … 1.

    `tf_efficientnet_lite0` takes its weights from the installed package; any other name downloads
    its own. Raises RuntimeError when those are out of reach.
    """
    import timm

    if name == IMAGE_TOWER:
        backbone: Any = timm.create_model(name, num_classes=0)
        backbone.load_state_dict(packaged_image_weights(backbone))
    else:
        backbone = _downloaded(name)
    config = timm.data.resolve_model_data_config(backbone)
    mean, std = _per_channel(config["mean"]), _per_channel(config["std"])
    backbone.to(memory_format=torch.channels_last)
    return Classifier(backbone, backbone.num_features, n_classes, mean, std, projection)


def _downloaded(name: str) -> Any:
    import timm

    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's, the network's and timm's own errors share no class
        raise RuntimeError(
            f"the backbone {name!r} or its weights are out of reach ({error}). Use a name of "
            f"timm.list_pretrained() with a connection, or {IMAGE_TOWER!r} without"
        ) from error


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)
