"""Images that are no tiles, or not as they seem."""

import os

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

from apps.own_tiles.tile_folder import list_tiles

from .fault import Fault, put

COLOURS = np.random.default_rng(0).integers(60, 230, (8, 8, 3), dtype=np.uint8)
TILE = np.asarray(Image.fromarray(COLOURS).resize((64, 64), Image.Resampling.BICUBIC))
GREY = TILE.mean(2).astype(np.uint8)
PLANES = np.ascontiguousarray(TILE.transpose(2, 0, 1))
PICTURE = Image.fromarray(TILE)
LEAVES = ["results/data/runs/own/pixels/*.npy"]


def look(folder):
    """What `make own` says of a folder of tiles before any model sees it."""
    tiles, _ = list_tiles(folder / "tiles").decode("own", 32)
    return [f"{len(tiles.table)} tiles", *tiles.left_out_lines(), *tiles.converted_lines()]


def tif(array, **how):
    return lambda file: tifffile.imwrite(file, array, **how)


def saved(picture, **how):
    return lambda file: picture.save(file, **how)


def cut(save, part):
    """The first part of a file."""

    def write(file):
        save(file)
        content = file.read_bytes()
        file.write_bytes(content[: int(part * len(content))])

    return write


def spoilt(save, at, by=b"\xff\x00\xff" * 9):
    """A file with other bytes in the middle."""

    def write(file):
        save(file)
        content = bytearray(file.read_bytes())
        place = int(at * len(content))
        content[place : place + len(by)] = by
        file.write_bytes(content)

    return write


def as_other(save, suffix):
    """A file of another format under this name."""

    def write(file):
        save(file.with_suffix(suffix))
        file.with_suffix(suffix).rename(file)

    return write


def claims(width, height):
    """A PNG that says it is so large."""

    def write(file):
        saved(PICTURE)(file)
        content = bytearray(file.read_bytes())
        content[16:24] = width.to_bytes(4) + height.to_bytes(4)
        content[29:33] = imagecodecs_crc(content[12:29])
        file.write_bytes(content)

    return write


def imagecodecs_crc(content):
    import zlib

    return zlib.crc32(bytes(content)).to_bytes(4)


