"""Image files of every kind, read as the tiles that they should give."""

import contextlib
import itertools
import os
import re
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from cases import case
from PIL import Image

from lib import paths
from lib.data import images, tiles
from lib.data.images import read_square

H, W = 40, 50
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(256, size=(H, W, 3), dtype=np.uint8)
GREY, BITS = COLOUR[..., 0], COLOUR[..., 1] > 100
ALPHA = RNG.choice(np.array([0, 255], np.uint8), size=(H, W))
LIGHT = RNG.integers(256, size=(H, W), dtype=np.uint8)  # half-transparent
RGBA, LA = np.dstack([COLOUR, ALPHA]), np.dstack([GREY, ALPHA])
CMYK = RNG.integers(256, size=(H, W, 4), dtype=np.uint8)
DEEP = RNG.integers(2**16, size=(H, W, 4)).astype(np.uint16)  # every low byte is noise
COLOURS = RNG.integers(256, size=(256, 3), dtype=np.uint8)  # of a palette
INDEX = RNG.integers(256, size=(H, W), dtype=np.uint8)
HOLES = RNG.integers(256, size=256).astype(np.uint8)  # opacity of each colour of the palette
MORE = {"save_all": True, "append_images": [Image.new("RGB", (W, H), "red")]}


def save(mode, array, **options):
    return lambda file: Image.frombytes(mode, (W, H), array.tobytes()).save(file, **options)


def in_palette(file, **options):
    image = Image.frombytes("P", (W, H), INDEX.tobytes())
    image.putpalette(COLOURS.tobytes())
    image.save(file, **options)


def deep_png(array):
    return lambda file: file.write_bytes(imagecodecs.png_encode(array.copy()))


def deep_tiff(array, **options):
    kind = "rgb" if array.ndim == 3 else "minisblack"
    more = {"extrasamples": ["unassalpha"]} if array.shape[2:] == (4,) else {}
    return lambda file: tifffile.imwrite(file, array, photometric=kind, **more, **options)


def on_white(colour, opacity):
    """Composite written from its definition. opacity: 0 … 255, [H, W]."""
    share = opacity[..., None] / 255
    return (colour.astype(float) * share + 255 * (1 - share)).round()


def three(grey):
    return np.stack([grey] * 3, -1)


