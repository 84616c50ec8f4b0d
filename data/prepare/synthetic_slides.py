"""Slides whose truth is known: synthetic ones, and real tiles composed into slides.

A slide is glass with islands of tissue. One kind of tissue gives the slide its label, all others
are irrelevant. What is written: `<slide>.tif`, a pyramid; `truth/<slide>.png`, the kind of tissue
at each 16th pixel; `slides.csv`; the names of the kinds in `kinds.json`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from data.prepare.laboratory import draw_slide
from data.prepare.pyramids import write_pyramid
from data.prepare.synthetic import tissue_tile
from data.prepare.workers import WorkerPool
from lib.data import cards, datasets
from lib.data.images import open_image
from lib.data.splits import FOLDS
from lib.data.tiles import read_tile_table

if TYPE_CHECKING:  # each worker would load torch
    from lib.slides.cohort import Cohort

TRUTH_STEP = 16  # pixels of level 0
GLASS = 0  # in the truth; kinds count from 1
GAP = 64  # pixels of glass around an island
INKS = ((20, 60, 160), (15, 110, 60), (25, 25, 30))  # blue, green and black pens
Field = Callable[[str, int, np.random.Generator], np.ndarray]


# --- one slide -----------------------------------------------------------------------------------


def island(side: int, rng: np.random.Generator) -> np.ndarray:
    """A soft mask, float [side, side] in 0 … 1, of a piece of tissue with a ragged outline."""
    y, x = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    reach = np.full_like(angle, 0.9)
    for k in range(2, 9):
        reach += 0.22 / k * rng.standard_normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    edge = gaussian_filter(rng.standard_normal((side, side)), 3) * 0.12
    return np.clip((np.minimum(reach, 0.98) + edge - radius) * side / 6, 0, 1)


def slide_picture(
    kinds: Sequence[str],
    columns: int,
    field: Field,
    side: int,
    rng: np.random.Generator,
    *,
    pens: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Islands of tissue on glass, uint8 [H, W, 3], and the number of each pixel's kind, uint8.

    kinds: of the islands, in rows of `columns`; field: draws a kind, uint8 [side, side, 3]. One in
    three slides has a fold, with pens one in three has a stroke of ink. Numbers count kinds in
    their order from 1; they are of every `TRUTH_STEP`th pixel.
    """
    names = list(dict.fromkeys(kinds))
    rows, pitch = -(-len(kinds) // columns), side + GAP
    picture = np.full((rows * pitch + GAP, columns * pitch + GAP, 3), 243, np.float32)
    truth = np.full(picture.shape[:2], GLASS, np.uint8)
    for n, kind in enumerate(kinds):
        y, x = GAP + n // columns * pitch, GAP + n % columns * pitch
        place = slice(y, y + side), slice(x, x + side)
        mask = island(side, rng)
        picture[place] += mask[..., None] * (field(kind, side, rng) - picture[place])
        truth[place][mask > 0.5] = 1 + names.index(kind)
    if rng.random() < 1 / 3:
        picture *= np.where(truth == GLASS, 1, _fold(truth.shape, rng))[..., None]
    picture += rng.normal(0, 1.0, picture.shape)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    if pens and rng.random() < 1 / 3:
        _stroke(image, rng)
    return np.asarray(image), truth[::TRUTH_STEP, ::TRUTH_STEP]


def _fold(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Light that a wavy band of doubled tissue lets through, float [H, W]."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    a = rng.uniform(0, np.pi)
    across = x * np.cos(a) + y * np.sin(a) + 20 * np.sin((x - y) / 90)
    middle = rng.uniform(0.3, 0.7) * (across.max() - across.min()) + across.min()
    return 1 - 0.35 * (abs(across - middle) < 12)


def _stroke(image: Image.Image, rng: np.random.Generator) -> None:
    """A stroke of a marker pen, mostly beside the tissue."""
    width, height = image.size
    x = np.linspace(0, width, 12)
    level = rng.choice([0.04, 0.97]) * height
    y = level + np.cumsum(rng.normal(0, 4, 12))
    ink = INKS[rng.integers(len(INKS))]
    ImageDraw.Draw(image).line([*zip(x, y, strict=True)], fill=ink, width=22, joint="curve")


# --- fields of tissue ----------------------------------------------------------------------------


def synthetic_field(
    kind: str, side: int, rng: np.random.Generator, *, stain: Any, mpp: float
) -> Any:
    """Synthetic tissue, uint8 [side, side, 3], at `mpp` µm/px. stain: of the whole slide."""
    if kind != "adipose":
        return tissue_tile(kind, stain, side, rng, field=side * mpp, mixed=0.0)
    half = -(-side // 2)  # the time to draw fat grows with the fourth power of the field
    quarters = [tissue_tile(kind, stain, half, rng, field=half * mpp, mixed=0.0) for _ in range(4)]
    rows = [np.concatenate(quarters[k : k + 2], axis=1) for k in (0, 2)]
    return np.concatenate(rows)[:side, :side]


def mosaic_field(
    kind: str, side: int, rng: np.random.Generator, *, tiles: Mapping[str, Sequence[Path]]
) -> np.ndarray:
    """Real tiles of a kind side by side, each flipped and turned by chance: uint8 [side, side, 3].

    tiles: files of each kind, square pictures of one size.
    """
    files = tiles[kind]
    with open_image(files[0]) as first:
        n = -(-side // first.size[0])
    chosen = rng.choice(len(files), n * n, replace=len(files) < n * n)
    turned = []
    for k in chosen:
        tile = np.asarray(open_image(files[k]).convert("RGB"))
        turned.append(np.rot90(tile[:, :: rng.choice([-1, 1])], int(rng.integers(4))))
    rows = [np.concatenate(turned[r * n : (r + 1) * n], axis=1) for r in range(n)]
    return np.concatenate(rows)[:side, :side]


# --- a cohort ------------------------------------------------------------------------------------


def islands_of(
    target: str, others: Sequence[str], islands: int, irrelevant: float, rng: np.random.Generator
) -> list[str]:
    """Kinds of the islands of a slide: the share `irrelevant` of others, at least one target."""
    n_targets = max(1, round((1 - irrelevant) * islands))
    kinds = [target] * n_targets + rng.choice(list(others), islands - n_targets).tolist()
    return rng.permutation(kinds).tolist()


def write_synthetic_slides(folder: Path, **recipe: Any) -> None:
    """Write a cohort of synthetic slides to an empty folder; see the module for the files.

    recipe: slides, their number; targets and others, kinds of `synthetic`, of which targets take
    turns; islands of a slide, in so many columns, of `side` pixels of level 0; irrelevant, share of
    the islands that are of others; mpp, µm per pixel, of the slides in turn; shift, see
    `laboratory.draw_slide`; seed.
    """
    _write_cohort(folder, recipe)


def write_composed_slides(folder: Path, *, tissue: Mapping[str, str], **recipe: Any) -> None:
    """Write a cohort of slides composed of real tiles to an empty folder; see the module.

    tissue: by kind the card that has a class of that name; kinds that are no target are other
    tissue. recipe: as of `write_synthetic_slides`, without others and shift. Its mpp is what the
    files say; the tiles are pasted pixel by pixel, whatever their own scale.

    Beside the other files `sources.csv`: slide, kind, card and path of all tiles that a slide may
    show. Each slide has its own groups of target tiles; the slides of a fold share other tissue;
    slides of two folds share no group of tiles, so the table of slides has the folds. Raises
    ValueError naming a card whose groups are too few for that.
    """
    tiles = _dealt_tiles(tissue, np.random.default_rng(recipe["seed"]))
    recipe["others"] = [kind for kind in tissue if kind not in recipe["targets"]]
    numbers = range(recipe["slides"])
    shown = [_tiles_of_slide(tiles, k, recipe).assign(slide=f"slide{k:02d}") for k in numbers]
    _write_cohort(folder, recipe, shown)
    sources = pd.concat(shown)[["slide", "kind", "card", "path"]]
    sources.to_csv(folder / "sources.csv", index=False)


def _write_cohort(
    folder: Path, recipe: Mapping[str, Any], tiles: Sequence[pd.DataFrame] = ()
) -> None:
    """Write slides side by side in processes, and their table. tiles: that each may show."""
    n, kinds = recipe["slides"], [*recipe["targets"], *recipe["others"]]
    (folder / "truth").mkdir(parents=True)
    (folder / "kinds.json").write_text(json.dumps(kinds))
    work = partial(_write_slide, folder=folder, recipe=recipe)
    with WorkerPool() as pool:
        written = pool.map(work, range(n), tiles or [None] * n)
        lines = list(tqdm(written, "making slides", n, unit="slide"))
    pd.DataFrame(lines).to_csv(folder / "slides.csv", index=False)


def _write_slide(
    number: int, tiles: pd.DataFrame | None, folder: Path, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a slide, which depends on the recipe and its number alone; its line of the table."""
    rng = np.random.default_rng([recipe["seed"], number])
    targets, others, mpp = recipe["targets"], recipe["others"], recipe["mpp"]
    target, name, fold = targets[number % len(targets)], f"slide{number:02d}", {}
    if tiles is None:
        mpp = mpp[number // len(targets) % len(mpp)]
        stain = draw_slide(recipe["shift"], rng)
        field = partial(synthetic_field, stain=stain, mpp=mpp)
    else:
        files = {kind: list(of_kind.file) for kind, of_kind in tiles.groupby("kind")}
        field, fold = partial(mosaic_field, tiles=files), {"fold": int(tiles.fold.iloc[0])}
    kinds = islands_of(target, others, recipe["islands"], recipe["irrelevant"], rng)
    picture, truth = slide_picture(kinds, recipe["columns"], field, recipe["side"], rng)
    write_pyramid(folder / f"{name}.tif", picture, mpp)
    numbers = [GLASS, *(1 + [*targets, *others].index(kind) for kind in dict.fromkeys(kinds))]
    Image.fromarray(np.array(numbers, np.uint8)[truth]).save(folder / "truth" / f"{name}.png")
    return {"path": f"{name}.tif", "label": target, "case": name, "mpp": mpp, **fold}


def _dealt_tiles(tissue: Mapping[str, str], rng: np.random.Generator) -> pd.DataFrame:
    """A line per tile: kind, card, path, file, group and the fold whose slides may show it."""
    tables = []
    for name in dict.fromkeys(tissue.values()):
        card = cards.read_card(name)
        folder = datasets.locate_tiles(card)
        table = read_tile_table(card, folder)
        table["kind"] = np.array(card.class_names)[table.label.values]
        table = table[table.kind.isin([kind for kind, of in tissue.items() if of == name])]
        fold = deal_groups(table.group.values, table.kind.values, FOLDS, rng, name)
        files = [folder / path for path in table.path]
        tables.append(table[["kind", "path", "group"]].assign(card=name, file=files, fold=fold))
    return pd.concat(tables, ignore_index=True)


def deal_groups(
    groups: np.ndarray, kinds: np.ndarray, n: int, rng: np.random.Generator, name: str
) -> np.ndarray:
    """Deal groups to n hands by chance, until each hand has all kinds: int [N].

    groups, kinds: [N], of tiles. Raises ValueError with the name of the dataset if it cannot be.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    kind_names, kind_of = np.unique(kinds, return_inverse=True)
    for _ in range(1000):
        hand_of = np.empty(len(names), int)
        hand_of[rng.permutation(len(names))] = np.arange(len(names)) % n
        hands = hand_of[group_of]
        if np.bincount(kind_of * n + hands, minlength=len(kind_names) * n).all():
            return hands
    raise ValueError(f"{name}: its {len(names)} groups cannot give {n} folds tiles of all kinds")


def _tiles_of_slide(tiles: pd.DataFrame, number: int, recipe: Mapping[str, Any]) -> pd.DataFrame:
    """The tiles that a slide may show: of its target a share of the groups of its fold."""
    targets = recipe["targets"]
    target, turn = targets[number % len(targets)], number // len(targets)
    of_fold = tiles[tiles.fold == turn % FOLDS]
    groups = np.unique(of_fold.group[of_fold.kind == target])
    alike = -(-recipe["slides"] // (len(targets) * FOLDS))
    if len(groups) < alike:
        raise ValueError(f"{len(groups)} groups of {target} are too few for {alike} slides a fold")
    of_slide = of_fold.group.isin(groups[turn // FOLDS :: alike]) & (of_fold.kind == target)
    return of_fold[of_slide | of_fold.kind.isin(recipe["others"])]


# --- its truth -----------------------------------------------------------------------------------


def relevant_tissue(card: cards.Card, cohort: "Cohort", tiles: pd.DataFrame) -> np.ndarray | None:
    """Tiles that show mostly what gives their slide its label, bool [N]; None where unknown.

    Known of slides that were made here; it judges open-set prompting and decides nothing. tiles: a
    line per tile with columns slide, x, y and side, the last three in pixels of level 0.
    """
    if not (cohort.folder / "kinds.json").is_file():
        return None
    relevant = np.zeros(len(tiles), bool)
    slides = cohort.table.set_index("slide")
    for number, rows in tiles.groupby("slide").indices.items():
        line, of_slide = slides.loc[number], tiles.iloc[rows]
        side = float(of_slide.side.iloc[0])
        kinds = kinds_of_tiles(cohort.folder, line["name"], of_slide[["x", "y"]].values, side)
        relevant[rows] = kinds == card.classes[line.label].folder
    return relevant


def kinds_of_tiles(folder: Path, slide: str, coords: np.ndarray, side: float) -> np.ndarray:
    """The kind that covers most of each tile, object [N], "" for glass; for reports alone.

    slide: its name; coords: int [N, 2], top left in pixels of level 0; side: of a tile there.
    """
    kinds = np.array(["", *json.loads((folder / "kinds.json").read_text())], object)
    truth = np.asarray(open_image(folder / "truth" / f"{slide}.png"))
    n, starts = max(1, round(side / TRUTH_STEP)), np.round(coords / TRUTH_STEP).astype(int)
    squares = [truth[y : y + n, x : x + n].ravel() for x, y in starts]
    return kinds[[np.bincount(square, minlength=len(kinds)).argmax() for square in squares]]