def turned(file):
    exif = Image.Exif()
    exif[274] = 6
    PICTURE.save(file, exif=exif)


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
OTHER_PROFILE = PROFILE.replace(b"sRGB", b"Scan").replace("sRGB".encode("utf-16-be"), b"Scan" * 2)
DEEP = TILE.astype(np.uint16)
PLAIN = {name: saved(PICTURE) for name in ("a.png", "b.png", "c.png")}
NONE = "no whole image in JPEG, PNG, TIFF, WEBP"
# Left out of a folder with three tiles: the name, the file, what is said of it.
LEFT_OUT = {
    "an empty file": ("x.png", b"", NONE),
    "a text": ("x.png", "no image", NONE),
    "a page of a server": ("x.jpg", "<!DOCTYPE html><html>Please log in</html>", NONE),
    "a text of Git LFS": (
        "x.png",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0",
        NONE,
    ),
    "a GIF by another name": ("x.png", as_other(saved(PICTURE), ".gif"), NONE),
    "a BMP by another name": ("x.png", as_other(saved(PICTURE), ".bmp"), NONE),
    "a JPEG 2000 by another name": ("x.tif", as_other(saved(PICTURE), ".jp2"), NONE),
    "a PDF by another name": ("x.tif", as_other(saved(PICTURE), ".pdf"), NONE),
    "an EPS, which would start a program": ("x.png", as_other(saved(PICTURE), ".eps"), NONE),
    "an SVG": ("x.svg", "<svg/>", "not .jpg"),
    "a BMP": ("x.bmp", saved(PICTURE), "not .jpg"),
    "a DICOM": ("x.dcm", b"\0" * 128 + b"DICM", "not .jpg"),
    "a whole slide": ("x.svs", b"II*\0", "not .jpg"),
    "an array": ("x.npy", b"\x93NUMPY", "not .jpg"),
    "no suffix": ("x", saved(PICTURE, format="PNG"), "not .jpg"),
    "half a PNG": ("x.png", cut(saved(PICTURE), 0.5), "truncated"),
    "half a JPEG": ("x.jpg", cut(saved(PICTURE), 0.6), "truncated"),
    "half a TIFF": ("x.tif", cut(tif(TILE, photometric="rgb"), 0.5), "x.tif"),
    "half a WebP": ("x.webp", cut(saved(PICTURE, lossless=True), 0.5), "x.webp"),
    "the head of a JPEG": ("x.jpg", cut(saved(PICTURE), 0.02), "x.jpg"),
    "a PNG with other bytes in it": ("x.png", spoilt(saved(PICTURE), 0.5), "x.png"),
    "a TIFF whose directory lies elsewhere": ("x.tif", b"II*\0\xff\xff\xff\x7f", "x.tif"),
    "a TIFF in itself": ("x.tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0", "x.tif"),
    "a PNG of more pixels than any tile": ("x.png", claims(2**15, 2**15), "too large"),
    "a PNG that claims a gigapixel side": ("x.png", claims(2**31 - 1, 1), "too l"),
    "a strip": ("x.png", saved(PICTURE.resize((300, 10))), "too long: 300 × 10"),
    "one pixel": ("x.png", saved(PICTURE.resize((1, 1))), "too small: 1 × 1"),
    "a thin tile": ("x.png", saved(PICTURE.resize((60, 4))), "too small: 60 × 4"),
    "12 bits in 16, grey": ("x.png", saved(Image.fromarray(GREY * np.uint16(16))), "fewer bits"),
    "12 bits in 16, colours": (
        "x.png",
        lambda file: file.write_bytes(imagecodecs.png_encode(DEEP * 16)),
        "fewer bits",
    ),
    "12 bits in 16, TIFF": ("x.tif", tif(DEEP * 16, photometric="rgb"), "fewer bits"),
    "14 bits in 16": ("x.tif", tif(GREY * np.uint16(64)), "fewer bits"),
    "10 bits in 16": ("x.tif", tif(GREY * np.uint16(4)), "fewer bits"),
    "16 bits in planes": (
        "x.tif",
        tif(PLANES * np.uint16(257), photometric="rgb", planarconfig="separate"),
        "in planes",
    ),
    "16 bits with a sign": ("x.tif", tif(GREY.astype(np.int16) * 100), "sign"),
    "32 bits": ("x.tif", tif(GREY.astype(np.uint32)), "more than 16 bits"),
    "32 bits with a sign": ("x.tif", tif(GREY.astype(np.int32)), "more than 16 bits"),
    "fractions": ("x.tif", tif((GREY / 255).astype(np.float32)), "fractions"),
    "fractions in colours": ("x.tif", tif((TILE / 255).astype(np.float32)), "x.tif"),
    "channels as pages": ("x.tif", tif(PLANES, photometric="minisblack"), "pages of grey"),
    "channels of ImageJ": (
        "x.tif",
        tif(PLANES, imagej=True, metadata={"axes": "CYX"}),
        "pages of grey",
    ),
    "channels of OME": ("x.tif", tif(PLANES, ome=True, metadata={"axes": "CYX"}), "pages of grey"),
    "channels of 16 bits": (
        "x.tif",
        tif(PLANES * np.uint16(257), photometric="minisblack"),
        "pages of grey",
    ),
    "five channels": ("x.tif", tif(np.repeat(TILE[..., :1], 5, 2)), "x.tif"),
    "a TIFF of JPEG 2000": ("x.tif", tif(TILE, compression="jpeg2000"), "x.tif"),
    "a hidden file": (".x.png", saved(PICTURE), "hidden"),
    "what a Mac leaves": ("._a.png", b"\0\5\x16\7", "hidden"),
    "Thumbs.db": ("Thumbs.db", b"\xd0\xcf\x11\xe0", "not .jpg"),
    "a pipe": ("x.png", os.mkfifo, "no regular file"),
    "a link to nowhere": ("x.png", lambda file: file.symlink_to("gone.png"), "no regular file"),
    "a link in a circle": ("x.png", lambda file: file.symlink_to(file.name), "no regular file"),
    "a link to a folder": ("x", lambda file: file.symlink_to("."), "a link to a folder"),
    "a name that is not UTF-8": ("caf\udce9.png", saved(PICTURE), "its name is not UTF-8"),
}
# Taken, and what is said of it: the name, the file, words.
CONVERTED = {
    "16 bits, grey": (
        "x.png",
        saved(Image.fromarray(GREY * np.uint16(257))),
        "16 bits reduced to 8",
    ),
    "16 bits, colours": (
        "x.tif",
        tif(DEEP * 257, photometric="rgb"),
        "16 bits reduced to 8",
    ),
    "grey": ("x.png", saved(PICTURE.convert("L")), "grey"),
    "one bit": ("x.png", saved(PICTURE.convert("1")), "grey"),
    "a palette": ("x.png", saved(PICTURE.quantize(64)), "P to RGB"),
    "CMYK": ("x.jpg", saved(PICTURE.convert("CMYK")), "CMYK to RGB"),
    "YCbCr": ("x.tif", saved(PICTURE.convert("YCbCr")), "YCbCr to RGB"),
    "transparent": ("x.png", saved(PICTURE.convert("RGBA")), "transparency on white"),
    "several pages": (
        "x.tif",
        saved(PICTURE, save_all=True, append_images=[PICTURE]),
        "the first of several pages",
    ),
    "an animation": (
        "x.webp",
        saved(PICTURE, save_all=True, append_images=[PICTURE.rotate(90)]),
        "the first of several pages",
    ),
    "a turned camera": ("x.jpg", turned, "turned as its camera says"),
    "a turned TIFF": (
        "x.tif",
        tif(TILE, photometric="rgb", extratags=[(274, "H", 1, 6, True)]),
        "turned as its camera says",
    ),
    "a profile of colours": (
        "x.png",
        saved(PICTURE, icc_profile=OTHER_PROFILE),
        "its colour profile is not applied",
    ),
    "an oblong tile": ("x.png", saved(PICTURE.resize((200, 64))), "the middle of an oblong"),
}
# Taken without a word.
TAKEN = {
    "planes of 8 bits": ("x.tif", tif(PLANES, photometric="rgb", planarconfig="separate")),
    "a profile that is sRGB": ("x.png", saved(PICTURE, icc_profile=PROFILE)),
    "a name with a line break": ("a\nb.png", saved(PICTURE)),
    "a name like an option": ("-rf.png", saved(PICTURE)),
    "a name with every letter": ("ü 漢 'a' \"b\" $(x) {y}.PNG", saved(PICTURE)),
    "a name of 250 letters": ("x" * 246 + ".png", saved(PICTURE)),
    "a PNG called .jpg": ("x.jpg", saved(PICTURE, format="PNG")),
}


def beside(name, content):
    return put({f"tiles/{n}": c for n, c in PLAIN.items()} | {f"tiles/{name}": content})


def in_folder(says, name, content):
    """The fault of a file beside three good tiles."""
    return beside(name, content), look, says, False, LEAVES


FAULTS = [
    Fault("tiles", name, *in_folder(["3 tiles", "left out: ", says], *file))
    for name, (*file, says) in LEFT_OUT.items()
]
FAULTS += [
    Fault("tiles", name, *in_folder(["4 tiles", f"converted: 1 of 4 images ({says}"], *file))
    for name, (*file, says) in CONVERTED.items()
]
FAULTS += [Fault("tiles", name, *in_folder(["4 tiles"], *file)) for name, file in TAKEN.items()]