UPPER = (DEEP >> 8).astype(np.uint8)
WHITE, PAGES = "transparency on white", "the first of several pages"
DEEPER = "16 bits reduced to 8"
DEEP_GREY = three(UPPER[..., 0]), f"{DEEPER}, grey"
ONE_CLEAR = np.where(ALPHA[..., None] > 0, COLOUR // 2, 255).astype(np.uint8)
ONE_CLEAR_GREY = np.where(ALPHA > 0, 1 + GREY // 2, 0).astype(np.uint8)
# name: how to write it, the pixels it shows, what is said of it
KINDS = {
    "rgb.png": (save("RGB", COLOUR), COLOUR, ""),
    "rgb.tif": (save("RGB", COLOUR), COLOUR, ""),
    "rgb.tiff": (save("RGB", COLOUR, compression="tiff_lzw"), COLOUR, ""),
    "rgb.webp": (save("RGB", COLOUR, lossless=True), COLOUR, ""),
    "rgba.png": (save("RGBA", RGBA), on_white(COLOUR, ALPHA), WHITE),
    "rgba.tif": (save("RGBA", RGBA), on_white(COLOUR, ALPHA), WHITE),
    "rgba.webp": (save("RGBA", RGBA, lossless=True, exact=True), on_white(COLOUR, ALPHA), WHITE),
    "half.png": (save("RGBA", np.dstack([COLOUR, LIGHT])), on_white(COLOUR, LIGHT), WHITE),
    "la.png": (save("LA", LA), on_white(three(GREY), ALPHA), WHITE),
    "la.tif": (save("LA", LA), on_white(three(GREY), ALPHA), WHITE),
    "grey.png": (save("L", GREY), three(GREY), "grey"),
    "grey.tif": (save("L", GREY), three(GREY), "grey"),
    "bits.png": (lambda f: Image.fromarray(BITS).save(f), three(255 * BITS), "grey"),
    "bits.tif": (lambda f: Image.fromarray(BITS).save(f), three(255 * BITS), "grey"),
    "palette.png": (in_palette, COLOURS[INDEX], "P to RGB"),
    "palette.tif": (in_palette, COLOURS[INDEX], "P to RGB"),
    "holes.png": (
        lambda f: in_palette(f, transparency=HOLES.tobytes()),
        on_white(COLOURS[INDEX], HOLES[INDEX]),
        WHITE,
    ),
    "cmyk.tif": (
        save("CMYK", CMYK),
        (255.0 - CMYK[..., :3]) * (255.0 - CMYK[..., 3:]) / 255,
        "CMYK to RGB",
    ),
    "deep_grey.png": (deep_png(DEEP[..., 0]), *DEEP_GREY),
    "deep_grey.tif": (deep_tiff(DEEP[..., 0]), *DEEP_GREY),
    "deep_grey_big_endian.tif": (deep_tiff(DEEP[..., 0], byteorder=">"), *DEEP_GREY),
    "deep_grey_deflated.tif": (deep_tiff(DEEP[..., 0], compression="deflate"), *DEEP_GREY),
    "deep_la.png": (
        deep_png(DEEP[..., 2:]),
        on_white(three(UPPER[..., 2]), UPPER[..., 3]),
        f"{DEEPER}, {WHITE}",
    ),
    "deep.png": (deep_png(DEEP[..., :3]), UPPER[..., :3], DEEPER),
    "deep_rgba.png": (
        deep_png(DEEP),
        on_white(UPPER[..., :3], UPPER[..., 3]),
        f"{DEEPER}, {WHITE}",
    ),
    "deep.tif": (deep_tiff(DEEP[..., :3]), UPPER[..., :3], DEEPER),
    "deep_big_endian.tif": (deep_tiff(DEEP[..., :3], byteorder=">"), UPPER[..., :3], DEEPER),
    "deep_deflated.tif": (deep_tiff(DEEP[..., :3], compression="deflate"), UPPER[..., :3], DEEPER),
    "deep_rgba.tif": (
        deep_tiff(DEEP),
        on_white(UPPER[..., :3], UPPER[..., 3]),
        f"{DEEPER}, {WHITE}",
    ),
    "pages.tif": (save("RGB", COLOUR, **MORE), COLOUR, PAGES),
    "moving.webp": (save("RGB", COLOUR, lossless=True, **MORE), COLOUR, PAGES),
    # of all colours, and of all greys, one is transparent
    "white_is_clear.png": (
        save("RGB", ONE_CLEAR, transparency=(255, 255, 255)),
        on_white(COLOUR // 2, ALPHA),
        WHITE,
    ),
    "black_is_clear.png": (
        save("L", ONE_CLEAR_GREY, transparency=0),
        on_white(three(1 + GREY // 2), ALPHA),
        WHITE,
    ),
}


def test_every_kind_of_file_gives_the_pixels_it_shows_and_says_what_was_converted(tmp_path):
    left = (W - H) // 2
    for name, (write, shown, expected_note) in KINDS.items():
        with case(name):
            write(tmp_path / name)
            tile, note = read_square(tmp_path / name, H)
            assert tile.dtype == np.uint8 and tile.shape == (H, H, 3) and note == expected_note
            difference = np.abs(tile.astype(float) - np.asarray(shown, float)[:, left : left + H])
            assert difference.max() <= 1  # rounding of Pillow's integers


def test_jpegs_keep_their_colour_at_every_size(tmp_path):
    for mode, colour, shown, expected_note in (
        ("RGB", (200, 90, 140), (200, 90, 140), ""),
        ("L", 90, (90, 90, 90), "grey"),
        ("CMYK", (0, 255, 0, 0), (255, 0, 255), "CMYK to RGB"),
        ("YCbCr", (128, 128, 128), (128, 128, 128), ""),
    ):
        Image.new(mode, (200, 160), colour).save(tmp_path / "a.jpg", quality=95)
        for size in (20, 160, 700):  # decoded at a quarter, as it is, enlarged
            with case(mode, size):
                tile, note = read_square(tmp_path / "a.jpg", size)
                assert tile.shape == (size, size, 3) and note == expected_note
                assert np.abs(tile.astype(int) - shown).max() <= 3


def test_every_shape_gives_a_square_of_its_middle(tmp_path):
    shapes = [(40, 40), (8, 8), (9, 60), (400, 20), (41, 40), (1000, 700)]
    for shape, suffix in itertools.product(shapes, images.FORMATS):
        with case(shape, suffix):
            file = tmp_path / f"a{suffix}"
            Image.new("RGB", shape, (10, 200, 90)).save(file)
            tile, _ = read_square(file, 40)
            assert tile.shape == (40, 40, 3)
            # JPEG and WebP lose a little
            assert np.abs(tile.astype(int) - (10, 200, 90)).max() <= 4
    long = np.zeros((30, 90, 3), np.uint8)
    long[:, 30:60] = 255
    for pixels in (long, long.swapaxes(0, 1)):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        assert (read_square(tmp_path / "a.png", 30)[0] == 255).all(), pixels.shape


# --- refusals ------------------------------------------------------------------------------------


def test_pixels_of_more_than_16_bits_are_refused(tmp_path):
    whole, share = GREY.astype(np.int32), GREY.astype(np.float32) / 255
    for values in (255 * share, share, whole * 100_000, whole - 100, whole):
        Image.fromarray(values).save(tmp_path / "a.tif")
        message = "more than 16 bits, or fractions; save it with 8 or 16"
        with case(values.dtype), pytest.raises(ValueError, match=message):
            read_square(tmp_path / "a.tif", H)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_file_that_is_no_whole_image_is_refused(tmp_path):
    for suffix in images.FORMATS:
        file = tmp_path / f"a{suffix}"
        Image.fromarray(COLOUR).save(file)
        whole = file.read_bytes()
        read_square(file, H)
        for spoilt in (whole[: len(whole) // 2], b"", b"not an image\n", whole[:40]):
            file.write_bytes(spoilt)
            with case(suffix, spoilt[:9]), pytest.raises((OSError, SyntaxError, ValueError)):
                read_square(file, H)


def write_tiled(file, side):
    """A TIFF of 8 × 8 pixels whose one tile, which is what a decoder unpacks, has another side."""
    long = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    data = zlib.compress(bytes(side * side))
    tags = long | {324: 8 + 2 + 12 * 10 + 4, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    file.write_bytes(head + entries + bytes(4) + data)


def test_what_is_too_large_or_too_long_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    write_tiled(tmp_path / "a.tif", 48)
    for name in ("a.png", "a.tif"):
        images.open_image(tmp_path / name).load()
    monkeypatch.setattr(images, "_as_rgb", None)
    Image.new("L", (7, 7 * images.MOST_OBLONG + 1)).save(tmp_path / "long.png")
    with pytest.raises(ValueError, match=r"too long: 7 × 141 pixels, of 20 to 1 at most"):
        read_square(tmp_path / "long.png", H)
    monkeypatch.setattr(images, "MOST_PIXELS", H * W - 1)
    for name in ("a.png", "a.tif"):
        with case(name), pytest.raises(ValueError, match="too large: more than 0 million pixels"):
            read_square(tmp_path / name, H)
    monkeypatch.setattr(images, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="too large: more than 0 MiB"):
        read_square(tmp_path / "a.png", H)


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    inside, most, as_rgb = [], [], images._as_rgb

    def watched(opened):
        inside.append(opened)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return as_rgb(opened)

    monkeypatch.setattr(images, "_as_rgb", watched)
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    for limit, alone in ((H * W, False), (H * W - 1, True)):
        monkeypatch.setattr(images, "LARGE", limit)
        most.clear()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: read_square(tmp_path / "a.png", H), range(8)))
        assert (max(most) == 1) == alone


def test_only_the_four_formats_and_regular_files_are_decoded_whatever_they_are_called(tmp_path):
    file = tmp_path / "a.png"
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        Image.fromarray(COLOUR).save(file, kind)
        assert read_square(file, H)[0].shape == (H, H, 3), kind
    for kind in ("EPS", "GIF", "BMP", "PDF", "ICO", "JPEG2000", "PPM", "TGA"):
        Image.fromarray(COLOUR).save(file, kind)
        with case(kind), pytest.raises(ValueError, match="no whole image in JPEG, PNG"):
            read_square(file, H)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name in ("pipe", "folder", "device", "loop", "gone"):
        with case(name), pytest.raises(ValueError, match="no regular file"):
            read_square(tmp_path / f"{name}.png", H)


def test_whatever_a_damaged_file_raises_names_no_more_than_a_damaged_file(tmp_path):
    """Bytes of good files changed by chance: either pixels come out, or one of two errors."""
    draw = np.random.default_rng(0)
    for name in ("rgb.png", "rgb.tif", "rgb.tiff", "pages.tif", "moving.webp"):
        KINDS[name][0](tmp_path / name)
        whole = np.frombuffer((tmp_path / name).read_bytes(), np.uint8)
        for _ in range(40):
            spoilt = whole.copy()
            places = draw.integers(min(len(whole), draw.choice([60, 400, 10**6])), size=3)
            spoilt[places] = draw.integers(256, size=3)
            (tmp_path / "a").write_bytes(spoilt.tobytes())
            with case(name), warnings.catch_warnings(action="ignore"):
                with contextlib.suppress(OSError, ValueError):
                    read_square(tmp_path / "a", H)


def test_the_pages_of_a_file_are_not_walked_through(tmp_path):
    """A chain of pages may be long, or lead nowhere; that there are more is seen on the first."""
    KINDS["pages.tif"][0](tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    first = struct.unpack("<I", content[4:8])[0]
    (entries,) = struct.unpack("<H", content[first : first + 2])
    after = first + 2 + 12 * entries
    for following in (first, 2**31):
        chained = content[:after] + struct.pack("<I", following) + content[after + 4 :]
        (tmp_path / "b.tif").write_bytes(chained)
        tile, _ = read_square(tmp_path / "b.tif", H)
        assert np.array_equal(tile, read_square(tmp_path / "a.tif", H)[0]), following


# --- all of a folder -----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiles").mkdir()
    return tmp_path / "tiles"


def decode(folder):
    """The store (40 px) of all files of a folder and the warnings that it took."""
    names = sorted(file.name for file in folder.iterdir())
    table = pd.DataFrame({"path": names, "digest": [tiles.digest(folder / n) for n in names]})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store = tiles.decode_tiles(table, folder, "mine", 35)
    return np.load(store, allow_pickle=False), [str(w.message) for w in caught]


def test_decoding_keeps_the_order_and_warns_once_for_each_kind_with_a_number_and_a_file(folder):
    for number in range(5):
        Image.new("RGB", (40 + number, 40), (50 * number, 0, 0)).save(folder / f"{number}.png")
    store, warned = decode(folder)
    assert warned == [] and store[:, 0, 0, 0].tolist() == [0, 50, 100, 150, 200]
    for name in ("grey.png", "deep.png", "cmyk.tif", "pages.tif"):
        for number in range(3):
            KINDS[name][0](folder / f"{number} {name}")
    store, warned = decode(folder)
    assert store.shape == (17, 40, 40, 3) and len(warned) == 4
    pattern = r"converted to 8-bit RGB \((.*)\): 3 of 17 tiles, such as (.*)"
    assert dict(re.fullmatch(pattern, line).groups() for line in warned) == {
        "grey": "0 grey.png",
        DEEPER: "0 deep.png",
        "CMYK to RGB": "0 cmyk.tif",
        PAGES: "0 pages.tif",
    }


def test_decoding_names_every_unreadable_file_and_leaves_nothing(folder):
    Image.fromarray(COLOUR).save(folder / "good.png")
    (folder / "text.png").write_text("no image")
    (folder / "cut ü.jpg").write_bytes(b"\xff\xd8\xff")
    Image.fromarray(GREY.astype(np.float32)).save(folder / "float.tif")
    with pytest.raises(ValueError, match="3 tiles cannot be read; remove or replace") as error:
        decode(folder)
    for name in ("text.png", "cut ü.jpg", "float.tif"):
        assert str(folder / name) in str(error.value)
    assert "good.png" not in str(error.value) and "fractions" in str(error.value)
    assert not list(paths.pixels_folder("mine").iterdir())
