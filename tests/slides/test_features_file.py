"""Features files: written, read back, read by others, and those of others."""

import h5py
import numpy as np
import pytest
from cases import case
from slides.made_up_slides import textured_slide

from lib.slides.features_file import read_features, read_made_from, write_features

COORDS = np.array([[0, 0], [236, 0], [0, 236]], np.int64)
FEATURES = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


@pytest.fixture
def slide(tmp_path):
    return textured_slide(tmp_path)[0]


def write(file, slide, made_from=None, **arrays):
    arrays = {"coords": COORDS, "features": FEATURES, **arrays}
    write_features(file, arrays, slide, pixels=224, mpp=0.2653, made_from=made_from)
    return file


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_what_is_written_is_read_back_in_the_layout_that_others_read(tmp_path, slide, kind):
    extra = {"image_embeds": FEATURES[:, :2], "row": np.arange(3)}
    file = write(tmp_path / "s" / "a.h5", slide, features=FEATURES.astype(kind), **extra)
    arrays, attributes = read_features(file)
    expected = {"coords": COORDS, "features": FEATURES.astype(kind), **extra}
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(arrays[name], array) and arrays[name].dtype == array.dtype
    assert attributes.pop("level0_mpp") == pytest.approx([0.2513, 0.2513])
    assert attributes.pop("patch_size_level0_exact") == pytest.approx(224 * 0.2653 / 0.2513)
    assert attributes == {
        **{"patch_size": 224, "patch_size_level0": 236, "level0_magnification": 40},
        **{"target_magnification": 38, "overlap": 0, "name": "textured", "savetodir": "s"},
        **{"level0_width": 1801, "level0_height": 1403, "mpp": 0.2653, "mpp_source": "file"},
        "made_from": "{}",
    }
    again = write(tmp_path / "s" / "b.h5", slide, features=FEATURES.astype(kind), **extra)
    assert again.read_bytes() == file.read_bytes()


def of_a_peer(file, **arrays):
    with h5py.File(file, "w") as opened:
        for name, array in arrays.items():
            opened[name] = array
    return file


def test_a_file_that_lacks_something_is_refused_by_name(tmp_path):
    (tmp_path / "words.h5").write_text("These are words.")
    with pytest.raises(FileNotFoundError):
        read_features(tmp_path / "gone.h5")
    for arrays, message in (
        ({"coords": COORDS}, r"a\.h5 has no array 'features'"),
        ({"features": FEATURES}, r"a\.h5 has no array 'coords'"),
        ({"coords": COORDS[:2], "features": FEATURES}, r"a\.h5: .*\[2, 2\] and \[3, 5\]"),
        ({"coords": COORDS, "features": FEATURES[0]}, r"a\.h5: .*\[3, 2\] and \[5\]"),
    ):
        with case(message), pytest.raises(ValueError, match=message):
            read_features(of_a_peer(tmp_path / "a.h5", **arrays))
    with pytest.raises(ValueError, match=r"words\.h5 is damaged or no HDF5"):
        read_features(tmp_path / "words.h5")


def test_what_features_were_made_from_is_told_and_else_nothing(tmp_path, slide):
    made_from = {"vlm": "plip é", "tile": "224 px"}
    assert read_made_from(write(tmp_path / "a.h5", slide, made_from=made_from)) == made_from
    (tmp_path / "words.h5").write_text("These are words.")
    of_a_peer(tmp_path / "peer.h5", coords=COORDS, features=FEATURES)
    for name in ("words.h5", "peer.h5", "gone.h5"):
        assert read_made_from(tmp_path / name) == {}


def virtual(opened, name):
    layout = h5py.VirtualLayout((3, 5), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "features", (3, 5))
    opened.create_virtual_dataset(name, layout)


def filtered(opened, name):
    """A filter that no library here has, marked as one that may be passed over."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((3, 5))
    plan.set_filter(32013, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((3, 5))
    h5py.h5d.create(opened.id, name.encode(), h5py.h5t.NATIVE_FLOAT, space, plan)


def linked(link):
    return lambda opened, name: opened.__setitem__(name, link)


def array(**kwargs):
    return lambda opened, name: opened.create_dataset(name, **kwargs)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (array(shape=(3, 2**36), dtype="f4", chunks=(1, 1024)), "claim far more bytes"),
        (
            array(shape=(3, 5), dtype="f4", chunks=(2**10, 2**14), maxshape=(None, None)),
            "claim far more bytes",
        ),
        (array(shape=(3, 5), dtype="f4", external="secret"), "needs another file"),
        (virtual, "needs another file"),
        (filtered, "or a library"),
        (linked(h5py.ExternalLink("elsewhere.h5", "features")), "is a link"),
        (linked(h5py.SoftLink("/coords")), "is a link"),
        (array(data=["words"] * 3), "not of numbers"),
        (array(data=np.zeros(3, "V8")), "not of numbers"),
        (array(data=np.zeros(3, [("a", "f4"), ("b", "i4")])), "not of numbers"),
    ],
)
@pytest.mark.parametrize("name", ["features", "more"])
def test_arrays_that_are_not_numbers_in_the_file_are_refused_before_they_are_read(
    tmp_path, name, made, message
):
    (tmp_path / "secret").write_bytes(b"the password: 1234567" * 3)
    of_a_peer(tmp_path / "elsewhere.h5", coords=COORDS, features=FEATURES)
    arrays = {"coords": COORDS} | ({} if name == "features" else {"features": FEATURES})
    file = of_a_peer(tmp_path / "a.h5", **arrays)
    with h5py.File(file, "a") as opened:
        made(opened, name)
    with pytest.raises(ValueError, match=rf"a\.h5.*{message}"):
        read_features(file)


def test_an_interrupted_write_leaves_what_was_there(tmp_path, slide, monkeypatch):
    folder = tmp_path / "out"
    before = write(folder / "a.h5", slide).read_bytes()
    create = h5py.File.create_dataset

    def interrupted(self, name, **kwargs):
        if name == "features":
            raise KeyboardInterrupt
        return create(self, name, **kwargs)

    monkeypatch.setattr(h5py.File, "create_dataset", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(folder / "a.h5", slide)
    assert [*folder.iterdir()] == [folder / "a.h5"]
    assert (folder / "a.h5").read_bytes() == before
