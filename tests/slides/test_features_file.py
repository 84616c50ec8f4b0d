"""Features files: written in TRIDENT's layout, read back, and refused where they are damaged."""

import h5py
import numpy as np
import pytest
from slides.made_up_slides import textured_slide

from lib.slides.features_file import read_features, read_made_from, write_features

COORDS = np.array([[0, 0], [236, 0], [0, 236]], np.int64)
FEATURES = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float16)


@pytest.fixture
def write(tmp_path):
    slide, _ = textured_slide(tmp_path)

    def write(name, made_from=None, **more):
        arrays = {"coords": COORDS, "features": FEATURES, **more}
        file = tmp_path / "s" / name
        write_features(file, arrays, slide, pixels=224, mpp=0.2653, made_from=made_from)
        return file

    return write


def of_a_peer(file, **arrays):
    with h5py.File(file, "w") as opened:
        for name, array in arrays.items():
            opened[name] = array
    return file


def test_what_is_written_is_read_back_in_the_layout_that_others_read(write):
    extra = {"image_embeds": FEATURES[:, :2].astype(np.float32), "row": np.arange(3)}
    made_from = {"vlm": "plip é", "tile": "224 px"}
    file = write("a.h5", made_from, **extra)
    arrays, attributes = read_features(file)
    expected = {"coords": COORDS, "features": FEATURES, **extra}
    assert arrays.keys() == expected.keys() and read_made_from(file) == made_from
    for name, array in expected.items():
        assert np.array_equal(arrays[name], array) and arrays[name].dtype == array.dtype
    assert attributes.pop("level0_mpp") == pytest.approx([0.2513, 0.2513])
    assert attributes.pop("patch_size_level0_exact") == pytest.approx(224 * 0.2653 / 0.2513)
    attributes.pop("made_from")
    assert attributes == {
        **{"patch_size": 224, "patch_size_level0": 236, "level0_magnification": 40},
        **{"target_magnification": 38, "overlap": 0, "name": "textured", "savetodir": "s"},
        **{"level0_width": 1801, "level0_height": 1403, "mpp": 0.2653, "mpp_source": "file"},
    }
    assert write("b.h5", made_from, **extra).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"coords": COORDS}, r"a\.h5 has no array 'features'"),
        ({"features": FEATURES}, r"a\.h5 has no array 'coords'"),
        ({"coords": COORDS[:2], "features": FEATURES}, r"a\.h5: .*\[2, 2\] and \[3, 5\]"),
        ({"coords": COORDS, "features": FEATURES[0]}, r"a\.h5: .*\[3, 2\] and \[5\]"),
        (None, r"a\.h5 is damaged or no HDF5"),
    ],
)
def test_a_file_that_lacks_something_is_refused_by_name(tmp_path, arrays, message):
    file = tmp_path / "a.h5"
    of_a_peer(file, **arrays) if arrays else file.write_text("These are words.")
    with pytest.raises(ValueError, match=message):
        read_features(file)
    assert read_made_from(file) == {}


def test_of_files_of_others_and_of_none_nothing_tells_what_they_were_made_from(tmp_path):
    assert read_made_from(of_a_peer(tmp_path / "a.h5", coords=COORDS, features=FEATURES)) == {}
    assert read_made_from(tmp_path / "gone.h5") == {}
    with pytest.raises(FileNotFoundError):
        read_features(tmp_path / "gone.h5")
