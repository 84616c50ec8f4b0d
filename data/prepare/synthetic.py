"""Procedural H&E tiles for the embedded `demo` dataset: tissue drawn as stain concentrations.

A tile is drawn in µm as three concentration maps (haematoxylin, eosin, red cells), then stained
and scanned by `laboratory`. Nothing is downloaded; the same seed gives the same bytes.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree
from tqdm import tqdm

from data.prepare.laboratory import SUPERSAMPLE, Array, StainedSlide, draw_slide, scan
from data.prepare.workers import WorkerPool
from lib.artefacts import atomic

FIELD_UM = 110.0  # side of a field of view
PARALLEL_FROM = 200  # tiles; for fewer, workers cost more than they save


class _Canvas:
    """Concentration maps [3, side, side] of one field of view, coordinates (x, y) in µm."""

    def __init__(
        self, side: int, field: float, slide: StainedSlide, rng: np.random.Generator
    ) -> None:
        self.side, self.field, self.slide, self.rng = side, field, slide, rng
        self.scale = side / field
        self.maps = np.zeros((3, side, side), np.float32)
        axis = (np.arange(side, dtype=np.float32) + 0.5) / self.scale
        self.x, self.y = np.meshgrid(axis, axis)

    def cloud(self, length: float) -> Array:
        """Smooth noise of about unit variance and `length` µm grain, [side, side]."""
        span = min(self.field / length, float(self.side))
        grid = self.rng.standard_normal((int(np.ceil(span)) + 5,) * 2, np.float32)
        x, y = self.rng.uniform(1.5, 2.5, 2)
        image = Image.fromarray(grid).resize(
            (self.side, self.side), Image.Resampling.BICUBIC, (x, y, x + span, y + span)
        )
        return 1.3 * np.asarray(image)

    def paint(self, mask: Array, haematoxylin: float | Array, eosin: float | Array) -> None:
        """Replace what lies under a soft mask [side, side] in 0-1."""
        for layer, value in zip(self.maps, (haematoxylin, eosin, 0.0), strict=True):
            layer += mask * (value - layer)

    def fill(self, outlines: Array, sigma: float, values: Array | None = None) -> Array:
        """Polygons [N, K, 2] filled with values [N] in 0-2.5 (default 1), blurred by sigma µm."""
        image = Image.new("L", (self.side, self.side))
        pen = ImageDraw.Draw(image)
        inks = np.full(len(outlines), 100) if values is None else np.rint(values * 100)
        flat = (outlines * self.scale).reshape(len(outlines), 2 * outlines.shape[1]).tolist()
        for outline, ink in zip(flat, inks.astype(int).tolist(), strict=True):
            pen.polygon(outline, fill=min(ink, 255))
        return gaussian_filter(np.asarray(image, np.float32) / 100, sigma * self.scale, truncate=3)

    def look_up(self, values: Array, xy: Array) -> Array:
        """Values [side, side] at points [N, 2]; the border value outside."""
        index = np.clip((xy * self.scale).astype(int), 0, self.side - 1)
        return values[index[:, 1], index[:, 0]]

    def scatter(self, spacing: float, jitter: float = 0.45, margin: float = 6.0) -> Array:
        """Points [N, 2] of a turned, jittered hexagonal lattice that covers the field."""
        reach = int(np.ceil(0.85 * (self.field + 2 * margin) / spacing)) + 2
        i, j = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
        lattice = np.stack([i + 0.5 * (j % 2), 0.866 * j], 1)
        lattice += jitter * self.rng.uniform(-1, 1, lattice.shape)
        a = self.rng.uniform(0, np.pi)
        turned = lattice[:, :1] * (np.cos(a), np.sin(a)) + lattice[:, 1:] * (-np.sin(a), np.cos(a))
        points = spacing * (turned + self.rng.uniform(-0.5, 0.5, 2)) + self.field / 2
        return points[((points > -margin) & (points < self.field + margin)).all(1)]

    def angles(self, xy: Array) -> Array:
        return self.rng.uniform(0, np.pi, len(xy))


def _mix(a: Any, b: Any, t: float) -> Any:
    return a + (b - a) * t


def _outlines(
    rng: np.random.Generator, xy: Array, size: Array, angle: Array, wobble: float, points: int = 12
) -> Array:
    """Wobbly ellipses of length and width `size` [N, 2] at xy [N, 2]: polygons [N, points, 2]."""
    theta = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = np.ones((len(xy), points))
    for k in range(2, 2 + max(2, points // 12)):
        phase = rng.uniform(0, 2 * np.pi, (len(xy), 1))
        radius += 1.6 / k * wobble * rng.standard_normal((len(xy), 1)) * np.cos(k * theta + phase)
    u, v = 0.5 * size[:, :1] * radius * np.cos(theta), 0.5 * size[:, 1:] * radius * np.sin(theta)
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return np.stack([u * c - v * s, u * s + v * c], -1) + xy[:, None]


# Nuclei: length and width in µm, haematoxylin density, relative spread of these three, wobble of
# the outline, vesicular (0-1: how far the middle is cleared, leaving a rim and a nucleolus).
_LYMPHOCYTE = np.array([6.6, 6.0, 1.35, 0.12, 0.06, 0.1])
_RETICULAR = np.array([12.0, 5.0, 0.6, 0.3, 0.1, 0.5])
_FIBROBLAST = np.array([12.0, 2.8, 1.1, 0.28, 0.08, 0.0])
_MYOCYTE = np.array([15.0, 3.4, 1.0, 0.2, 0.05, 0.1])
_FLAT = np.array([8.5, 3.4, 1.2, 0.2, 0.08, 0.0])
_CRYPT = np.array([7.6, 4.6, 1.15, 0.10, 0.05, 0.15])
_CARCINOMA = np.array([11.0, 7.4, 1.0, 0.24, 0.12, 0.8])
_DEBRIS = np.array([3.0, 2.4, 1.4, 0.4, 0.2, 0.0])


def _apart(xy: Array, distance: float) -> Array:
    """Which points [N, 2] stay, no point within `distance` µm of an earlier one."""
    stays = np.ones(len(xy), bool)
    for i, j in sorted(cKDTree(xy).query_pairs(distance)) if len(xy) else ():
        stays[j] &= not stays[i]
    return stays


def _nuclei(canvas: _Canvas, xy: Array, angle: Array, kind: Array) -> None:
    """Add nuclei at xy [N, 2]; those out of focus are drawn apart and blurred."""
    rng, n = canvas.rng, len(xy)
    length, width, density, spread, wobble, vesicular = kind
    factors = np.exp(spread * rng.standard_normal((n, 3)) * (1.0, 0.5, 0.8))
    size = factors[:, :1] * np.stack([factors[:, 1], 1 / factors[:, 1]], 1)
    size *= canvas.slide.nuclear_size * np.array([length, width])
    dense = np.clip(density * factors[:, 2], 0.2, 2.2)
    outline = _outlines(rng, xy, size, angle, wobble) - xy[:, None]
    clear = np.clip(vesicular * (1 + 0.5 * rng.standard_normal(n)), 0, 1)
    dot = 0.2 * outline + 0.12 * size[:, None, 1:] * rng.standard_normal((n, 1, 2))
    parts = np.stack([outline, 0.7 * outline, dot], 1) + xy[:, None, None]
    values = dense[:, None] * np.stack([np.ones(n), 1 - 0.5 * clear, 1 + 0.15 * clear], 1)
    hazy = rng.random(n) < canvas.slide.defocus
    nuclear = np.zeros_like(canvas.x)
    for chosen, sigma, weight in ((~hazy, 0.3, 1.0), (hazy, 1.3, 0.85)):
        layer = canvas.fill(parts[chosen].reshape(-1, 12, 2), sigma, values[chosen].ravel())
        nuclear = np.maximum(nuclear, weight * layer)
    cover = np.minimum(nuclear / (0.6 * density), 1.0)
    nuclear = nuclear * (1 + 0.18 * canvas.cloud(1.2))
    canvas.paint(cover, np.maximum(nuclear, 0) + 0.4 * canvas.maps[0], 0.6 * canvas.maps[1])


def _round_cells(canvas: _Canvas, where: Array, spacing: float, plasma: float) -> None:
    """Lymphocytes and a share of plasma cells where the probability map [side, side] allows."""
    xy = canvas.scatter(spacing)
    xy = xy[canvas.rng.random(len(xy)) < canvas.look_up(where, xy)]
    xy = xy[_apart(xy, 5.2)]
    beside = xy[canvas.rng.random(len(xy)) < plasma] + 1.6
    size = np.full(beside.shape, 10.0)
    body = canvas.fill(_outlines(canvas.rng, beside, size, canvas.angles(beside), 0.1), 0.6)
    canvas.paint(0.7 * body, 0.28, 0.42)
    _nuclei(canvas, xy, canvas.angles(xy), _LYMPHOCYTE)


def _connective(canvas: _Canvas, firmness: float, inflamed: float) -> None:
    """Stroma (firmness near 0) to smooth muscle (near 1), one continuum; `inflamed` in 0-1."""
    rng, f = canvas.rng, float(np.clip(firmness, 0, 1))
    a, waviness = rng.uniform(0, np.pi), _mix(1.25, 0.3, f)
    along = canvas.x * np.cos(a) + canvas.y * np.sin(a)
    across = canvas.y * np.cos(a) - canvas.x * np.sin(a)
    across += waviness * (13 * canvas.cloud(60) + 5 * canvas.cloud(24))
    across += waviness * 1.5 * np.sin(2 * np.pi * (along + 6 * canvas.cloud(50)) / 45)
    across += _mix(0.9, 0.45, f) * canvas.cloud(7)

    def fibres(length: float, width: float) -> Array:
        noise = rng.standard_normal((128, 128), np.float32)
        where = np.stack([across / width, along / length])
        return np.float32(1.3) * map_coordinates(noise, where, order=1, mode="grid-wrap")

    strands = fibres(26, _mix(2.0, 1.5, f))
    bundles = fibres(_mix(45, 130, f), _mix(7, 11, f))
    eosin = _mix(0.36, 0.56, f) * np.exp(0.12 * rng.standard_normal())
    canvas.maps[1] = np.maximum(eosin * (1 + _mix(0.34, 0.18, f) * strands + 0.16 * bundles), 0.03)
    canvas.maps[0] = _mix(0.10, 0.14, f) * (1 + 0.3 * bundles + 0.2 * canvas.cloud(3))
    open_at = _mix(0.65, 1.5, f) + 0.25 * rng.standard_normal()
    gaps = 0.5 + 0.5 * np.tanh(3.5 * (bundles + 0.35 * strands - open_at))
    canvas.maps[:2] *= 1 - 0.9 * gaps
    if rng.random() < _mix(0.35, 0.08, f):
        _vessel(canvas)
    xy = canvas.scatter(_mix(16, 19, f) * np.exp(0.18 * rng.standard_normal()), 0.5)
    gy, gx = np.gradient(across)
    heading = canvas.look_up(np.arctan2(gy, gx) + np.pi / 2, xy)
    _nuclei(canvas, xy, heading, _mix(_FIBROBLAST, _MYOCYTE, f))
    if inflamed > 0.02:
        _round_cells(canvas, inflamed * (1 + 0.8 * canvas.cloud(30)), 9.5, 0.3)


def _vessel(canvas: _Canvas) -> None:
    """A small vessel with red cells and a flat endothelium."""
    rng = canvas.rng
    xy = rng.uniform(0.1, 0.9, (1, 2)) * canvas.field
    size = rng.uniform((18, 14), (38, 22))[None]
    wall = _outlines(rng, xy, size, canvas.angles(xy), 0.08, 24)
    canvas.paint(canvas.fill(wall, 0.5), 0.15, 0.5)
    inside = canvas.fill(xy[:, None] + 0.78 * (wall - xy[:, None]), 0.4)
    canvas.paint(inside, 0.0, 0.02)
    cells = canvas.scatter(6.0)
    cells = cells[rng.random(len(cells)) < 0.75 * canvas.look_up(inside, cells)]
    discs = _outlines(rng, cells, np.full(cells.shape, 5.6), canvas.angles(cells), 0.06)
    canvas.maps[2] += 0.85 * canvas.fill(discs, 0.3)
    rim = wall[0, rng.random(24) < 0.35]
    _nuclei(canvas, rim, np.arctan2(*(rim - xy).T[::-1]) + np.pi / 2, _FLAT)


def _lymphocytes(canvas: _Canvas, crowding: float) -> None:
    """Sheets of lymphocytes; `crowding` 0 (loose, near inflamed stroma) to 1 (follicle)."""
    c = float(np.clip(crowding, 0, 1))
    ground = 1 + 0.5 * canvas.cloud(8)
    canvas.maps[1] = np.maximum(_mix(0.22, 0.30, c) * ground, 0.02)
    canvas.maps[0] = np.maximum(_mix(0.08, 0.24, c) * ground, 0.0)
    xy = canvas.scatter(24)
    _nuclei(canvas, xy, canvas.angles(xy), _RETICULAR)
    where = _mix(0.72, 1.25, c) + _mix(0.35, 0.2, c) * canvas.cloud(22)
    _round_cells(canvas, where, _mix(9.0, 7.0, c), 0.1)


def _adipose(canvas: _Canvas) -> None:
    """Fat cells of 40-80 µm: Voronoi membranes, pale folded sheets, a few flat nuclei."""
    rng = canvas.rng
    seeds = canvas.scatter(rng.uniform(42, 75), 0.4, margin=60).astype(np.float32)
    x, y = canvas.x + 4 * canvas.cloud(30), canvas.y + 4 * canvas.cloud(30)
    distance = np.sqrt((x - seeds[:, :1, None]) ** 2 + (y - seeds[:, 1:, None]) ** 2)
    near = np.partition(distance, 2, axis=0)[:3]
    gap = near[1] - near[0] + 0.06 * np.minimum(near[2] - near[0], 20)
    thick = rng.uniform(2.0, 4.0) * np.exp(0.4 * canvas.cloud(25))
    wall = np.exp(-((gap / thick) ** 2))
    sheets = np.clip(canvas.cloud(40) - 0.7, 0, 0.6) * rng.uniform(0.0, 0.5)
    grain = 1 + 0.3 * canvas.cloud(3)
    canvas.maps[1] = (0.5 * wall + sheets + 0.012) * grain
    canvas.maps[0] = (0.16 * wall + 0.15 * sheets) * grain
    xy = rng.uniform(0, canvas.field, (400, 2))
    xy = xy[canvas.look_up(wall, xy) > 0.6][: rng.integers(3, 10)]
    gy, gx = np.gradient(gap)
    heading = canvas.look_up(np.arctan2(gy, gx) + np.pi / 2, xy)
    _nuclei(canvas, xy, heading, _FLAT)


def _mucus(canvas: _Canvas) -> None:
    """Pools of pale mucus in streaks, with a few round cells that float in them."""
    streaks = 0.5 + 0.5 * np.tanh(canvas.cloud(18) + 0.7 * canvas.cloud(5))
    canvas.maps[0] = 0.05 + 0.22 * streaks
    canvas.maps[1] = 0.03 + 0.07 * streaks
    _round_cells(canvas, 0.05 * (1 + canvas.cloud(30)), 12.0, 0.5)


def _glands(canvas: _Canvas, grade: float) -> None:
    """Glands from regular crypts (grade near 0) to poorly differentiated carcinoma (near 1)."""
    rng, g = canvas.rng, float(np.clip(grade, 0, 1))
    _connective(canvas, _mix(0.05, 0.3, g) + 0.1 * rng.standard_normal(), 0.0)
    canvas.maps[:2] *= _mix(0.8, 1.0, g)
    spacing = _mix(84, 68, g) * np.exp(0.08 * rng.standard_normal())
    xy = canvas.scatter(spacing, _mix(0.07, 0.28, g), margin=50)
    n = len(xy)
    stretch = np.exp(abs(rng.normal(0, 0.12)) + _mix(0.0, 0.3, g) * rng.random(n))
    size = spacing * _mix(0.86, 1.04, g) * np.exp(_mix(0.05, 0.2, g) * rng.standard_normal(n))
    size = size[:, None] * np.stack([stretch, 1 / stretch], 1)
    turn = rng.uniform(0, np.pi) + _mix(0.15, 1.0, g) * rng.standard_normal(n)
    walls = _outlines(rng, xy, size, turn, _mix(0.03, 0.17, g), 52)
    gland = canvas.fill(walls, 0.5)
    halo = np.minimum(2 * gaussian_filter(gland, 2.5 * canvas.scale), 1)
    where = np.clip(_mix(0.65, 0.25, g) + 0.3 * canvas.cloud(25), 0, 1) * (1 - halo)
    _round_cells(canvas, where, 8.4, 0.4)
    canvas.maps[1] += 0.25 * (halo - gland).clip(0)
    tint = 1 + 0.12 * canvas.cloud(4) + 0.10 * canvas.cloud(15)
    canvas.paint(gland, _mix(0.22, 0.32, g) * tint, _mix(0.30, 0.36, g) * tint)
    arms = walls - xy[:, None]
    _goblets(canvas, xy, arms, 0.92 * (1 - g) ** 1.5)
    lumen = _lumens(canvas, xy, size.mean(1), g)
    _epithelium(canvas, xy, arms, lumen, g)


def _epithelium(canvas: _Canvas, xy: Array, arms: Array, lumen: Array, g: float) -> None:
    """Nuclei along the walls (`xy` [N, 2] plus `arms` [N, K, 2]), in more layers with grade."""
    rng, reach = canvas.rng, np.linalg.norm(arms, axis=-1)
    layers = 1 + rng.binomial(4, min(0.95, 1.2 * max(g - 0.1, 0)), len(xy))
    spots, headings = [], []
    for layer in range(5):
        depth = _mix(4.8, 6.0, g) + _mix(5.5, 8.0, g) * layer
        depth = depth + _mix(0.5, 2.2, g) * rng.standard_normal(reach.shape)
        inward = np.clip(1 - depth / reach, 0.03, 1)
        use = (layers > layer)[:, None] & (rng.random(reach.shape) < _mix(0.98, 0.9, g))
        spots.append((xy[:, None] + inward[..., None] * arms)[use])
        headings.append(np.arctan2(arms[..., 1], arms[..., 0])[use])
    points, heading = np.concatenate(spots), np.concatenate(headings)
    heading = heading + _mix(0.1, 0.5, g) * rng.standard_normal(len(heading))
    use = (canvas.look_up(lumen, points) < 0.4) & (abs(points / canvas.field - 0.5) < 0.6).all(1)
    points, heading = points[use], heading[use]
    use = _apart(points, _mix(3.8, 6.2, g))
    _nuclei(canvas, points[use], heading[use], _mix(_CRYPT, _CARCINOMA, g))


def _goblets(canvas: _Canvas, xy: Array, arms: Array, share: float) -> None:
    """Pale mucin vacuoles in a ring between nuclei and lumen; `share` of the places filled."""
    rng, arms = canvas.rng, arms[:, ::4]
    reach = np.linalg.norm(arms, axis=-1)
    use = (rng.random(reach.shape) < share) & (reach > 16)
    inset = 0.57 + 0.05 * rng.standard_normal(reach.shape)
    spots, reach = (xy[:, None] + inset[..., None] * arms)[use], reach[use]
    size = np.stack([0.5 * reach, np.minimum(0.25 * reach, 10)], 1)
    size *= np.exp(0.15 * rng.standard_normal(size.shape))
    cups = _outlines(rng, spots, size, np.arctan2(*arms[use].T[::-1]), 0.06)
    canvas.paint(0.9 * canvas.fill(cups, 0.5), 0.10 + 0.04 * canvas.cloud(5), 0.05)


def _lumens(canvas: _Canvas, xy: Array, diameter: Array, g: float) -> Array:
    """Open lumens, one or (cribriform) several to a gland, debris in some; the mask painted."""
    rng = canvas.rng
    several = 1 + rng.binomial(3, 0.6 * max(g - 0.35, 0), len(xy))
    owner = np.repeat(np.arange(len(xy)), several)
    several, wide, n = several[owner], diameter[owner], len(owner)
    heading = rng.uniform(0, 2 * np.pi, n)
    away = np.where(several > 1, 0.26, 0.04) * wide
    spots = xy[owner] + away[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
    shape = np.exp(0.3 * rng.standard_normal((n, 1)) + 0.2 * rng.standard_normal((n, 2)))
    size = shape * (_mix(0.24, 0.34, g) * wide / several**0.5)[:, None]
    size *= rng.random((n, 1)) > 0.45 * g**2
    mask = canvas.fill(_outlines(rng, spots, size, heading, _mix(0.08, 0.25, g), 24), 0.5)
    canvas.paint(mask, 0.01, 0.015)
    if rng.random() < 0.55 * g:
        canvas.maps[1] += 0.4 * mask * np.clip(0.4 + canvas.cloud(5), 0, 1.5)
        specks = canvas.scatter(5.5)
        specks = specks[rng.random(len(specks)) < 0.3 * canvas.look_up(mask, specks)]
        _nuclei(canvas, specks, canvas.angles(specks), _DEBRIS)
    return mask


_DRAW: dict[str, Callable[[_Canvas], None]] = {
    "normal_mucosa": lambda c: _glands(c, c.rng.normal(0.12, 0.13)),
    "adenocarcinoma": lambda c: _glands(c, c.rng.normal(0.68, 0.19)),
    "smooth_muscle": lambda c: _connective(c, c.rng.normal(0.84, 0.16), 0.0),
    "stroma": lambda c: _connective(c, c.rng.normal(0.24, 0.20), c.rng.beta(0.8, 3.2)),
    "lymphocytes": lambda c: _lymphocytes(c, c.rng.normal(0.6, 0.3)),
    "adipose": _adipose,
}
KINDS: tuple[str, ...] = tuple(_DRAW)
# Of the worlds alone (`worlds`): between two of the above, or like neither.
_DRAW |= {
    "adenoma": lambda c: _glands(c, c.rng.normal(0.40, 0.07)),
    "inflamed_stroma": lambda c: _connective(c, c.rng.normal(0.2, 0.1), c.rng.uniform(0.5, 0.9)),
    "mucus": lambda c: _mucus(c),
}


def tissue_tile(
    kind: str,
    slide: StainedSlide,
    size: int,
    rng: np.random.Generator,
    *,
    field: float = FIELD_UM,
    mixed: float = 0.35,
) -> Array:
    """Draw one tile, uint8 [size, size, 3]: a random window of about `field` µm whatever its size.

    The share `mixed` of tiles hold 10-40 % of another one of `KINDS`. Raises ValueError for an
    unknown kind.
    """
    if kind not in _DRAW:
        raise ValueError(f"unknown kind {kind!r}: choose from {', '.join(_DRAW)}")
    field *= float(np.exp(0.12 * rng.standard_normal()))
    canvas = _Canvas(size * SUPERSAMPLE, field, slide, rng)
    _DRAW[kind](canvas)
    if rng.random() < mixed:
        other = _Canvas(size * SUPERSAMPLE, field, slide, rng)
        _DRAW[str(rng.choice([k for k in KINDS if k != kind]))](other)
        a = rng.uniform(0, 2 * np.pi)
        height = canvas.x * np.cos(a) + canvas.y * np.sin(a) + 9 * canvas.cloud(40)
        edge = np.quantile(height, rng.uniform(0.10, 0.40))
        canvas.maps += (0.5 + 0.5 * np.tanh((edge - height) / 1.6)) * (other.maps - canvas.maps)
    canvas.maps *= np.maximum(1 + 0.07 * canvas.cloud(60), 0.5)
    return scan(np.maximum(canvas.maps, 0), slide, canvas.scale, rng)


def _write_tile(job: tuple[str, int, int], folder: Path, size: int, shift: float, seed: int) -> int:
    """Write tile (kind, slide, number); it depends on these, the shift and the seed alone."""
    kind, index, number = job
    slide = draw_slide(shift, np.random.default_rng([seed, index]))
    rng = np.random.default_rng([seed, index, KINDS.index(kind), number])
    tile = tissue_tile(kind, slide, size, rng)
    Image.fromarray(tile).save(folder / kind / f"slide{index:02d}_{number:04d}.png")
    return number


def write_dataset(
    folder: Path,
    *,
    kinds: Sequence[str],
    slides: int,
    tiles: int,
    size: int,
    shift: float,
    seed: int,
) -> None:
    """Write `folder/<kind>/slide03_0012.png`, `tiles` in all, every slide holding every kind.

    The folder appears when complete. Raises ValueError for an unknown or repeated kind,
    slides < 1, size < 32, shift < 0, tiles < kinds x slides, and FileExistsError for a folder
    with content.
    """
    if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds={list(kinds)}: choose distinct ones from {', '.join(KINDS)}")
    cells = [(kind, index) for index in range(slides) for kind in kinds]
    given = {"slides": slides, "size": size, "shift": shift, "tiles": tiles, "seed": seed}
    least = {"slides": 1, "size": 32, "shift": 0, "tiles": len(cells), "seed": 0}
    for name, value in given.items():
        if not value >= least[name]:
            raise ValueError(f"{name}={value}: must be at least {least[name]}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty: remove it or name another folder")
    share, rest = divmod(tiles, len(cells))
    jobs = [(*cell, k) for n, cell in enumerate(cells) for k in range(share + (n < rest))]
    with atomic(folder) as unfinished:
        work = partial(_write_tile, folder=unfinished, size=size, shift=shift, seed=seed)
        for kind in kinds:
            (unfinished / kind).mkdir(parents=True)
        with WorkerPool() as pool:
            many = len(jobs) >= PARALLEL_FROM
            done = pool.map(work, jobs, chunksize=16) if many else map(work, jobs)
            deque(tqdm(done, "drawing tiles", len(jobs), unit="tile"), maxlen=0)
