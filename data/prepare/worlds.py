"""A family of small synthetic datasets, on which defaults are chosen.

Each world has another laboratory, magnification, number of classes and balance of them, and a VLM
that knows more or less of it. No tile of them is a tile of a dataset of the record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F
from tqdm import tqdm

from data.prepare.laboratory import draw_slide
from data.prepare.stand_in import build
from data.prepare.synthetic import tissue_tile
from data.prepare.workers import WorkerPool
from lib import paths
from lib.artefacts import atomic, new_array
from lib.labels import UNLABELLED
from lib.vlm.inference import embed_prompts, embed_tiles, embed_views
from lib.vlm.loading import load_vlm

SIZE = 96  # pixels
N_VIEWS = 10
# Of each kind of tissue: the words of the prompt, then those that the stand-ins learn from.
WORDS = {
    "normal_mucosa": ("normal colonic mucosa", "benign crypts with goblet cells", "normal glands"),
    "adenocarcinoma": ("adenocarcinoma", "malignant glands", "invasive carcinoma of the bowel"),
    "smooth_muscle": ("smooth muscle", "muscle fibres", "the muscularis propria"),
    "stroma": ("fibrous stroma", "connective tissue", "collagen with fibroblasts"),
    "lymphocytes": ("lymphocytes", "a lymphoid aggregate", "dense inflammation"),
    "adipose": ("adipose tissue", "fat", "fat cells"),
    "adenoma": ("adenoma", "dysplastic glands", "a benign neoplasm of the bowel"),
    "inflamed_stroma": ("inflamed stroma", "stroma with lymphocytes", "chronic inflammation"),
    "mucus": ("mucus", "pools of mucin", "extracellular mucin"),
}
# Steps of pre-training of the stand-ins: one knows its source well, one hardly.
STEPS = (400, 60, 15)
PROMPTS = ("fair", "biased", "swapped", "ignorant")


@dataclass(frozen=True)
class World:
    """How a synthetic dataset differs from others.

    n_classes: of the kinds in `WORDS`; imbalance: the largest class over the smallest; shift: of
    the laboratory, see `draw_slide`; field: side of a tile in µm; other: share of tiles of tissue
    that is of no class; steps: of pre-training of its stand-in.
    """

    seed: int
    n_classes: int
    imbalance: float
    n_tiles: int
    n_slides: int
    shift: float
    field: float
    other: float
    steps: int

    @property
    def name(self) -> str:
        return f"world{self.seed:02d}"

    @property
    def folder(self) -> Path:
        return worlds_folder() / self.name


def worlds_folder() -> Path:
    return paths.output_root() / "data" / "worlds"


def family(n: int) -> list[World]:
    """The first n worlds; a larger family begins with a smaller one."""
    return [_world(seed) for seed in range(n)]


def _world(seed: int) -> World:
    chance = np.random.default_rng([1729, seed])
    n_classes = 2 + seed % 8
    return World(
        seed=seed,
        n_classes=n_classes,
        imbalance=1.0 if chance.random() < 0.3 else float(np.exp(chance.uniform(0, np.log(30)))),
        n_tiles=int(chance.integers(400, 800)),
        n_slides=int(chance.integers(9, 24)),
        shift=float(chance.uniform(0.3, 2.5)),
        field=float(chance.choice([60.0, 110.0, 200.0])),
        other=0.15 if n_classes < 8 and chance.random() < 0.3 else 0.0,
        steps=int(chance.choice(STEPS)),
    )


def draw_table(world: World) -> pd.DataFrame:
    """Draw which tiles there are: tile, kind, label (`UNLABELLED` for other tissue), group, test.

    Slides differ in what they hold: their shares are drawn about those of the world (Dirichlet). A
    third of the slides is the test set; each class has a tile in both.
    """
    chance = np.random.default_rng([world.seed, 0])
    kinds = chance.permutation([*WORDS])
    classes, others = kinds[: world.n_classes], kinds[world.n_classes :]
    shares = world.imbalance ** -np.linspace(0, 1, world.n_classes)
    group = np.sort(chance.integers(world.n_slides, size=world.n_tiles))
    of_slide = chance.dirichlet(4 * world.n_classes * shares / shares.sum(), world.n_slides)
    label = np.array([chance.choice(world.n_classes, p=of_slide[slide]) for slide in group])
    test = np.isin(group, chance.permutation(world.n_slides)[: world.n_slides // 3])
    for part in (test, ~test):  # the rarest classes may have no tile by chance
        rows = chance.permutation(np.flatnonzero(part))[: 3 * world.n_classes]
        missing = [c for c in range(world.n_classes) if c not in label[part]]
        label[rows[: 3 * len(missing)]] = np.repeat(missing, 3)
    kind = classes[label]
    no_class = chance.random(world.n_tiles) < world.other
    kind[no_class] = chance.choice(others, no_class.sum()) if world.other else ""
    return pd.DataFrame(
        {
            "tile": np.arange(world.n_tiles),
            "kind": kind,
            "label": np.where(no_class, UNLABELLED, label),
            "group": group,
            "test": test,
        }
    ).assign(classes=[list(classes)] * world.n_tiles)


def _draw_tile(job: tuple[int, str, int], world: World) -> np.ndarray:
    tile, kind, slide = job
    stained = draw_slide(world.shift, np.random.default_rng([world.seed, 1, slide]))
    chance = np.random.default_rng([world.seed, 2, tile])
    return tissue_tile(kind, stained, SIZE, chance, field=world.field)


def draw_pixels(world: World, table: pd.DataFrame, file: Path) -> None:
    """Write the tiles of a world, uint8 [N, 96, 96, 3]."""
    jobs = list(zip(table.tile, table.kind, table.group, strict=True))
    with atomic(file) as temporary, WorkerPool() as pool:
        pixels = new_array(temporary, (len(jobs), SIZE, SIZE, 3), "u1")
        drawn = pool.map(partial(_draw_tile, world=world), jobs, chunksize=16)
        for tile, picture in enumerate(tqdm(drawn, f"drawing {world.name}", len(jobs))):
            pixels[tile] = picture


def _stand_in_name(steps: int) -> str:
    return f"{paths.STAND_IN}worlds{steps}"


def build_stand_ins() -> None:
    """Build the stand-ins of the worlds, which have learnt at another laboratory.

    It has all kinds of tissue at two magnifications, none of the worlds' slides, and other words.
    """
    source = World(99, len(WORDS), 1.0, 900, 12, 0.0, 110.0, 0.0, 0)
    if all(paths.model_folder(_stand_in_name(steps), 0).is_dir() for steps in STEPS):
        return
    table, pixels = draw_table(source), worlds_folder() / "source.npy"
    draw_pixels(source, table, pixels)
    names = table.classes[0]
    captions = [[f"An H&E image of {words}" for words in WORDS[kind][1:]] for kind in names]
    for steps in STEPS:
        folder = paths.model_folder(_stand_in_name(steps), 0)
        given = table.label.values, captions
        build(folder, pixels, *given, image_size=SIZE, seed=0, steps=steps)


def prompt_sets(text: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """Text features as prompts of four qualities give them, each [C, D].

    fair: as they are; biased: one class reads half like another; swapped: two classes have each
    other's words; ignorant: words that say nothing of the tissue (by chance). text: [C, D].
    """
    chance = np.random.default_rng([seed, 3])
    a, b = chance.permutation(len(text))[:2]
    biased, swapped = text.clone(), text.clone()
    biased[a] = text[a] + text[b]
    swapped[[a, b]] = text[[b, a]]
    ignorant = torch.from_numpy(chance.standard_normal(text.shape)).to(text)
    sets = (text, biased, swapped, ignorant)
    return {name: F.normalize(own, dim=-1) for name, own in zip(PROMPTS, sets, strict=True)}


def prepare(worlds: Sequence[World]) -> None:
    """Draw and embed each world that is not there yet; its folder is that of a run.

    Beside what `embed_tiles` and `embed_views` write, for each set of prompts, there is
    tiles.parquet (`draw_table`).
    """
    build_stand_ins()
    for world in worlds:
        if (world.folder / "tiles.parquet").is_file():
            continue
        table, pixels = draw_table(world), world.folder / "pixels.npy"
        draw_pixels(world, table, pixels)
        vlm = load_vlm(_stand_in_name(world.steps))
        words = [[f"An H&E image of {WORDS[kind][0]}"] for kind in table.classes[0]]
        text = prompt_sets(embed_prompts(vlm, words), world.seed)
        embed_tiles(vlm, pixels, text, world.folder)
        embed_views(
            vlm, pixels, table.tile.values, text, world.folder, n_views=N_VIEWS, seed=world.seed
        )
        with atomic(world.folder / "tiles.parquet") as file:
            table.to_parquet(file)
