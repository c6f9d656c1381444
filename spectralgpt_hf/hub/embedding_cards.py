"""The card of a data set of embeddings: a folder of GeoParquet tables that can be uploaded to the Hub as it is."""

from pathlib import Path

from ..files import write_text


CARD = """---
pretty_name: Sentinel-2 embeddings of {model}
tags:
- geospatial
- earth-observation
- sentinel-2
- embeddings
configs:
- config_name: default
  data_files: "[!_]*.parquet"
---

# Sentinel-2 embeddings of {model}

One row per chip of a Sentinel-2 scene, as GeoParquet 1.1: vectors of {dimensions} numbers ({dtype}), made by `{model}`,
a SpectralGPT model, with `spectralgpt archive embed`.

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

State here which scenes these are, and under which licence the embeddings are published. Copernicus Sentinel data are
free and open; results contain modified Copernicus Sentinel data.
"""


def write_embedding_card(folder: Path, model: str, dimensions: int, dtype: str) -> None:
    """Write README.md to a folder of tables. An existing file is kept, because it may have been edited.

    Args:
        folder: Folder of the tables.
        model: Name of the checkpoint.
        dimensions: Length of the vectors.
        dtype: Type of the stored vectors.
    """
    if (folder / "README.md").exists():
        return
    scale = ", as integers to be multiplied by `embedding_scale`" if dtype == "int8" else ""
    text = CARD.format(model=model, dimensions=dimensions, dtype=dtype, scale=scale)
    write_text(folder / "README.md", text)
