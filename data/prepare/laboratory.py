"""Synthetic slides are stained and scanned: Beer–Lambert light through concentration maps."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Array = NDArray[Any]
SUPERSAMPLE = 2  # canvas pixels per picture pixel, each way


@dataclass(frozen=True)
class StainedSlide:
    """How one slide was cut, stained and scanned.

    `stains` are the unit optical densities in R, G, B of haematoxylin, eosin and red cells,
    `strengths` multiply their concentrations (stain strength times section thickness). `defocus`
    is the share of nuclei out of focus, `blur_um` the scanner's Gaussian blur (standard
    deviation, µm), `noise` a standard deviation in grey levels, `nuclear_size` a factor.
    """

    stains: tuple[tuple[float, ...], ...]
    strengths: tuple[float, ...]
    defocus: float
    blur_um: float
    white: tuple[float, ...]
    gamma: float
    noise: float
    jpeg_quality: int
    nuclear_size: float


def draw_slide(shift: float, rng: np.random.Generator) -> StainedSlide:
    """Draw one slide of a laboratory.

    `shift` is the distance from the laboratory of origin (0.0) to another one (1.0). Everything
    moves as 2 · shift / (1 + shift), so that far laboratories (up to 2 in place of 1) still stain
    like H&E. The random draws do not depend on it. Raises ValueError for shift < 0.
    """
    if not shift >= 0:
        raise ValueError(f"shift={shift}: must be at least 0")
    z = rng.standard_normal(20)
    t = 2 * shift / (1 + shift)
    origin = np.array([[0.63, 0.71, 0.31], [0.09, 0.96, 0.18], [0.08, 0.86, 0.50]])
    other = np.array([[0.52, 0.74, 0.43], [0.26, 0.80, 0.54], [0.20, 0.76, 0.62]])
    stains = np.maximum(origin + t * (other - origin) + 0.025 * z[:9].reshape(3, 3), 0.02)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    strengths = np.exp(t * np.array([0.55, 0.35, 0.2]) + 0.10 * z[9:12] + 0.06 * z[12])
    white = np.array([0.965, 0.955, 0.97]) - t * np.array([0.02, 0.06, 0.05])
    return StainedSlide(
        stains=tuple(tuple(v) for v in stains.tolist()),
        strengths=tuple(strengths.tolist()),
        defocus=float(np.clip(0.15 + 0.25 * t + 0.04 * z[12], 0.0, 0.8)),
        blur_um=float(np.clip(0.45 + 1.05 * t + 0.08 * z[13], 0.2, 3.0)),
        white=tuple(np.clip(white + 0.008 * z[14:17], 0.75, 1.0).tolist()),
        gamma=float(np.exp(0.12 * t + 0.03 * z[17])),
        noise=float(np.clip(1.5 + 2.5 * t + 0.3 * z[18], 0.0, 8.0)),
        jpeg_quality=round(92 - 25 * t),
        nuclear_size=float(np.exp(0.07 * t + 0.02 * z[19])),
    )


def beer_lambert(concentration: Array, slide: StainedSlide) -> Array:
    """Light through stained tissue: 255 · white · exp(−Σ_s strength_s · concentration_s · stain_s).

    concentration: [3, H, W], haematoxylin, eosin, red cells (dimensionless)
    returns: [H, W, 3] float32 in 0-255
    """
    absorbed = np.array(slide.strengths)[:, None] * np.array(slide.stains)
    density = np.zeros((*concentration.shape[1:], 3), np.float32)
    for amount, colour in zip(concentration, absorbed.astype(np.float32), strict=True):
        density += amount[..., None] * colour
    return 255 * np.array(slide.white, np.float32) * np.exp(-density)


def scan(
    concentration: Array, slide: StainedSlide, scale: float, rng: np.random.Generator
) -> Array:
    """Stain and scan a canvas of `scale` px/µm; the picture is SUPERSAMPLE times smaller."""
    light = beer_lambert(concentration, slide)
    side = light.shape[0] // SUPERSAMPLE
    light = light.reshape(side, SUPERSAMPLE, side, SUPERSAMPLE, 3).mean((1, 3))
    sigma = slide.blur_um * scale / SUPERSAMPLE
    light = gaussian_filter(light, (sigma, sigma, 0), truncate=3)
    light = 255 * (light / 255) ** slide.gamma
    light += slide.noise * rng.standard_normal(light.shape, np.float32)
    buffer = io.BytesIO()
    picture = Image.fromarray(np.clip(light + 0.5, 0, 255).astype(np.uint8))
    picture.save(buffer, "JPEG", quality=slide.jpeg_quality, subsampling=0)
    return np.array(Image.open(buffer))
