"""Miniatures of the public datasets: their folders, file names and formats, with synthetic tiles.

Every class has a colour and a stripe of its own, so that a model can tell them apart; the colours
are far from grey, so that they count as tissue.
"""

import colorsys
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

TILE = 40  # pixels
# Fields of a card of two classes, all that a card needs.
CARD_FIELDS = {
    "title": "Toy",
    "folder": "toy",
    "tiles": "*.png",
    "classes": [{"name": "a", "folder": "x"}, {"name": "b", "folder": "y"}],
    "licence": "none",
    "citation": "none",
    "source": "https://example.org/toy",
}


def pixels(kind: int, n_kinds: int, size: int, draw: np.random.Generator) -> np.ndarray:
    """A tile of one class, uint8 [size, size, 3]."""
    colour = np.array(colorsys.hsv_to_rgb(kind / n_kinds, 0.7, 0.8)) * 255
    across = np.arange(size) * 2 * np.pi * (1 + kind) / size
    stripes = 25 * np.sin(across + draw.uniform(0, 2 * np.pi))[:, None, None]
    noise = draw.normal(0, 8, (size, size, 3))
    return np.clip(colour + stripes + noise, 0, 255).astype(np.uint8)


def save(array: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, compress_level=1)  # of PNG; others do not know it


def hide(folder: Path, ending: str) -> None:
    """What a Mac leaves beside the files that it copies."""
    (folder / f"._copy{ending}").write_bytes(b"no image")


