"""Commands for whole scenes: predict, embed, search."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app, names, shows_progress
from .options import Checkpoint, Revision, expand_options


SEARCH = "Search of a STAC API"

Source = Annotated[
    str, typer.Argument(help="Scene: a GeoTIFF, a SAFE product, a folder of bands, a STAC item, or a URL of one.")
]
Confidence = Annotated[
    bool, typer.Option("--confidence", help="Write the probability of the predicted class to NAME_confidence.tif.")
]
Stride = Annotated[
    int | None,
    typer.Option(
        help="Distance between neighbouring vectors, in pixels. Default: the patch size for maps, the tile size "
        "for tables."
    ),
]
StoredDtype = Annotated[
    str | None,
    typer.Option(
        help="Type of the stored embeddings: float32, float16, or int8 with scales. Default: float16 for maps, "
        "float32 for tables."
    ),
]
SeriesOption = Annotated[
    bool,
    typer.Option(
        "--series",
        help="Use several dates together: SOURCE is a folder of files with dates in their names, or a STAC item "
        "collection in JSON; with --stac, all items that are found.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that exist. Files that are read are never replaced.")
]


@dataclass(frozen=True)
class ReadingOptions:
    """Options of every command that reads scenes."""

    stac: Annotated[
        str | None,
        typer.Option(
            help="URL of a STAC API to search for scenes, instead of SOURCE. Needs --collection. Default: none.",
            rich_help_panel=SEARCH,
        ),
    ] = None
    collection: Annotated[
        str | None,
        typer.Option(help="Collection of the API, such as sentinel-2-l2a. Default: none.", rich_help_panel=SEARCH),
    ] = None
    bbox: Annotated[
        str | None,
        typer.Option(help="Region to search: west,south,east,north in degrees. Default: none.", rich_help_panel=SEARCH),
    ] = None
    datetime: Annotated[
        str | None,
        typer.Option(help="Date, or interval such as 2024-06-01/2024-08-31. Default: any.", rich_help_panel=SEARCH),
    ] = None
    max_cloud: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Largest share of clouds, in percent. Default: any.", rich_help_panel=SEARCH),
    ] = None

    band_names: Annotated[
        str | None,
        typer.Option(help="Names of the files' bands, in order, with commas. Default: the names that the files state."),
    ] = None
    mask: Annotated[
        str | None,
        typer.Option(
            help="SCL for the scene classification of a SAFE product, or a raster whose zeros are left out. "
            "Default: none."
        ),
    ] = None
    missing_bands: Annotated[
        str | None,
        typer.Option(
            help="What replaces bands that the files lack: error (nothing does), nearest, mean or mask. Default: the "
            "setting of the checkpoint."
        ),
    ] = None
    tile_size: Annotated[
        int | None, typer.Option(help="Height and width of the tiles, in pixels. Default: the image size of the model.")
    ] = None
    memory_limit: Annotated[int, typer.Option(min=1, help="Memory for pixels, results and GDAL's cache, in MiB.")] = (
        1024
    )
    weights_dtype: Annotated[str, typer.Option(help="Type of the model's weights: float32, bfloat16 or float16.")] = (
        "float32"
    )
    revision: Revision = "main"

    def search(self) -> list[Mapping[str, Any]]:
        """Return the STAC items that the options describe; none without `--stac`."""
        criteria = {name: getattr(self, name) for name in ("collection", "bbox", "datetime", "max_cloud")}
        if self.stac is None:
            for name, value in criteria.items():
                if value is not None:
                    raise ValueError(f"`{name}` has no effect without `stac`: pass both.")
            return []
        if self.collection is None:
            raise ValueError("`stac` needs `collection`, such as sentinel-2-l2a.")
        from spectralgpt_hf.inference.stac_search import search_items

        return search_items(self.stac, **criteria | {"bbox": self.region})

    @property
    def region(self) -> list[float] | None:
        """`bbox` as numbers."""
        if self.bbox is None:
            return None
        region = _area(self.bbox)
        if not isinstance(region, list) or len(region) != 4 or region[0] >= region[2] or region[1] >= region[3]:
            raise ValueError(f"`bbox`: expected west,south,east,north in degrees, got {self.bbox!r}.")
        return region


@dataclass(frozen=True)
class SceneOptions(ReadingOptions):
    """Options of `predict` and `embed`."""

    area: Annotated[
        str | None,
        typer.Option(
            help="Part of the scene: left,bottom,right,top, or a GeoJSON file of polygons. Default: the whole scene."
        ),
    ] = None
    area_crs: Annotated[
        str | None,
        typer.Option(
            help="Coordinate reference system of the area, such as EPSG:4326. Default for bounds: that of the scene. "
            "Default for GeoJSON: the one that it states, else EPSG:4326."
        ),
    ] = None
    offset: Annotated[
        float | None,
        typer.Option(
            help="Offset, in digital numbers, that is added to all pixels. Default: the one that the metadata state."
        ),
    ] = None
    nodata: Annotated[
        float | None,
        typer.Option(help="Stored value that means no data. Default: the one that the files or metadata state."),
    ] = None
    per_tile: Annotated[
        bool,
        typer.Option(
            "--per-tile", help="Measure the limits of normalisation on each tile, not on the scene. This causes seams."
        ),
    ] = False
    batch_size: Annotated[
        int | None,
        typer.Option(help="Number of tiles that are sent to the device at once. Default: 32, on a CPU one per core."),
    ] = None
    workers: Annotated[
        int, typer.Option(help="Number of threads that read, and number of threads that prepare tiles.")
    ] = 2
    device: Annotated[
        str | None,
        typer.Option(help="Device of the model: cpu, cuda, mps, ... Default: an accelerator, if any."),
    ] = None
    overwrite: Overwrite = False
    sensor: Annotated[
        str | None,
        typer.Option(help="Sensor that took the scene, such as landsat-8. Default: the one that its files state."),
    ] = None
    match: Annotated[
        str | None,
        typer.Option(
            help="Set to wavelength to let the bands of another sensor serve those that the model expects, by "
            "wavelength. Default: such scenes are refused."
        ),
    ] = None

    def locate(
        self, source: str, destination: Path | None, series: bool = False
    ) -> tuple[str | Mapping[str, object] | None, str | Mapping[str, object] | None, Path]:
        """Return the scene, or the sources of a series, and the file to write: with `--stac`, that is the one argument.

        A search gives the clearest item, or for a series a collection of all items.
        """
        if self.stac is None:
            self.search()  # which refuses options without effect
            if destination is None:
                raise ValueError("Expected SOURCE and DESTINATION, or `stac` and DESTINATION.")
            return None if series else source, source if series else None, destination
        if destination is not None:
            raise ValueError(
                f"Expected no SOURCE with `stac`, which searches for the scene, got {source}: leave it out."
            )
        if self.region is None:
            raise ValueError("`stac` needs `bbox`, the region of which scenes are searched.")
        from spectralgpt_hf.inference.stac_search import choose_item, cloud_cover

        items = self.search()
        if series:
            typer.echo(f"{len(items)} dates: {', '.join(item['id'] for item in items)}", err=True)
            return None, {"type": "FeatureCollection", "features": items}, Path(source)
        item = choose_item(items, self.region)
        cover = cloud_cover(item)
        clouds = "not stated" if cover is None else f"{cover:.0f} %"
        typer.echo(f"{item['id']}, {item['properties'].get('datetime')}, clouds: {clouds}", err=True)
        return item, None, Path(source)

    @property
    def for_loading(self) -> dict[str, Any]:
        """Arguments of `load_model` and `load_encoder`."""
        return {
            "device": self.device,
            "dtype": self.weights_dtype,
            "revision": self.revision,
            "missing_bands": self.missing_bands,
        }

    @property
    def for_running(self) -> dict[str, Any]:
        """Arguments of `predict_scene` and `embed_scene`."""
        return {
            "area": self.region if self.stac and self.area is None else _area(self.area),
            "area_crs": "EPSG:4326" if self.stac and self.area is None else self.area_crs,
            "band_names": names(self.band_names),
            "offset": self.offset,
            "nodata": self.nodata,
            "mask": self.mask,
            "statistics_scope": "tile" if self.per_tile else "scene",
            "tile_size": self.tile_size,
            "batch_size": self.batch_size,
            "workers": self.workers,
            "memory_limit": self.memory_limit * 2**20,
            "overwrite": self.overwrite,
            "progress": shows_progress(),
            "sensor": self.sensor,
            "match": self.match,
        }


@app.command()
@expand_options
def predict(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint of a fine-tuned model: a folder, or a name on the Hub (namespace/name).")
    ],
    source: Source,
    destination: Annotated[Path | None, typer.Argument(help="GeoTIFF to write, which ends with .tif.")] = None,
    *,
    after: Annotated[
        str | None, typer.Option(help="Scene of the second date, which change detection needs. Default: none.")
    ] = None,
    mask_after: Annotated[
        str | None,
        typer.Option(help="Mask of the second date: SCL, or a raster whose zeros are left out. Default: none."),
    ] = None,
    series: SeriesOption = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Probability from which a pixel counts as changed, or as the class of a model with one class. "
            "Default: 0.5."
        ),
    ] = None,
    confidence: Confidence = False,
    entropy: Annotated[
        bool, typer.Option("--entropy", help="Write the entropy of the probabilities to NAME_entropy.tif.")
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Write one band of probabilities per class to NAME_probabilities.tif."),
    ] = False,
    overlap: Annotated[
        float | None,
        typer.Option(help="Share of each tile that the next one covers too. Default: 0.5, and 0 for classification."),
    ] = None,
    shift: Annotated[
        int,
        typer.Option(help="Pixels by which the grid of tiles is moved up and left, to see how results depend on it."),
    ] = 0,
    options: SceneOptions = SceneOptions(),
) -> None:
    """Map classes, or change between two dates, over a scene of any size. Repeat a command to resume it."""
    from spectralgpt_hf.inference import predict_scene
    from spectralgpt_hf.inference.checkpoints import load_model
    from spectralgpt_hf.inference.prediction import predicted_files

    scene, sources, path = options.locate(source, destination, series)
    model, processor = load_model(checkpoint, **options.for_loading)
    chosen = {"confidence": confidence, "entropy": entropy, "probabilities": probabilities}
    layers = [layer for layer, wanted in chosen.items() if wanted]
    written = predict_scene(
        model,
        processor,
        scene,
        path,
        sources=sources,
        after=after,
        mask_after=mask_after,
        threshold=threshold,
        layers=layers,
        overlap=overlap,
        shift=shift,
        **options.for_running,
    )
    _name(predicted_files(written, layers))


@app.command()
@expand_options
def embed(
    checkpoint: Checkpoint,
    source: Source,
    destination: Annotated[
        Path | None,
        typer.Argument(help="File to write: .tif for a map of features, .parquet for a table of one vector per chip."),
    ] = None,
    *,
    series: SeriesOption = False,
    stride: Stride = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of each tile of a map that the next one covers too. Default: 0.5.")
    ] = None,
    dtype: StoredDtype = None,
    options: SceneOptions = SceneOptions(),
) -> None:
    """Compute features of a scene or a series of any size. Repeat an interrupted command to resume it."""
    from spectralgpt_hf.inference import embed_scene
    from spectralgpt_hf.inference.checkpoints import load_encoder
    from spectralgpt_hf.inference.embedding import embedded_files

    scene, sources, path = options.locate(source, destination, series)
    model, processor = load_encoder(checkpoint, **options.for_loading)
    written = embed_scene(
        model,
        processor,
        scene,
        path,
        sources=sources,
        stride=stride,
        overlap=overlap,
        dtype=dtype,
        **options.for_running,
    )
    _name(embedded_files(written))


@app.command()
def search(
    embeddings: Annotated[
        list[str], typer.Argument(help="Tables of `spectralgpt embed` (.parquet), folders of them, or patterns.")
    ],
    like: Annotated[str, typer.Option(help="Site to which others are compared: longitude,latitude in degrees.")],
    top: Annotated[int, typer.Option(help="Number of similar sites.")] = 10,
    output: Annotated[
        Path | None,
        typer.Option(help="GeoJSON file to write with the footprints of the sites (.geojson or .json). Default: none."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Find the sites whose embeddings are most similar to those of one site."""
    from spectralgpt_hf.inference.destinations import check_destination, check_outputs
    from spectralgpt_hf.inference.similar_sites import search_embeddings, write_geojson

    try:
        longitude, latitude = map(float, like.split(","))
    except ValueError:
        raise ValueError(f"`like`: expected longitude,latitude in degrees, got {like!r}.") from None
    if output is not None:
        check_outputs([check_destination(output, (".geojson", ".json"))], embeddings, overwrite)
    site, found = search_embeddings(embeddings, (longitude, latitude), top)
    typer.echo(f"Compared to {site.product_id} at {site.longitude:.5f}, {site.latitude:.5f}:")
    row = "{:>10}  {:>11}  {:>10}  {:<12}  {:<10}  {}".format
    typer.echo(row("similarity", "longitude", "latitude", "grid cell", "date", "product"))
    for other in found:
        date = f"{other.timestamp:%Y-%m-%d}" if other.timestamp else ""
        position = f"{other.longitude:.5f}", f"{other.latitude:.5f}"
        typer.echo(row(f"{other.similarity:.4f}", *position, other.grid_cell, date, other.product_id))
    if output is not None:
        write_geojson(output, found)
        typer.echo(output)


def _name(files: Iterable[Path]) -> None:
    """Print the names of written files, one a line."""
    typer.echo("\n".join(map(str, files)))


def _area(text: str | None) -> str | list[float] | None:
    """Return bounds as numbers, and the name of a file as it is."""
    try:
        return text and [float(number) for number in text.split(",")]
    except ValueError:
        return text
