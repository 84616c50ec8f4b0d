"""GeoJSON of tiles: what QuPath wants of it, and what it would refuse."""

import copy
import json

import numpy as np
import pytest

from apps.slide_viewer import annotations

COORDS = np.array([[100, 50], [324, 50], [100, 274]])
PROBS = np.array([[0.9, 0.1], [0.25, 0.75], [np.nan, 1 / 3]])
CLASSES = np.array([0, 1, 2])
NAMES, COLOURS = ["tumour", "normal", "irrelevant"], ["#c80000", "blue", "0.5"]


@pytest.fixture
def collection():
    return annotations.tiles_geojson(
        "s", COORDS, 223.5, CLASSES, PROBS, NAMES, COLOURS, bounds=(10, 20),
        extra={"attention": np.array([0.5, np.inf, 0.25])},
    )  # fmt: skip


def test_a_tile_is_a_closed_square_within_the_bounds_with_its_measurements(collection):
    first, second, third = collection["features"]
    ring = first["geometry"]["coordinates"][0]
    assert ring == [[90, 30], [313.5, 30], [313.5, 253.5], [90, 253.5], [90, 30]]
    assert first["properties"]["classification"] == {"name": "tumour", "color": [200, 0, 0]}
    assert first["properties"]["measurements"] == {
        "prob tumour": 0.9, "prob normal": 0.1, "attention": 0.5,
    }  # fmt: skip
    assert second["properties"]["measurements"] == {"prob tumour": 0.25, "prob normal": 0.75}
    assert third["properties"]["measurements"] == {"prob normal": 0.3333, "attention": 0.25}
    assert {f["properties"]["objectType"] for f in collection["features"]} == {"tile"}
    annotations.check_geojson(collection)


def test_ids_are_those_of_slide_and_place(collection):
    ids = [feature["id"] for feature in collection["features"]]
    again = annotations.tiles_geojson("s", COORDS, 223.5, CLASSES, PROBS, NAMES, COLOURS)
    other = annotations.tiles_geojson("t", COORDS, 223.5, CLASSES, PROBS, NAMES, COLOURS)
    assert len(set(ids)) == 3 and [f["id"] for f in again["features"]] == ids
    assert not set(ids) & {f["id"] for f in other["features"]}


def test_what_is_written_is_read_back(collection, tmp_path):
    annotations.write_geojson(tmp_path / "s.geojson", collection)
    table = annotations.read_tiles_geojson(tmp_path / "s.geojson")
    assert table[["x", "y"]].values.tolist() == (COORDS - (10, 20)).tolist()
    assert set(table.side) == {223.5} and table["class"].tolist() == NAMES
    assert table.written.tolist() == NAMES
    assert table["prob normal"].tolist() == [0.1, 0.75, 0.3333]
    assert np.isnan(table.attention[1])
    none = {"type": "FeatureCollection", "features": []}
    annotations.write_geojson(tmp_path / "none.geojson", none)
    assert annotations.read_tiles_geojson(tmp_path / "none.geojson").empty


def remove(name):
    return lambda feature: feature["properties"].pop(name)


REFUSED = {
    "no color": lambda f: f["properties"]["classification"].pop("color"),
    "has no name": lambda f: f["properties"]["classification"].update(name=""),
    "three whole numbers": lambda f: f["properties"]["classification"].update(color=[0, 0.5, 1]),
    "measurement 'p' is nan": lambda f: f["properties"]["measurements"].update(p=float("nan")),
    "not closed": lambda f: f["geometry"]["coordinates"][0].pop(),
    "no Polygon": lambda f: f["geometry"].update(type="Point"),
    "finite numbers": lambda f: f["geometry"]["coordinates"][0][1].__setitem__(0, float("inf")),
    "objectType is None": remove("objectType"),
    "no UUID": lambda f: f.update(id="7"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_qupath_would_refuse_is_refused_by_feature_and_never_written(
    collection, message, tmp_path
):
    broken = copy.deepcopy(collection)
    REFUSED[message](broken["features"][1])
    with pytest.raises(ValueError, match=f"feature 1 .*{message}"):
        annotations.write_geojson(tmp_path / "s.geojson", broken)
    assert not list(tmp_path.iterdir())


def test_objects_that_are_no_tiles_are_left_out_and_counted(collection, tmp_path):
    first, second, third = collection["features"]
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}
    ruler = {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}
    others = [
        point,
        first | {"geometry": ruler},
        first | {"geometry": None},
        first | {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 10**400]]]}},
        first | {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, float("nan")]]]}},
        first | {"properties": first["properties"] | {"objectType": "annotation"}},
        7,
    ]
    second["properties"]["measurements"] = {"prob tumour": "NaN", "class": 1}
    del second["properties"]["classification"]
    third["properties"] |= {"classification": "tumour", "measurements": None, "name": "renamed"}
    for content in ([*others, second, third], {"features": [*others, second, third]}):
        (tmp_path / "s.geojson").write_text(json.dumps(content))
        with pytest.warns(UserWarning, match="7 of 9 objects are no tiles.*: features 0, 1, 2, 3"):
            table = annotations.read_tiles_geojson(tmp_path / "s.geojson")
        assert table["class"].tolist() == ["", "tumour"]
        assert table.written.tolist() == [NAMES[1], ""] and np.isnan(table["prob tumour"][0])
    for text in ("nonsense", '{"features": 5}', "[" * 100_000, "5"):
        (tmp_path / "s.geojson").write_text(text)
        with pytest.raises(ValueError, match=r"s\.geojson is no GeoJSON"):
            annotations.read_tiles_geojson(tmp_path / "s.geojson")


def test_sizes_that_do_not_agree_are_refused():
    with pytest.raises(ValueError):
        annotations.tiles_geojson("s", COORDS[:2], 5, CLASSES, PROBS, NAMES, COLOURS)
    with pytest.raises(ValueError):
        annotations.tiles_geojson("s", COORDS, 5, CLASSES, PROBS, NAMES, COLOURS[:2])
