"""What QuPath 0.4 and later accepts as GeoJSON, as a schema."""

import json
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, FiniteFloat

Byte = Annotated[int, Field(strict=True, ge=0, le=255)]


def closed(ring: list) -> list:
    assert len(ring) >= 4 and ring[0] == ring[-1], "a ring is not closed"
    return ring


class Geometry(BaseModel):
    type: Literal["Polygon"]
    rings: list[Annotated[list[tuple[FiniteFloat, FiniteFloat]], AfterValidator(closed)]] = Field(
        alias="coordinates", min_length=1
    )


class Classification(BaseModel):
    name: Annotated[str, Field(min_length=1)]
    color: tuple[Byte, Byte, Byte]


class Properties(BaseModel):
    object_type: Literal["annotation", "detection", "tile", "cell"] = Field(alias="objectType")
    classification: Classification
    measurements: dict[str, FiniteFloat] = {}


class Feature(BaseModel):
    type: Literal["Feature"]
    id: UUID
    geometry: Geometry
    properties: Properties


class Collection(BaseModel):
    type: Literal["FeatureCollection"]
    features: list[Feature]


def features_for_qupath(file: Path) -> list[dict]:
    """The features of a file. Raises ValueError for what QuPath would refuse or misread."""
    content = json.loads(file.read_text(encoding="utf-8"))
    Collection.model_validate(content)
    return content["features"]
