"""Validation against the JSON Schemas of STAC and its extensions, without a network."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft7Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7


FOLDER = Path(__file__).parent / "fixtures" / "stac"


def problems(document: dict, extension: str) -> list[str]:
    """Return what the schema of an extension, "embeddings" or "mlm", and those of STAC itself say against a document.

    The schemas of STAC come with pystac. Those of the other extensions are not at hand: they accept everything.
    """
    schema = json.loads((FOLDER / f"{extension}.schema.json").read_text())
    core = _core(document["stac_version"])
    own = "collection" if document["type"] == "Collection" else "item"
    base = f"https://schemas.stacspec.org/v{document['stac_version']}/{own}-spec/json-schema/{own}.json"
    registry = Registry(retrieve=lambda address: _resource(core.get(address, ANYTHING)))
    found = [
        error
        for each in (schema, {"$ref": base})
        for error in Draft7Validator(each, registry=registry).iter_errors(document)
    ]
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


# `#/definitions/...` of a schema that is not at hand must lead somewhere.
_ANY = {"properties": {"processing:expression": {}, "classification:classes": {}}}
ANYTHING = {
    "definitions": {
        "fields": _ANY,
        "bands": {"items": {"properties": {"data_type": {"enum": ["float32", "float16", "int8", "uint8", "uint16"]}}}},
    }
}


def _resource(schema: dict) -> Resource:
    return Resource.from_contents(schema, default_specification=DRAFT7)


def _core(version: str) -> dict[str, dict]:
    """Return the schemas of STAC by address. pystac has those of 1.1; of 1.0 only the version's number differs here."""
    folder = Path(pytest.importorskip("pystac", reason="the schemas of STAC come with pystac").__file__).parent
    schemas = {}
    for path in (folder / "validation" / "jsonschemas").rglob("*.json"):
        text = (
            path.read_text().replace('"const": "1.1.0"', f'"const": "{version}"').replace("/v1.1.0/", f"/v{version}/")
        )
        schema = json.loads(text)
        address = schema.get("$id", "").rstrip("#")
        for name in (address, f"{address}#", f"https://geojson.org/schema/{path.name}"):
            schemas[name] = schema
    return schemas