def lc25000(folder: Path, draw: np.random.Generator) -> None:
    kinds = {"colon_n": "colonn", "colon_aca": "colonca", "lung_n": "lungn", "lung_aca": "lungaca"}
    kinds["lung_scc"] = "lungscc"
    rows = []
    for kind, (name, stem) in enumerate(kinds.items()):
        organ = name.partition("_")[0]
        for number in range(20):  # two copies of each of ten source tiles
            file = f"{stem}{number + 1}.jpeg"
            where = folder / "lung_colon_image_set" / f"{organ}_image_sets" / name / file
            save(pixels(kind, 5, TILE, draw), where)
            rows.append((where.stem, file, name, organ, number // 2, 10 * kind + number // 2))
    columns = ["stem", "filename", "label", "tissue", "local_cluster_label", "group_id"]
    table = pd.DataFrame(rows, columns=columns)
    table.loc[len(table)] = ["lungn5000", "lungn5000.jpeg", "lung_n", "lung", 9, 29]  # not here
    table.to_csv(folder / "lc25000_image_groups.csv", index=False)


def nct_crc(folder: Path, draw: np.random.Generator) -> None:
    kinds = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
    for split, n, who in (("NCT-CRC-HE-100K", 14, ""), ("CRC-VAL-HE-7K", 5, "TCGA-")):
        for kind, name in enumerate(kinds):
            for _ in range(n):
                letters = "".join(draw.choice(list("ACDEFGHIKLMNPQRSTVWY"), 8))
                file = folder / split / name / f"{name}-{who}{letters}.tif"
                save(pixels(kind, 9, TILE, draw), file)
        hide(folder / split / "ADI", ".tif")


def crc5000(folder: Path, draw: np.random.Generator) -> None:
    names = "TUMOR STROMA COMPLEX LYMPHO DEBRIS MUCOSA ADIPOSE EMPTY".split()
    kinds = [f"{n:02d}_{name}" for n, name in enumerate(names, 1)]
    where = folder / "Kather_texture_2016_image_tiles_5000"
    for kind, name in enumerate(kinds):
        slides = (6, 8) if name == "08_EMPTY" else range(1, 11)  # as in the dataset
        for slide in slides:
            for tile in range(20 // len(slides)):
                code = f"{draw.integers(16**5):05X}_CRC-Prim-HE-{slide:02d}_{tile + 1:03d}"
                file = where / name / f"{code}.tif_Row_{151 + 150 * tile}_Col_1.tif"
                save(pixels(kind, 8, TILE, draw), file)


def chaoyang(folder: Path, draw: np.random.Generator) -> None:
    for part, n in (("train", 20), ("test", 6)):
        entries = []
        for kind in range(4):
            for number in range(n):
                name = f"{part}/{535940 + number // 5}-IMG{number:03d}x{kind:03d}-{kind}.JPG"
                save(pixels(kind, 4, TILE, draw), folder / name)
                entries.append({"label": kind, "name": name})
        (folder / f"{part}.json").write_text(json.dumps(entries))


def ebhi(folder: Path, draw: np.random.Generator) -> None:
    kinds = ["Normal", "Polyp", "Low-grade IN", "High-grade IN", "Serrated adenoma"]
    kinds.append("Adenocarcinoma")
    for kind, name in enumerate(kinds):
        where = folder / "EBHI-SEG" / name
        for case in range(12):
            for number in range(2):
                file = f"GT20{12000 + case}-1-400-{10 * kind + number:03d}.png"
                save(pixels(kind, 6, TILE, draw), where / "image" / file)
                save(np.full((TILE, TILE), 255, np.uint8), where / "label" / file)


def with_mask(shape: tuple[int, int], size: int, marked: np.ndarray, draw: np.random.Generator):
    """An image of tiles of two classes, the mask of the second one, and glass in the corner."""
    image = np.full((*shape, 3), 245, np.uint8)
    mask = np.zeros(shape, np.uint8)
    for (row, column), second in np.ndenumerate(marked):
        place = np.s_[row * size : (row + 1) * size, column * size : (column + 1) * size]
        small = pixels(2 * int(second), 5, 50, draw).repeat(-(-size // 50), 0)
        image[place] = small.repeat(-(-size // 50), 1)[:size, :size]
        if second:
            mask[place][size // 4 : size // 2, size // 4 : size // 2] = 255
    image[:size, :size] = 245
    mask[:size, :size] = 0
    return image, mask


def hph(folder: Path, draw: np.random.Generator) -> None:
    for patient in range(12):
        part = folder / ("TRAIN" if patient < 8 else "TEST")
        image, mask = with_mask((700, 700), 224, draw.random((3, 3)) < 0.5, draw)
        name = f"P{patient + 1}_D{patient + 1}_9_14_2.png"
        for place, array in (("IMAGES", image), ("MANUAL TUMOR", mask), ("MANUAL GLANDS", mask)):
            save(array, part / place / name)


def digestpath(folder: Path, draw: np.random.Generator) -> None:
    for number in range(24):  # of twelve cases, slides A and B of each
        positive = number % 4 > 1
        place = folder / ("tissue-train-pos-v1" if positive else "tissue-train-neg")
        marked = (draw.random((2, 2)) < 0.7) & positive
        image, mask = with_mask((1024, 1100), 512, marked, draw)
        case, slide = 10829 + number // 2, "AB"[number % 2]
        name = f"18-{case}{slide}_2019-05-08 00_47_24-lv1-{24450 + number}-13719-1100-1024"
        save(image, place / f"{name}.jpg")
        if positive:
            save(mask, place / f"{name}_mask.jpg")


MAKERS: dict[str, tuple[str, Callable[[Path, np.random.Generator], None]]] = {
    "hph": ("hph", hph),
    "lc25000": ("lc25000", lc25000),
    "nct_crc": ("nct_crc", nct_crc),
    "digestpath": ("digestpath", digestpath),
    "crc5000": ("crc5000", crc5000),
    "chaoyang": ("chaoyang", chaoyang),
    "ebhi": ("ebhi_seg", ebhi),
}


def make(dataset: str, root: Path) -> Path:
    """Write a miniature below `root`, as its card expects it there; returns its folder."""
    name, maker = MAKERS[dataset]
    folder = root / name
    folder.mkdir(parents=True)
    maker(folder, np.random.default_rng(0))
    return folder
