"""GeoJSON of tiles: what QuPath wants of it, and what comes back."""

import json

import numpy as np
import pandas as pd
import pytest
from qupath import features_for_qupath

from apps.slide_viewer.annotations import read_tiles_geojson, write_tiles_geojson

COLOURS = {"tumour": "#c80000", "normal": "blue", "irrelevant": "0.5"}
TILES = pd.DataFrame(
    {
        "x": [100, 324, 100],
        "y": [50, 50, 274],
        "side": 223.5,
        "class": list(COLOURS),
        "prob tumour": [0.9, 0.25, np.nan],
        "prob normal": [0.1, 0.75, 1 / 3],
        "attention": [0.5, np.inf, 0.25],
    }
)


def write(file, tiles=TILES, name="s", **kwargs):
    write_tiles_geojson(file, tiles, name, COLOURS, **kwargs)
    return features_for_qupath(file)


def test_a_tile_is_a_closed_square_within_the_bounds_with_its_measurements(tmp_path):
    first, second, third = write(tmp_path / "s.geojson", bounds=(10, 20))
    ring = first["geometry"]["coordinates"][0]
    assert ring == [[90, 30], [313.5, 30], [313.5, 253.5], [90, 253.5], [90, 30]]
    assert first["properties"]["classification"] == {"name": "tumour", "color": [200, 0, 0]}
    expected = {"prob tumour": 0.9, "prob normal": 0.1, "attention": 0.5}
    assert first["properties"]["measurements"] == expected
    assert second["properties"]["measurements"] == {"prob tumour": 0.25, "prob normal": 0.75}
    assert third["properties"]["measurements"] == {"prob normal": 0.3333, "attention": 0.25}
    assert {f["properties"]["objectType"] for f in (first, second, third)} == {"tile"}


def test_ids_are_those_of_slide_and_position(tmp_path):
    ids, again, other = (
        [feature["id"] for feature in write(tmp_path / "s.geojson", name=name, bounds=bounds)]
        for name, bounds in (("s", (0, 0)), ("s", (5, 5)), ("t", (0, 0)))
    )
    assert len(set(ids)) == 3 and again == ids and not set(ids) & set(other)


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path / "s.geojson", bounds=(10, 20))
    table = read_tiles_geojson(tmp_path / "s.geojson")
    assert table[["x", "y"]].values.tolist() == (TILES[["x", "y"]] - (10, 20)).values.tolist()
    assert set(table.side) == {223.5} and table["class"].tolist() == list(COLOURS)
    assert table.written.tolist() == list(COLOURS)
    assert table["prob normal"].tolist() == [0.1, 0.75, 0.3333] and np.isnan(table.attention[1])
    write(tmp_path / "none.geojson", TILES[:0])
    assert read_tiles_geojson(tmp_path / "none.geojson").empty


def test_objects_that_are_no_tiles_are_left_out_and_counted(tmp_path):
    first, second, third = write(tmp_path / "s.geojson")

    def shaped(kind, coordinates):
        return first | {"geometry": {"type": kind, "coordinates": coordinates}}

    others = [
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}},
        shaped("LineString", [[0, 0], [1, 1]]),
        first | {"geometry": None},
        shaped("Polygon", [[[0, 0], [1, 10**400], [2, 2]]]),
        shaped("Polygon", [[[0, 0], [1, float("nan")], [2, 2]]]),
        first | {"properties": first["properties"] | {"objectType": "annotation"}},
        7,
    ]
    second["properties"]["measurements"] = {"prob tumour": "NaN", "class": 1}
    del second["properties"]["classification"]
    third["properties"] |= {"classification": "tumour", "measurements": None, "name": "renamed"}
    for content in ([*others, second, third], {"features": [*others, second, third]}):
        (tmp_path / "s.geojson").write_text(json.dumps(content))
        with pytest.warns(UserWarning, match="7 of 9 objects are no tiles.*: features 0, 1, 2, 3"):
            table = read_tiles_geojson(tmp_path / "s.geojson")
        assert table["class"].tolist() == ["", "tumour"]
        assert table.written.tolist() == ["normal", ""] and np.isnan(table["prob tumour"][0])
    for text in ("nonsense", '{"features": 5}', "[" * 100_000, "5"):
        (tmp_path / "s.geojson").write_text(text)
        with pytest.raises(ValueError, match=r"s\.geojson is no GeoJSON"):
            read_tiles_geojson(tmp_path / "s.geojson")
