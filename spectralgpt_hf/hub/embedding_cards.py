"""The card of a data set of embeddings: a folder of GeoParquet tables that can be uploaded to the Hub as it is."""

from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData
from yaml import YAMLError

from ..files import write_text
from ..modeling.bands import SENTINEL_2, Sensor
from ..modeling.sensors import SENSORS


CARD = """---
pretty_name: Embeddings of {sensor} by {model}
tags:
- geospatial
- earth-observation
- {sensor.name}
- embeddings
configs:
- config_name: default
  data_files: "[!_]*.parquet"
---

# Embeddings of {sensor} by {model}

One row per chip of a scene of {sensor}, as GeoParquet 1.1: vectors of {dimensions} numbers ({dtype}), made by
`{model}`, a SpectralGPT model, with `spectralgpt archive embed`.{attribution}

| column | content |
|---|---|
| `unique_id` | hash of model, scene, time and footprint |
| `embedding` | the vector{scale} |
| `timestamp`, `product_id` | when the scene was taken (UTC), and its name |
| `grid_cell`, `grid_row_u`, `grid_col_r` | the cell of the Major TOM grid that holds the centre of the chip |
| `geometry`, `bbox`, `centre_lat`, `centre_lon` | footprint and centre, WGS84 |
| `utm_footprint`, `utm_crs` | footprint in the reference system of the scene |
| `pixel_bbox` | left, top, right and bottom edge in pixels of the scene |

`spectralgpt search FOLDER --like LONGITUDE,LATITUDE` lists the sites that are most similar to one of them. geopandas,
pyarrow and DuckDB read the tables as they are. `collection.json` is a STAC collection of the scenes.

## Provenance and licence

State here which scenes these are, and under which licence the embeddings are published.
"""
PROVENANCE = "## Provenance and licence\n"
"""Heading of the part of a card that its author writes."""

ATTRIBUTION = " They contain modified Copernicus Sentinel\ndata, which are free and open."


def write_embedding_card(folder: Path, model: str, sensor: Sensor, dimensions: int, dtype: str) -> None:
    """Write README.md to a folder of tables, or renew it after another run.

    Of a card that is there, its further metadata and the text below `PROVENANCE` are kept, because its author wrote
    them. A card without this heading, or whose metadata cannot be read, is not changed.

    Args:
        folder: Folder of the tables.
        model: Name of the checkpoint.
        sensor: Sensor of the scenes.
        dimensions: Length of the vectors.
        dtype: Type of the stored vectors.
    """
    card = DatasetCard(
        CARD.format(
            model=model,
            sensor=sensor,
            dimensions=dimensions,
            dtype=dtype,
            scale=", as integers to be multiplied by `embedding_scale`" if dtype == "int8" else "",
            attribution=ATTRIBUTION if sensor.name == SENTINEL_2.name else "",
        )
    )
    path = folder / "README.md"
    if path.exists():
        try:
            old = DatasetCard(path.read_text(encoding="utf-8"))
        except (ValueError, YAMLError):
            return
        _, heading, own = old.text.partition(PROVENANCE)
        if not heading:
            return
        ours, theirs = card.data.to_dict(), old.data.to_dict()
        tags = [*ours["tags"], *(tag for tag in theirs.get("tags") or () if tag not in SENSORS)]
        card.data = DatasetCardData(**theirs | ours | {"tags": list(dict.fromkeys(tags))})
        card.text = card.text.partition(PROVENANCE)[0] + PROVENANCE + own
    write_text(path, str(card))
