"""Random views of a batch of tiles on its device, every tile with its own draw."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from lib.random_draws import tile_draws

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, the grey of PIL and torchvision
DRAWS = 10  # random numbers per tile and view


def plain_view(images: torch.Tensor, size: int) -> torch.Tensor:
    """The un-augmented view: the whole tile at the model's input size.

    images: uint8 [B, S, S, 3]; returns float [B, 3, size, size] in 0 … 1.
    """
    return resize(images.permute(0, 3, 1, 2).float() / 255, size)


def resize(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Square tiles at another size (bicubic): float [B, 3, size, size] in 0 … 1."""
    if pixels.shape[-1] == size:
        return pixels
    return F.interpolate(
        pixels, (size, size), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)


def random_view(
    images: torch.Tensor,
    size: int,
    *,
    tiles: np.ndarray,
    view: int,
    seed: int,
    jitter: float = 0.2,
    hue: float = 0.05,
    jitter_probability: float = 0.5,
) -> torch.Tensor:
    """One random view of each tile (VLM-CPL, multi-view consensus).

    Random crop, quarter turn, flip, and colour jitter. A tile's draw depends on `seed`, `view` and
    its number alone.

    Parameters
    ----------
    images : uint8 [B, S, S, 3], S = 8/7 · size
    tiles : [B], tile numbers
    jitter, hue : brightness, contrast and saturation change by 1 ± jitter, the hue by ± hue of the
        colour circle, with `jitter_probability`

    Returns
    -------
    float [B, 3, size, size] in 0 … 1

    Deviation: the four colour operations are applied in one fixed order as a single affine map of
    the colours, with the hue turned in the YIQ plane instead of HSV, and clipped once at the end.
    """
    draws = torch.from_numpy(tile_draws(tiles, DRAWS, seed, stream=view)).to(images.device)
    pixels = _crop_turn_flip(images, size, draws[:, :5]).float() / 255
    jittered = draws[:, 5] < jitter_probability
    strength = (2 * draws[:, 6:].float() - 1) * torch.tensor(
        [jitter, jitter, jitter, hue], device=images.device
    )
    strength[~jittered] = 0
    return adjust_colours(
        pixels, 1 + strength[:, 0], 1 + strength[:, 1], 1 + strength[:, 2], strength[:, 3]
    )


def picture_views(
    images: np.ndarray, size: int, *, n_views: int, tiles: np.ndarray, seed: int, hue: float
) -> np.ndarray:
    """The first views of some tiles as pictures, float32 [B, V, size, size, 3] in 0 … 1.

    images: uint8 [B, S, S, 3]; see `random_view` for the rest.
    """
    batch = torch.from_numpy(np.array(images))
    pixels = [
        random_view(batch, size, tiles=tiles, view=view, seed=seed, hue=hue)
        for view in range(n_views)
    ]
    return torch.stack(pixels, 1).permute(0, 1, 3, 4, 2).numpy()


def _crop_turn_flip(images: torch.Tensor, size: int, draws: torch.Tensor) -> torch.Tensor:
    """Crop each tile at its own place, in one of the eight orientations: uint8 [B, 3, size, size].

    draws: [B, 5] in [0, 1): top, left, and one bit each for upside down, mirrored, transposed,
    in this order; together they make the four quarter turns with and without a flip.
    """
    n, stored = images.shape[:2]
    top, left = (draws[:, :2] * (stored - size + 1)).long().unbind(1)
    upside_down, mirrored, transposed = (draws[:, 2:5] < 0.5).long().unbind(1)
    # Pixel (i, j) of a crop is the one at first + i · down + j · right of all stored pixels.
    tile = torch.arange(n, device=images.device)
    first = (tile * stored + top + upside_down * (size - 1)) * stored + left + mirrored * (size - 1)
    by_row, by_column = (1 - 2 * upside_down) * stored, 1 - 2 * mirrored
    down = torch.where(transposed == 1, by_column, by_row)
    right = torch.where(transposed == 1, by_row, by_column)
    steps = torch.arange(size, device=images.device)
    place = (first[:, None] + down[:, None] * steps)[:, :, None] + right[:, None, None] * steps
    crops = images.reshape(-1, 3).index_select(0, place.view(-1))
    return crops.view(n, size, size, 3).permute(0, 3, 1, 2)


def adjust_colours(
    pixels: torch.Tensor,
    brightness: torch.Tensor,
    contrast: torch.Tensor,
    saturation: torch.Tensor,
    hue: torch.Tensor,
) -> torch.Tensor:
    """Brightness, contrast (about the tile's mean grey), saturation, then hue; clipped to 0 … 1.

    pixels: float [B, 3, H, W]; factors: [B], 1 for no change; hue: [B] in turns, 0 for no change.
    """
    luma = torch.tensor(LUMA, device=pixels.device)
    grey = luma.expand(3, 3)
    eye = torch.eye(3, device=pixels.device)
    saturate = saturation.view(-1, 1, 1) * eye + (1 - saturation.view(-1, 1, 1)) * grey
    gain = (brightness * contrast).view(-1, 1, 1)
    colours = gain * (_hue_rotation(hue) @ saturate)
    mean_grey = torch.einsum("bchw,c->b", pixels, luma) / pixels[0, 0].numel()
    offset = (1 - contrast) * brightness * mean_grey
    mixed = torch.baddbmm(offset.view(-1, 1, 1), colours, pixels.reshape(len(pixels), 3, -1))
    return mixed.view(pixels.shape).clamp(0, 1)


def _hue_rotation(turns: torch.Tensor) -> torch.Tensor:
    """Matrices [B, 3, 3] that turn the chroma plane of YIQ and leave grey and luma as they are."""
    to_yiq = torch.tensor(
        [LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)],
        device=turns.device,
    )
    cos, sin = torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).view(-1, 3, 3)
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq
