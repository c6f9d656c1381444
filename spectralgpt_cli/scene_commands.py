"""Commands for whole scenes: predict, embed."""

from pathlib import Path
from typing import Annotated

import typer

from .app import app, names, shows_progress
from .options import Checkpoint, Revision


Source = Annotated[
    str, typer.Argument(help="Scene: a GeoTIFF, a SAFE product, a folder of bands, a STAC item, or a URL of one.")
]
Area = Annotated[
    str | None,
    typer.Option(help="Part of the scene: left,bottom,right,top, or a GeoJSON file of polygons. Default: all of it."),
]
AreaCrs = Annotated[
    str | None,
    typer.Option(
        help="Coordinate reference system of the area, such as EPSG:4326. Default: that of the scene for bounds, "
        "and what the GeoJSON states, else EPSG:4326."
    ),
]
BandNames = Annotated[
    str | None,
    typer.Option(help="Bands that the files hold, in order, with commas. Default: what the files themselves say."),
]
Offset = Annotated[
    float | None,
    typer.Option(
        help="Offset, in digital numbers, that is added to all pixels. Default: what the files or metadata say."
    ),
]
Nodata = Annotated[
    float | None, typer.Option(help="Stored value that means no data. Default: what the files or metadata say.")
]
Mask = Annotated[
    str | None,
    typer.Option(help="SCL for the scene classification of a SAFE product, or a raster whose zeros are left out."),
]
PerTile = Annotated[
    bool,
    typer.Option(
        "--per-tile", help="Measure the limits of normalisation on each tile, not on the scene. This makes seams."
    ),
]
TileSize = Annotated[
    int | None, typer.Option(help="Height and width of the tiles, in pixels. Default: the image size of the model.")
]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Number of tiles that go through the model at once. Default: 32, and one per core on a CPU."),
]
Workers = Annotated[int, typer.Option(help="Number of threads that read and prepare tiles.")]
MemoryLimit = Annotated[int, typer.Option(min=1, help="Memory for pixels, results and GDAL's cache, in MiB.")]
MissingBands = Annotated[
    str | None,
    typer.Option(
        help="What replaces bands that the files lack: error (nothing does), nearest, mean or mask. Default: what the "
        "checkpoint's processor says."
    ),
]
SensorName = Annotated[
    str | None,
    typer.Option("--sensor", help="Sensor that took the scene, such as landsat-8. Default: what its files say."),
]
Match = Annotated[
    str | None,
    typer.Option(
        help="Set to wavelength to let the bands of another sensor serve those that the model expects, by wavelength. "
        "Default: such scenes are refused."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that exist. Files that are read are never replaced.")
]
Device = Annotated[str | None, typer.Option(help="Device of the model: cpu, cuda, mps, ... Default: the fastest one.")]
Dtype = Annotated[str, typer.Option(help="Type of the model's weights: float32, bfloat16 or float16.")]


@app.command()
def predict(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint of a fine-tuned model: a folder, or a name on the Hub (namespace/name).")
    ],
    source: Source,
    destination: Annotated[Path, typer.Argument(help="GeoTIFF to write, which ends with .tif.")],
    after: Annotated[
        str | None, typer.Option(help="Scene of the second date, which change detection needs. Default: none.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Probability from which a pixel counts as changed, or as the class of a model of one class. "
            "Default: 0.5."
        ),
    ] = None,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Write the probability of the predicted class to NAME_confidence.tif.")
    ] = False,
    entropy: Annotated[
        bool, typer.Option("--entropy", help="Write the entropy of the probabilities to NAME_entropy.tif.")
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Write one band of probabilities per class to NAME_probabilities.tif."),
    ] = False,
    area: Area = None,
    area_crs: AreaCrs = None,
    band_names: BandNames = None,
    offset: Offset = None,
    nodata: Nodata = None,
    mask: Mask = None,
    mask_after: Annotated[
        str | None, typer.Option(help="Mask of the second date: SCL, or a raster whose zeros are left out.")
    ] = None,
    missing_bands: MissingBands = None,
    per_tile: PerTile = False,
    tile_size: TileSize = None,
    overlap: Annotated[
        float | None,
        typer.Option(help="Share of each tile that the next one covers too. Default: 0.5, and 0 for classification."),
    ] = None,
    shift: Annotated[
        int, typer.Option(help="Pixels by which the grid of tiles is moved up and left, to see what depends on it.")
    ] = 0,
    batch_size: BatchSize = None,
    workers: Workers = 2,
    memory_limit: MemoryLimit = 1024,
    device: Device = None,
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    revision: Revision = "main",
    sensor: SensorName = None,
    match: Match = None,
) -> None:
    """Map classes, or change between two dates, over a scene of any size. Repeat a command to resume it."""
    from spectralgpt_hf.inference import predict_scene
    from spectralgpt_hf.inference.checkpoints import load_model

    model, processor = load_model(checkpoint, device, dtype, revision=revision, missing_bands=missing_bands)
    chosen = {"confidence": confidence, "entropy": entropy, "probabilities": probabilities}
    written = predict_scene(
        model,
        processor,
        source,
        destination,
        after=after,
        threshold=threshold,
        layers=[layer for layer, wanted in chosen.items() if wanted],
        area=_area(area),
        area_crs=area_crs,
        band_names=names(band_names),
        offset=offset,
        nodata=nodata,
        mask=mask,
        mask_after=mask_after,
        statistics_scope="tile" if per_tile else "scene",
        tile_size=tile_size,
        overlap=overlap,
        shift=shift,
        batch_size=batch_size,
        workers=workers,
        memory_limit=memory_limit * 2**20,
        overwrite=overwrite,
        progress=shows_progress(),
        sensor=sensor,
        match=match,
    )
    typer.echo(written)


@app.command()
def embed(
    checkpoint: Checkpoint,
    source: Source,
    destination: Annotated[
        Path,
        typer.Argument(help="File to write: .tif for a map of features, .parquet for a table of one vector per chip."),
    ],
    stride: Annotated[
        int | None,
        typer.Option(
            help="Distance between neighbouring vectors, in pixels. Default: the patch size for maps, the tile size "
            "for tables."
        ),
    ] = None,
    area: Area = None,
    area_crs: AreaCrs = None,
    band_names: BandNames = None,
    offset: Offset = None,
    nodata: Nodata = None,
    mask: Mask = None,
    missing_bands: MissingBands = None,
    per_tile: PerTile = False,
    tile_size: TileSize = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of each tile of a map that the next one covers too. Default: 0.5.")
    ] = None,
    batch_size: BatchSize = None,
    workers: Workers = 2,
    memory_limit: MemoryLimit = 1024,
    device: Device = None,
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    revision: Revision = "main",
    sensor: SensorName = None,
    match: Match = None,
) -> None:
    """Compute features of a scene of any size. Repeat an interrupted command to resume it."""
    from spectralgpt_hf.inference import embed_scene
    from spectralgpt_hf.inference.checkpoints import load_encoder

    model, processor = load_encoder(checkpoint, device, dtype, revision=revision, missing_bands=missing_bands)
    written = embed_scene(
        model,
        processor,
        source,
        destination,
        stride=stride,
        area=_area(area),
        area_crs=area_crs,
        band_names=names(band_names),
        offset=offset,
        nodata=nodata,
        mask=mask,
        statistics_scope="tile" if per_tile else "scene",
        tile_size=tile_size,
        overlap=overlap,
        batch_size=batch_size,
        workers=workers,
        memory_limit=memory_limit * 2**20,
        overwrite=overwrite,
        progress=shows_progress(),
        sensor=sensor,
        match=match,
    )
    typer.echo(written)


def _area(text: str | None) -> str | list[float] | None:
    """Return bounds as numbers, and the name of a file as it is."""
    try:
        return text and [float(number) for number in text.split(",")]
    except ValueError:
        return text
